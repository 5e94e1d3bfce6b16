"""Run folders as experiments leave them, fabricated: for the tests of the written report."""

from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from common import nifti
from common.cohort import find_subjects
from common.files import write_csv, write_json, write_text
from experiments.base.results import Result, as_rows, reported
from experiments.page import content, html, viewer


def write_run(runs: Path, experiment: str, results: list[Result], *, name: str = "demo", **files: object) -> Path:
    """A finished run with these results; files: further files of its folder, name without suffix -> JSON content."""
    folder = runs / experiment / name
    write_text(folder / "run.lock", "")
    environment = {
        "started": "2026-01-02T03:04:05+00:00",
        "command": [f"{experiment}.py", "--max-subjects", "6"],
        "git_commit": "0123abc",
        "python": "3.11.9",
        "packages": {"numpy": "2.4.6"},
        "processor": "a processor",
        "cores": 2,
        "memory_gib": 4.0,
        "gpus": [],
        "system": "Linux",
    }
    defaults = {
        "config": {"experiment": experiment, "options": {"preset": "demo"}, "model": {"epochs": 3}},
        "data": {"folder": "phantoms", "synthetic": True, "left_out": []},
        "split": {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e", "f"]},
        "environment": [environment],
    }
    for file, value in (defaults | files).items():
        write_json(folder / f"{file}.json", value)
    write_json(folder / "summary.json", as_rows(results))
    return folder


def everything(experiment: str, *, synthetic: bool = True) -> list[Result]:
    """A result beside each of the report's: numbers 0.01 higher, with an interval of 0.1 either way."""
    return [
        Result(f"{experiment}.{name}", entry.value, "a word", None, None, 5, synthetic)
        if isinstance(entry.value, str)
        else Result(
            f"{experiment}.{name}", entry.value, entry.value + 0.01, entry.value - 0.1, entry.value + 0.1, 5, synthetic
        )
        for name, entry in reported()[experiment].items()
    ]


def write_predictions(runs: Path, scans: Path, *, shift: int = 1, **files: object) -> Path:
    """A finished run of table1_baseline whose predictions are the truth, moved by some voxels along x."""
    cohort = find_subjects(scans)
    subjects = {subject.id: subject.fingerprint() for subject in cohort.subjects}
    data = {"folder": str(scans), "layout": cohort.layout, "synthetic": False, "subjects": subjects, "left_out": []}
    config = {"experiment": "table1_baseline", "options": {"preset": "demo", "convention": None}, "model": {}}
    results = everything("table1_baseline", synthetic=False)
    folder = write_run(runs, "table1_baseline", results, **{"data": data, "config": config} | files)
    rows = []
    for number, subject in enumerate(cohort.subjects):
        moved = np.roll(subject.load_labels(), shift, axis=0)
        like = nifti.read_header(subject.label)
        nifti.write(folder / "predictions" / f"{subject.id}.nii.gz", subject.convention.from_classes(moved), like=like)
        dice = {f"dice_{mask}": 0.5 + number / 100 for mask in ("WT", "TC", "NCR", "ED", "ET")}
        dice |= {
            f"volume_{part}_ml_{mask}": 1.0 + number for part in ("truth", "predicted") for mask in ("WT", "TC", "ET")
        }
        rows += [{"case": subject.id, "view": "", **dice}, {"case": subject.id, "view": "inside_crop", **dice}]
    write_csv(folder / "cases.csv", pd.DataFrame(rows))
    return folder


def write_picture(path: Path, *, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.linspace(0, 1, size * size).reshape(size, size))
    return path


def page_of(runs_folder, figures=Path("no figures"), presets=MappingProxyType({})):
    found = content.gather(runs_folder, figures, presets)
    return html.page(found, viewer.viewers(runs_folder), made=datetime(2026, 3, 4, 5, 6, tzinfo=UTC))


def result(reported=None, value=0.5, low=None, high=None, *, synthetic=False, key="e.r", n=9):
    return Result(key, reported, value, low, high, n, synthetic)
