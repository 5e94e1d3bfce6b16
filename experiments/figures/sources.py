"""Where figures come from: the cohorts given or embedded, and finished runs with the scans they were made from."""

import json
import shlex
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common import nifti
from common.cohort import Cohort
from common.dicom.mgmt_cohort import MgmtCohort, find_patients
from common.runs import RunError
from common.subject import Subject
from experiments.base import runs
from experiments.base.options import BothTasks, Refused
from experiments.base.reading import kept
from experiments.base.runs import shown
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.phantoms import phantom_patients
from experiments.segmentation.phantoms import phantom_cohort

MASKS = ("NCR", "ED", "ET", "WT")
TEXTS = ("case", "patient", "id", "view", "contrast", "part", "class", "state")
"""Columns of a run's tables that are no numbers."""


class MissingError(Exception):
    """A figure that cannot be drawn: why, and the command that makes what is missing ("" where there is none)."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.command = command


@dataclass(frozen=True)
class Drawing:
    """A figure as it is drawn. caption: data, run and n, in sentences."""

    figure: Figure
    caption: str
    synthetic: bool


@dataclass(frozen=True, kw_only=True)
class Sources(BothTasks):
    """What figures are drawn from; nothing is read or made before a figure asks for it."""

    @cached_property
    def cohort(self) -> Cohort:
        """The segmentation cohort. Raises MissingError when it cannot be used."""
        self._require("--data", self.data, beside=self.mgmt_data)
        with readable("python -m experiments.cohort"):
            folder = phantom_cohort(self.phantoms, jobs=self.jobs) if self.data is None else self.data
            # Figures have colours for NCR, ED and ET.
            return replace(self, cavity=self.cavity or "background").find(folder)

    @cached_property
    def patients(self) -> MgmtCohort:
        """The MGMT cohort. Raises MissingError when it cannot be used."""
        self._require("--mgmt-data", self.mgmt_data, beside=self.data)
        with readable("python -m experiments.cohort"):
            options = MgmtOptions(phantoms=self.phantoms_mgmt, jobs=self.jobs)
            return find_patients(phantom_patients(options) if self.mgmt_data is None else self.mgmt_data)

    @staticmethod
    def _require(option: str, data: Path | None, *, beside: Path | None) -> None:
        """Phantoms are shown with phantoms only: beside the other task's patients they are not."""
        if data is None and beside is not None:
            raise MissingError(f"no {option} given", f"python -m experiments.figures {option} FOLDER")

    def run(self, experiment: str) -> "FinishedRun":
        """The run that stands for an experiment. Raises MissingError, which names the command, without one."""
        try:
            folder = shown(self.runs, experiment)
        except RunError as error:
            raise MissingError(str(error), f"python -m experiments.report --run {experiment}=") from error
        data = self.mgmt_data if experiment.startswith("mgmt") else self.data
        # What the command line gave; a default needs no word.
        given = {"--data": data, "--runs": None if self.runs == Path("runs") else self.runs}
        words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        command = shlex.join(["python", "-m", f"experiments.{experiment}", *words])
        attempted, _ = runs.attempts(self.runs)
        if experiment in attempted and attempted[experiment]["state"] != "not run":
            command = attempted[experiment]["command"]  # with its preset
        if folder is None:
            raise MissingError(f"no finished run of {experiment} in {self.runs}", command)
        return FinishedRun(folder, experiment, command, self)


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished run. Whatever is read raises MissingError where it is damaged."""

    folder: Path
    experiment: str
    command: str
    sources: Sources

    def json(self, name: str) -> dict | list:
        with self.readable(name):
            return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        """A CSV of the run. columns: those that must be there, as numbers if they are none of TEXTS."""
        with self.readable(name):
            frame = pd.read_csv(self.folder / name, dtype=dict.fromkeys(TEXTS, str))
            if lost := [column for column in columns if column not in frame]:
                raise ValueError(f"{self.folder / name}: expected the columns {', '.join(lost)}, found none")
            if frame.empty:
                raise ValueError(f"{self.folder / name}: expected rows, found none")
            numbers = [column for column in columns if column not in TEXTS]
            return frame.assign(**{column: pd.to_numeric(frame[column]) for column in numbers})

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an .npz of the run."""
        with self.readable(name), (self.folder / name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)

    def entry(self, name: str, key: str) -> Any:
        """One entry of a JSON object of the run."""
        found = self.json(name)
        with self.readable():
            return found[key]

    @property
    def synthetic(self) -> bool:
        return bool(self.entry("data.json", "synthetic"))

    @property
    def n(self) -> dict[str, int]:
        """Subjects or patients by part of the split."""
        return {part: len(self.entry("split.json", part)) for part in ("train", "validation", "test")}

    @property
    def origin(self) -> str:
        """In words, for a caption."""
        data = self.json("data.json")
        with self.readable("data.json"):
            # Explanations of older versions name the ensemble's run and no folder of scans.
            cohort = f"cohort {Path(data['folder']).name}" if "folder" in data else "patients"
            name = "embedded synthetic phantoms" if self.synthetic else cohort
        return f"Run {self.experiment}/{self.folder.name} ({name})."

    def cases(self, inside: str = "") -> pd.DataFrame:
        """Scores of the label maps themselves, one row per case. inside: a run within this one, e.g. seed0/test."""
        frame = self.table(str(Path(inside) / "cases.csv"), ("case", *(f"dice_{mask}" for mask in MASKS)))
        return frame[frame["view"].isna()].drop(columns="view") if "view" in frame else frame

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """The scans that the run was made from, by id: where the run found them, or where this command is told."""
        folder = Path(self.entry("data.json", "folder"))
        name, given = ("--phantoms", self.sources.phantoms) if self.synthetic else ("--data", self.sources.data)
        places = [place for place in (folder, given) if place is not None and place.is_dir()]
        if not places:
            raise MissingError(f"the run {self.folder} shows scans in {folder}, which are not there; {name} names them")
        options = self.entry("config.json", "options")
        with self.readable():
            cohort = kept(options).find(places[0])
        return {subject.id: subject for subject in cohort.subjects}

    def subject(self, case: str) -> Subject:
        """A case's scans. Raises MissingError when they are not those that the run was made from."""
        if case not in self.subjects:
            raise MissingError(f"the run {self.folder} has scored {case}, whose scans are not there", self.command)
        subject, wanted = self.subjects[case], self.entry("data.json", "subjects")
        with self.readable():
            if subject.fingerprint() != wanted[case]:
                raise ValueError(f"{subject.label}: the scans of {case} have changed since the run {self.folder}")
        return subject

    def prediction(self, subject: Subject, *, inside: str = "", view: str = "") -> np.ndarray:
        """Predicted classes (x, y, z) on the scan's grid. inside: a run within this one. view: of the predictions."""
        path = self.folder / inside / "predictions" / view / f"{subject.id}.nii.gz"
        if not path.exists():
            raise MissingError(
                f"the run {self.folder} has no predicted labels of {subject.id}, expected {path}",
                f"{self.command} --fresh",
            )
        with self.readable():
            return subject.convention.to_classes(nifti.read(path).data)

    def readable(self, name: str = "") -> AbstractContextManager[None]:
        return readable(f"{self.command} --fresh", self.folder / name)


@contextmanager
def readable(command: str, place: Path | None = None) -> Iterator[None]:
    """What fails within, because a file is missing, unreadable or not what it should be, is a figure's MissingError.

    place: what is read, named in the reason where the error does not.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingError(f"expected the file {error.filename}, found none", command) from error
    except KeyError as error:
        raise MissingError(f"{_named(place)}expected an entry {error}, found none", command) from error
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error, Refused) as error:
        text = str(error)
        raise MissingError(text if str(place) in text else f"{_named(place)}{text}", command) from error


def _named(place: Path | None) -> str:
    return "" if place is None else f"{place}: "
