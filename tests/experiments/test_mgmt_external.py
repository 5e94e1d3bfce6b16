"""The external test on tiny cohorts: what the internal test rewards is a bright spot, a mark of the scanner in one
hospital outside, and of the status in another."""

import json
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("monai", reason="needs the extra mgmt")

from experiments import mgmt_external
from experiments.mgmt import study
from tests.experiments.conftest import here
from tests.layouts import UCSF_COLUMNS, UPENN_COLUMNS

MODEL = {
    "image-size": ("32", "32"),
    "filters": ("4",),
    "epochs": ("6",),
    "learning-rate": ("3e-3",),
    "images": ("5",),
    "batch-size": ("4",),
}
AFFINE = np.diag([-0.75, -0.5, 2.5, 1.0])
N = 16


def write_scan(folder, name, words, *, spot, seed):
    """The head of conftest.write_patient as volumes, axes to the left, back and head."""
    rng = np.random.default_rng(seed)
    images = np.zeros((9, 36, 40), np.int16)
    images[1:-1, 3:-3, 3:-3] = rng.integers(300, 600, (7, 30, 34))
    if spot:
        images[1:-1, 8:18, 20:30] += 900
    folder.mkdir(parents=True)
    for word in words:
        nib.save(nib.Nifti1Image(images.transpose(2, 1, 0), AFFINE), folder / f"{name}_{word}.nii.gz")


def write_table(path, columns, rows):
    pd.DataFrame(rows).reindex(columns=columns).to_csv(path, index=False)


def ucsf(folder):
    """The spot is the scanner's: every second patient of either status has it. N can be tested, and six others."""
    rows = []
    for number in range(N + 6):
        label = number // 2 % 2
        name = f"UCSF-PDGM-{number:04}" + ("_FU016d" if number == N else "")
        write_scan(folder / f"{name}_nifti", name, ("FLAIR", "T1", "T1c", "T2"), spot=number % 2, seed=100 + number)
        row = {"ID": f"UCSF-PDGM-{number:03}", "Sex": "FM"[number % 3 == 0], "Age at MRI": 40 + number}
        row |= {"MGMT status": ("negative", "positive")[label], "IDH": "wildtype"}
        rows.append(row)
    rows[N]["ID"] += "_FU016d"
    rows[N + 1]["MGMT status"] = "indeterminate"
    rows[N + 2]["MGMT status"] = "unknown"
    rows[N + 3]["IDH"] = "IDH1 p.R132H"
    rows[N + 4]["BraTS21 ID"] = "BraTS2021_00007"
    del rows[N + 5]
    write_table(folder / "UCSF-PDGM-metadata_v5.csv", UCSF_COLUMNS, rows)
    return folder


def upenn(folder):
    """The spot is the status's. The last patient is in the competition, as the organisers' mapping says."""
    rows = []
    for number in range(N + 1):
        for time in ("_11", "_21") if number == 0 else ("_11",):
            name = f"UPENN-GBM-{number:05}{time}"
            place = folder / "images_structural" / name
            write_scan(place, name, ("FLAIR", "T1", "T1GD", "T2"), spot=number % 2, seed=200 + number)
            row = {"ID": name, "Gender": "F", "Age_at_scan_years": 61.5, "IDH1": "Wildtype"}
            rows.append(row | {"MGMT": ("Unmethylated", "Methylated")[number % 2]})
    write_table(folder / "UPENN-GBM_clinical_info_v2.1.csv", UPENN_COLUMNS, rows)
    scanners = [
        {"ID": row["ID"], "Manufacturer": "SIEMENS", "Model": f"M{place % 2}"} for place, row in enumerate(rows)
    ]
    write_table(folder / "UPENN-GBM_acquisition.csv", ["ID", "Manufacturer", "Model"], scanners)
    mapping = [{"PatientID on TCIA Radiology Portal": f"UPENN-GBM-{N:05}", "BraTS2021 ID": "BraTS2021_00011"}]
    write_table(folder / "mapping.csv", list(mapping[0]), mapping)
    return folder


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    return {"ucsf": ucsf(folder / "ucsf"), "upenn": upenn(folder / "upenn")}


def call(work, *arguments):
    """Run the command in this process."""
    from experiments.mgmt import external
    from experiments.mgmt.training import train

    words = [
        "mgmt_external",
        "--preset",
        "demo",
        "--jobs",
        "1",
        "--runs",
        work / "runs",
        "--prepared",
        work / "prepared",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in (*words, *arguments)])
        patch.setattr(study, "run", here(train))
        patch.setattr(external, "run_trainings", here(train))
        mgmt_external.main()


def sites(places):
    return ["--sites", *(f"{name}={folder}" for name, folder in places.items())]


@pytest.fixture(scope="session")
def work(tmp_path_factory, competition, places):
    work = tmp_path_factory.mktemp("external")
    settings = [word for name, values in MODEL.items() for prefix in ("flair", "t1w") for word in
                (f"--model.{prefix}.{name}", *values)]  # fmt: skip
    call(
        *(work, "--data", competition, *settings, "--model.fractions", "0.4", "0.2", "0.4"),
        *(*sites(places), "--overlap", places["upenn"] / "mapping.csv", "--idh-wildtype"),
    )
    return work


@pytest.fixture(scope="session")
def folder(work):
    (found,) = work.glob("runs/mgmt_ensemble/*/external/*")
    return found


def summary(folder):
    return {row["key"].partition(".")[2]: row for row in json.loads((folder / "summary.json").read_text())}


def test_x(folder, capsys):
    from experiments.mgmt.external import show

    show(folder)
    with capsys.disabled():
        print(capsys.readouterr().out)
