"""Which cases the page's slice viewers show: the best, the median and the worst of a segmentation run."""

from dataclasses import dataclass
from pathlib import Path

from common import nifti
from common.cohort import CohortError
from common.nifti import ScanError
from common.runs import RunError
from experiments.base.reading import kept
from experiments.base.results import read_cases
from experiments.base.runs import read, shown
from experiments.page import slices

# The first of these with label maps is shown: the final model before its forerunners.
SOURCES = (("table2_final", "seed0/test"), ("table1_baseline", ""), ("unet3d", ""), ("unet25d", ""))
RANK_BY = "dice_WT"
SHOWN_DICE = ("WT", "TC", "NCR", "ED", "ET")


class ViewerError(Exception):
    """No viewer can be made; the message says why."""


@dataclass(frozen=True)
class CaseView:
    """A viewer of one case. rank: ``best``, ``median`` or ``worst``; dice: mask -> value; page: HTML of its frame."""

    rank: str
    case: str
    dice: dict[str, float]
    page: str


@dataclass(frozen=True)
class Viewers:
    """The viewers of one run, or the reason for having none. n: cases that were ranked."""

    experiment: str = ""
    n: int = 0
    synthetic: bool = False
    cases: tuple[CaseView, ...] = ()
    reason: str = ""


def viewers(runs: Path) -> Viewers:
    """Viewers of the first run of SOURCES that has label maps, or why it cannot be shown."""
    for experiment, part in SOURCES:
        try:
            root = shown(runs, experiment)
        except RunError as error:
            return Viewers(experiment, reason=str(error))
        if root is None or not (root / part / "predictions").is_dir():
            continue
        try:
            return _of_run(experiment, root, root / part)
        except (ViewerError, CohortError, ScanError, OSError, ValueError) as error:
            return Viewers(experiment, reason=f"{root / part}: {error}")
        except KeyError as error:
            return Viewers(experiment, reason=f"{root / part}: expected {error} in its files, found no such entry")
    return Viewers(reason=f"no finished run with label maps of {', '.join(name for name, _ in SOURCES)}")


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
    ranked = read_cases(folder).dropna(subset=RANK_BY).sort_values(RANK_BY, ascending=False, kind="stable")
    views = []
    for position, rank in chosen(len(ranked)).items():
        row = ranked.iloc[position]
        subject = subjects.get(row["case"])
        if subject is None or subject.fingerprint() != data["subjects"][row["case"]]:
            raise ViewerError(f"the scans of {row['case']} in {scans} are no longer those that the run has seen")
        stored = nifti.read(folder / "predictions" / f"{subject.id}.nii.gz").data
        page = slices.draw(subject, subject.load_labels(), subject.convention.to_classes(stored))
        dice = {name: float(row[f"dice_{name}"]) for name in SHOWN_DICE}
        views.append(CaseView(rank, subject.id, dice, page))
    return Viewers(experiment, len(ranked), bool(data["synthetic"]), tuple(views))


def chosen(n: int) -> dict[int, str]:
    """Position -> rank among n cases, best first; of an even number the median is the better one of the two."""
    places = {(n - 1) // 2: "median", n - 1: "worst", 0: "best"}  # of few cases one has several ranks
    return {position: places[position] for position in sorted(places) if 0 <= position < n}
