"""A run's cohort as nnU-Net raw: images, labels with nested regions, and the run's split."""

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

from common import nifti
from common.cohort import find_subjects
from common.files import read_json, write_json
from common.labels import CLASSES, MSD, REGIONS
from common.progress import counted
from common.runs import version
from common.subject import CONTRASTS, Subject, examine
from experiments.base.options import Refused, leave_out
from experiments.base.trainings import given
from experiments.exporting import card
from experiments.exporting.files import RECORD, new_folder
from experiments.exporting.source import MGMT, kind_of
from experiments.segmentation.finished import Finished, read_run, require_finished
from segresnet_monai.config import NETWORKS

CONVENTION = MSD
"""nnU-Net wants labels without gaps, and for regions an order from the whole to its parts: 1 ED, 2 NCR, 3 ET."""


def write(run: Path, data: Path | None, folder: Path, *, regions: bool = True) -> None:
    """Write the subjects of a run's split, the training and validation parts to train on and the test part beside them.

    data: where the cohort lies now. regions: the labels are nested regions, in place of NCR, ED and ET. Raises Refused
    when a subject is missing, changed or cannot be read, or the run is one of MGMT, RunError when it has not ended.
    """
    if kind_of(run) == MGMT:
        raise Refused(f"{run}: expected the run of a segmentation network, found one that classifies MGMT")
    described = read_run(run)
    require_finished(described)
    place = data or Path(described.data["folder"])
    cohort = described.reading.find(place)
    found = {subject.id: subject for subject in cohort.subjects}
    trained, tested = described.seen, described.split["test"]
    wanted = [*trained, *tested]
    if lost := [name for name in wanted if name not in found]:
        raise Refused(f"{place}: expected the {len(wanted)} subjects of {run}, {len(lost)} are not there: {lost[:5]}")
    changed = [name for name in wanted if found[name].fingerprint() != described.data["subjects"].get(name)]
    if changed:
        raise Refused(f"{place}: expected the scans that {run} was made on, {len(changed)} are others: {changed[:5]}")
    problems = [problem for name in wanted for problem in examine(found[name]).problems]
    leave_out(problems, place, allowed=False, who="subject")
    with new_folder(folder, run) as made:
        write_cases([found[name] for name in trained], made, "Tr")
        write_cases([found[name] for name in tested], made, "Ts")
        write_json(made / "dataset.json", description(described.data, len(trained), regions=regions))
        folds = _folds(described)
        write_json(made / "splits_final.json", [{"train": f["train"], "val": f["validation"]} for f in folds])
        _check(made, {name: found[name] for name in trained})
        (made / card.NAME).write_text(_text(run, len(folds), len(trained), len(tested)), encoding="utf-8")
        write_json(made / RECORD, {"format": "nnunet-dataset", "folder": run.resolve(), "version": version()})
    print(f"{len(trained)} cases to train on, {len(tested)} to test; folds of the run's own: {len(folds)}")
    print(f"written: {folder}")


def _folds(run: Finished) -> list[dict[str, list[str]]]:
    """The split of the run, or of each of its networks."""
    if not (run.folder / NETWORKS).exists():
        return [run.split]
    return [
        given(run.folder / name, "split", train=list, validation=list)
        for name in read_json(run.folder / NETWORKS, list)
    ]


def write_cases(subjects: Sequence[Subject], folder: Path, part: str) -> None:
    """Write images and labels of subjects as nnU-Net raw; part: Tr to train and validate on, Ts to test."""
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    for each in (images, labels):
        each.mkdir()
    for subject in counted(subjects, images.name, total=len(subjects), unit="case"):
        for number, contrast in enumerate(CONTRASTS):
            _copy(subject, contrast, images / f"{subject.id}_{number:04}.nii.gz")
        scan = nifti.read(subject.label)
        nifti.write(labels / f"{subject.id}.nii.gz", CONVENTION.from_classes(subject.load_labels()), like=scan)


def _copy(subject: Subject, contrast: str, target: Path) -> None:
    """A scan as it is, byte by byte; one of a file that holds all four is written anew."""
    source = subject.images[contrast]
    if subject.channels is not None:
        scan = subject.read([contrast])[0][contrast]
        nifti.write(target, scan.data, like=scan)
    elif source.name.lower().endswith(".gz"):
        shutil.copyfile(source, target)
    else:
        with source.open("rb") as read, gzip.open(target, "wb", compresslevel=1) as written:
            shutil.copyfileobj(read, written)


def description(data: dict, n: int, *, regions: bool) -> dict:
    """dataset.json of n training cases. data: the cohort's layout, and whether it is synthetic."""
    values = dict(zip(CLASSES, CONVENTION.values, strict=True))
    labels: dict = {"background": 0}
    if regions:
        for name, members in reversed(REGIONS.items()):
            inside = sorted(values[CLASSES[index]] for index in members)
            labels[name] = inside if len(inside) > 1 else inside[0]
    else:
        labels |= {name: values[name] for name in sorted(CLASSES[1:], key=values.get)}
    return {
        "channel_names": {str(number): contrast for number, contrast in enumerate(CONTRASTS)},
        "labels": labels,
        # Written over one another in this order: what of WT is no TC is ED, what of TC is no ET is NCR.
        **({"regions_class_order": [values["ED"], values["NCR"], values["ET"]]} if regions else {}),
        "numTraining": n,
        "file_ending": ".nii.gz",
        "description": "synthetic phantoms" if data.get("synthetic") else f"cohort in the layout {data.get('layout')}",
    }


def _check(folder: Path, subjects: dict[str, Subject]) -> None:
    """Raises Refused unless the suite reads from the folder what it was written from."""
    again = {subject.id: subject for subject in find_subjects(folder).subjects}
    for name, subject in subjects.items():
        if name not in again or (again[name].load_labels() != subject.load_labels()).any():
            raise Refused(f"{folder.name}: expected {name} with its labels, found it missing or with others")


def _text(run: Path, n_folds: int, n_trained: int, n_tested: int) -> str:
    folds = "one fold" if n_folds == 1 else f"{n_folds} folds"
    return f"""# The cohort of {run.resolve().name} for nnU-Net

{n_trained} cases to train and validate on (imagesTr, labelsTr), {n_tested} that the run was tested on (imagesTs,
labelsTs; nnU-Net does not look at those labels). Images are the cohort's own files. Labels: 1 ED, 2 NCR, 3 ET.

Call the folder DatasetNNN_Name and put it into nnUNet_raw. splits_final.json is the run's split by patient, {folds}:
after nnU-Net's preprocessing copy it into the data set's folder in nnUNet_preprocessed, else nnU-Net draws its own.

{card.INTENDED_USE}
"""
