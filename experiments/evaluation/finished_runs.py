"""Finished runs as methods: label maps of the cases that their networks have not seen, folds of one study pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from joblib import Parallel, delayed

from common.files import read_json
from common.identity import contents
from common.nifti import ScanError
from common.progress import counted
from common.runs import RunError
from common.subject import Subject
from experiments.base.options import Refused, gathered
from experiments.base.reading import Reading
from experiments.base.runs import preset_of
from experiments.evaluation.label_maps import Method
from experiments.segmentation.fine_tuning import SEEN_IN, Seen, seen_by
from experiments.segmentation.finished import FOLDS, Finished, read_run, require_finished


@dataclass(frozen=True)
class Runs:
    """A run, or the runs of a study's folds, under one name. files: label map by case. prints: of the scans by case."""

    name: str
    folder: Path
    members: tuple[Finished, ...]
    files: Mapping[str, Path]
    prints: Mapping[str, str]

    @property
    def data(self) -> Path:
        """Folder of the scans, where they lay when the run was made."""
        return Path(self.members[0].data["folder"])

    @property
    def reading(self) -> Reading:
        """How the cohort was read."""
        return self.members[0].reading

    @property
    def seen(self) -> set[str]:
        """Ids of the subjects that one of its networks was trained or validated on."""
        return {subject for run in self.members for subject in run.seen}

    @property
    def training(self) -> str:
        """What its networks were made from, in a sentence."""
        trained, chose = ({id for run in self.members for id in run.split[part]} for part in SEEN_IN)
        before = {str(each["id"]) for run in self.members for each in run.data.get("seen", [])}
        presets = " / ".join(dict.fromkeys(filter(None, (preset_of(run.folder) for run in self.members))))
        who = "a run" if len(self.members) == 1 else f"{len(self.members)} folds"
        return (
            f"{who} of the suite ({self.members[0].experiment}), trained on {len(trained)} of these patients and "
            f"validated on {len(chose)}"
            + f", from weights that {len(before)} others had made" * bool(before)
            + f"; {presets}" * bool(presets)
            + "; each label map is of a patient whom its network has not seen"
        )

    def method(self, subjects: Mapping[str, Subject]) -> Method:
        """Its label maps, which have the values of the cohort's masks. Raises Refused unless the cohort's scans and
        masks are those that the run has scored."""
        lost = [case for case in self.files if case not in subjects]
        other = [case for case in self.files if case in subjects and subjects[case].fingerprint() != self.prints[case]]
        if lost or other:
            raise Refused(
                f"{self.folder}: expected the scans and masks that it has scored, of {len(self.files)} cases "
                f"{len(lost)} are not in the cohort and {len(other)} differ: {', '.join([*lost, *other][:5])}"
            )
        conventions = {case: subjects[case].convention for case in self.files}
        ground = "the cohort's masks, by its run"
        return Method(self.name, self.folder, self.files, conventions, ground, training=self.training)


def with_seen(method: Method, subjects: Sequence[Subject], *, n_jobs: int) -> Method:
    """The method, and whom of the subjects its network has seen, where a run of the suite has predicted (it is told by
    files, scans and patients' names). Raises Refused when scans cannot be read, RunError when the run is damaged."""
    if method.run is None or not (method.run / "split.json").is_file():
        return method
    seen = Seen(seen_by(method.run))

    def why(subject: Subject) -> str:
        try:
            return seen.why(subject, lambda: contents(subject.read()[0]).values())
        except (ScanError, OSError) as error:
            raise Refused(f"{subject.id}: cannot tell whether {method.name} has seen it: {error}") from error

    told = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(delayed(why)(each) for each in subjects)
    reasons = counted(told, f"checking whom {method.name} has seen", total=len(subjects), unit="patient")
    known = frozenset(subject.id for subject, reason in zip(subjects, reasons, strict=True) if reason)
    own = f"{method.run} ({preset})" if (preset := preset_of(method.run)) else method.run
    training = f"predicted by {own}, whose network was trained or validated on {len(known)} of these patients"
    return replace(method, seen=known, training=method.training if method.of_phantoms else training)


def read(given: Sequence[tuple[str, Path]]) -> list[Runs]:
    """Finished runs, or studies of several folds, by name. Raises RunError, of all at once, when one is not."""
    found, refused = gathered([partial(_read, name, folder) for name, folder in given])
    if refused:
        raise RunError("\n".join(refused))
    return found


def _read(name: str, folder: Path) -> Runs:
    members = tuple(map(_finished, _folders(folder)))
    files: dict[str, Path] = {}
    prints: dict[str, str] = {}
    for run in members:
        place = run.scored
        for case in run.cases()["case"]:
            file = place / "predictions" / f"{case}.nii.gz"
            if not file.exists():
                raise RunError(f"{file}: expected the label map of a case that the run has scored, found none")
            if case in files:
                raise RunError(f"{folder}: expected every case in one fold, found {case} in several")
            if case not in run.data["subjects"]:
                raise RunError(f"{run.folder / 'data.json'}: expected an entry of {case}, which was scored, found none")
            files[case], prints[case] = file, run.data["subjects"][case]
    return Runs(name, folder, members, files, prints)


def _folders(folder: Path) -> list[Path]:
    """The run's own folder, or those of its study's folds, which lie beside it where they have been moved with it."""
    if not (folder / FOLDS).exists():
        return [folder]
    try:
        listed = [Path(each) for each in read_json(folder / FOLDS, list)]
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / FOLDS}: expected the folders of folds, found: {error}") from error
    return [beside if (beside := folder.parent / each.name).exists() else each for each in listed]


def _finished(folder: Path) -> Finished:
    run = read_run(folder)
    require_finished(run)
    return run
