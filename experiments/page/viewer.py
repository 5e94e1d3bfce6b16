"""Which cases the page's slice viewer shows: the best, the median and the worst of a segmentation run."""

from dataclasses import dataclass
from pathlib import Path

from common import nifti
from common.cohort import CohortError
from common.nifti import ScanError
from common.runs import RunError
from experiments.base.reading import kept
from experiments.base.results import read_cases
from experiments.base.runs import read, shown
from experiments.drawing.scans import RANK_BY, chosen, ranked, which
from experiments.page import slices
from experiments.page.cases import part
from experiments.page.slices import Sprites

SOURCES = ("table2_final", "table1_baseline", "unet3d", "unet25d", "beyond")
"""The first of these with label maps is shown: the final model before its forerunners."""
SHOWN_DICE = (*RANK_BY, "TC", "WT")


class ViewerError(Exception):
    """No viewer can be made; the message says why."""


@dataclass(frozen=True)
class CaseView:
    """One case. rank: ``best``, ``median`` or ``worst``; mean: Dice by which it is ranked; dice: mask -> value."""

    rank: str
    case: str
    mean: float
    dice: dict[str, float]
    sprites: Sprites


@dataclass(frozen=True)
class Viewers:
    """The cases of one run, or the reason for having none. n: cases that were ranked."""

    experiment: str = ""
    n: int = 0
    synthetic: bool = False
    cases: tuple[CaseView, ...] = ()
    reason: str = ""

    @property
    def which(self) -> str:
        """What is shown, at a sentence's beginning."""
        return which([view.rank for view in self.cases], self.n)


def viewers(runs: Path) -> Viewers:
    """Viewers of the first run of SOURCES that has label maps, or why it cannot be shown."""
    for experiment in SOURCES:
        try:
            root = shown(runs, experiment)
        except RunError as error:
            return Viewers(experiment, reason=str(error))
        if root is None or not (folder := part(experiment, root)).joinpath("predictions").is_dir():
            continue
        try:
            return _of_run(experiment, root, folder)
        except (ViewerError, CohortError, ScanError, OSError, ValueError) as error:
            return Viewers(experiment, reason=f"{folder}: {error}")
        except KeyError as error:
            return Viewers(experiment, reason=f"{folder}: expected {error} in its files, found no such entry")
    return Viewers(reason=f"no finished run with label maps of {', '.join(SOURCES)}")


def _of_run(experiment: str, root: Path, folder: Path) -> Viewers:
    data, wrong = read(root, "data.json", dict)
    config, also_wrong = read(root, "config.json", dict)
    if wrong or also_wrong:
        raise ViewerError(wrong or also_wrong)
    scans = Path(data["folder"])
    if not scans.is_dir():
        raise ViewerError(f"the folder of its scans, {scans}, is gone (or is not where this command was started)")
    cohort = kept(config["options"]).find(scans)
    subjects = {subject.id: subject for subject in cohort.subjects}
    order = ranked(read_cases(folder))
    if order.empty:
        raise ViewerError(f"expected a case with Dice of {', '.join(RANK_BY)} in cases.csv, found none")
    views = []
    for position, rank in chosen(len(order)).items():
        row = order.iloc[position]
        subject = subjects.get(row["case"])
        if subject is None or subject.fingerprint() != data["subjects"][row["case"]]:
            raise ViewerError(f"the scans of {row['case']} in {scans} are no longer those that the run has seen")
        stored = nifti.read(folder / "predictions" / f"{subject.id}.nii.gz").data
        sprites = slices.draw(subject, subject.load_labels(), subject.convention.to_classes(stored))
        dice = {name: float(row[f"dice_{name}"]) for name in SHOWN_DICE}
        views.append(CaseView(rank, subject.id, float(row["mean"]), dice, sprites))
    return Viewers(experiment, len(order), bool(data["synthetic"]), tuple(views))
