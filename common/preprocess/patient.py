"""One's own patient as DICOM: series in; a segmentation as NIfTI or DICOM out, on the grid of every series.

What is done, and what is left of each step in the folder of steps: the series are told apart (``series.json``), brought
to the reference, T1ce, by a rigid motion (``transforms``), resampled in one go to cubic voxels of 1 mm along the
patient's axes, outside the brain 0 (``scans``, ``brain_mask.nii.gz``), segmented (``segmentation.nii.gz``), brought
back to each series' own grid (``on_series``), and pictured (``quality.png``).
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import nifti, patient
from common.arguments import PatientArguments
from common.dicom import segmentation
from common.dicom.extras import load_module
from common.files import write_json
from common.labels import CONVENTIONS
from common.metrics import volume_ml
from common.patient import Trained, check_output
from common.preprocess import space
from common.preprocess.brain import brain_mask, check_choice
from common.preprocess.contrasts import Choice, choose
from common.preprocess.registration import Motion, register
from common.preprocess.series import find_series
from common.scoring import MEMBERS
from common.subject import CONTRASTS

if TYPE_CHECKING:
    import SimpleITK as sitk

REFERENCE = "T1ce"
STRONG_MM, STRONG_DEGREES = 20.0, 15.0
"""A motion beyond is worth a look: heads in one session move less, and a search gone wrong more."""


@dataclass(frozen=True)
class Prepared:
    """A patient on the working grid.

    scans: files by contrast. images: series as they were measured. placed: (z, y, x) on the working grid. grid: of the
    working grid. motions: by contrast, all but the reference. notes: for the user.
    """

    folder: Path
    choice: Choice
    reference: str
    scans: Mapping[str, Path]
    images: Mapping[str, sitk.Image]
    placed: Mapping[str, np.ndarray]
    grid: sitk.Image
    motions: Mapping[str, Motion]
    notes: tuple[str, ...]

    def draw(self, labels: np.ndarray, *, mark: str = "") -> None:
        """Write the picture by which to see whether all went well. labels: classes (z, y, x) on the working grid."""
        from common.preprocess.picture import draw  # matplotlib takes a second

        draw(
            self.folder / "quality.png",
            self.placed,
            labels,
            reference=self.reference,
            voxel_mm=self.grid.GetSpacing()[0],
            captions={name: str(motion) for name, motion in self.motions.items()},
            mark=mark,
        )


def check(arguments: PatientArguments) -> None:
    """Before any work: that the arguments fit each other, and what they need is there.

    Raises ValueError or OSError as :func:`common.patient.check_files`; MissingToolError for a package.
    """
    output, is_dicom = arguments.output, arguments.is_dicom_out
    if arguments.dicom is None:
        for option, value in (("--brain-mask", arguments.brain_mask), ("--steps", arguments.steps)):
            if value is not None:
                raise ValueError(f"expected --dicom beside {option} {value}, received none")
        if is_dicom:
            raise ValueError(f"{output}: expected --dicom for a segmentation as DICOM, which refers to series")
        patient.check_files(arguments)
        check_output(arguments.picture_file)
        return
    if arguments.data is not None:
        raise ValueError("expected --dicom or --data, received both")
    if not arguments.dicom.is_dir():
        raise ValueError(f"--dicom {arguments.dicom}: expected a folder of DICOM series, found none")
    space.load_sitk()
    if is_dicom:
        load_module("highdicom", extra="preprocess")
    else:
        nifti.check_name(output)
    check_choice(arguments.brain_mask)
    inside = arguments.dicom.resolve()
    for path in (output, arguments.steps_folder):
        if path.resolve().is_relative_to(inside):
            raise ValueError(f"{path}: expected a place to write to outside of the patient's folder {arguments.dicom}")
    for path in (output, arguments.report_file) if is_dicom else (output,):
        check_output(path)
    check_output(arguments.steps_folder / "series.json")


def segment(arguments: PatientArguments, trained: Trained, *, network: str) -> dict[str, float]:
    """As :func:`common.patient.segment`, of a patient as NIfTI or as DICOM. network: what DICOM calls the algorithm.

    Of DICOM the segmentation and the volumes are those on the reference series' grid; other series' lie among the
    steps. Raises DicomError, with what every series was taken for, when they cannot be told apart.
    """
    check(arguments)
    if arguments.dicom is None:
        return patient.segment(arguments, trained.recipe, trained.predict, picture=arguments.picture_file)
    assert arguments.brain_mask is not None  # without one, check has raised
    prepared = prepare(
        arguments.dicom,
        arguments.steps_folder,
        contrasts=trained.recipe.contrasts,
        named=arguments.scans,
        mask=arguments.brain_mask,
        is_returned_as_dicom=arguments.is_dicom_out,
    )
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    inner = PatientArguments(
        run=arguments.run,
        output=prepared.folder / "segmentation.nii.gz",
        labels=arguments.labels,
        flair=prepared.scans.get("FLAIR"),
        t1=prepared.scans.get("T1"),
        t1ce=prepared.scans.get("T1ce"),
        t2=prepared.scans.get("T2"),
    )
    patient.segment(inner, trained.recipe, trained.predict)
    labels = CONVENTIONS[arguments.labels].to_classes(nifti.read(inner.output).data)
    return give_back(prepared, labels, arguments, network=network)


def prepare(
    dicom: Path,
    folder: Path,
    *,
    contrasts: Sequence[str],
    named: Mapping[str, str | Path],
    mask: str,
    is_returned_as_dicom: bool = False,
) -> Prepared:
    """Series to scans (x, y, z) on one grid, co-registered, outside the brain 0; every step is written to ``folder``.

    What an earlier call has left there is removed, but not a mask that is given from there.
    Raises DicomError, ValueError or ScanError when the series cannot be told apart, read or referred to, or the mask
    is none.
    """
    _remove_steps(folder, spared=Path(mask))
    choice = choose(find_series(dicom), contrasts, named)
    reference = REFERENCE if REFERENCE in choice.series else contrasts[0]
    if is_returned_as_dicom:
        segmentation.check_sources(choice.series[reference].folder)
    images = {name: space.series_image(found.folder) for name, found in choice.series.items()}
    grid = space.working_grid(images[reference])
    still = space.load_sitk().Euler3DTransform()
    placed = {reference: space.to_grid(images[reference], grid, still)}
    brain = brain_mask(mask, placed[reference])
    motions, notes = {}, list(choice.notes)
    for name, image in images.items():
        notes += (f"{name}: {note}" for note in choice.series[name].folder.notes)
        if name == reference:
            continue
        motions[name] = motion = register(images[reference], image)
        placed[name] = space.to_grid(image, grid, motion.transform)
        notes.append(f"{name}: {motion}")
        if motion.moved_mm > STRONG_MM or motion.turned_degrees > STRONG_DEGREES:
            notes.append(f"{name}: far for a head in one session, look at {folder / 'quality.png'}")
    arrays = {name: space.load_sitk().GetArrayFromImage(placed[name]) for name in contrasts}
    if brain is not None:
        arrays = {name: np.where(brain, array, np.float32(0)) for name, array in arrays.items()}
        space.write_nifti(folder / "brain_mask.nii.gz", space.like(brain.astype(np.uint8), grid))
    scans = {name: folder / "scans" / f"{name}.nii.gz" for name in contrasts}
    for name, path in scans.items():
        space.write_nifti(path, space.like(arrays[name], grid))
    _write_steps(folder, choice, reference, motions)
    return Prepared(folder, choice, reference, scans, images, arrays, grid, motions, tuple(notes))


def _remove_steps(folder: Path, *, spared: Path) -> None:
    """Of two calls' steps nobody could tell which belong together. By their names: the folder may hold other files."""
    names = ["series.json", "brain_mask.nii.gz", "segmentation.nii.gz", "quality.png"]
    for one in CONTRASTS:
        names += [f"scans/{one}.nii.gz", f"on_series/{one}_seg.nii.gz"]
        names += [f"transforms/{one}_to_{other}.tfm" for other in CONTRASTS]
    for path in (folder / name for name in names):
        if path.resolve() != spared.resolve():
            path.unlink(missing_ok=True)


def _write_steps(folder: Path, choice: Choice, reference: str, motions: Mapping[str, Motion]) -> None:
    (folder / "transforms").mkdir(parents=True, exist_ok=True)
    for name, motion in motions.items():
        path = folder / "transforms" / f"{reference}_to_{name}.tfm"
        with space.in_words(f"to write {path}"):
            space.load_sitk().WriteTransform(motion.transform, str(path))
    write_json(
        folder / "series.json",
        {
            "reference": reference,
            "chosen": {
                name: {
                    "series_instance_uid": found.uid,
                    "folder": found.folder.path,
                    "images": len(found.folder.images),
                    "registration": str(motions[name]) if name in motions else "the reference",
                    "mutual_information_gain": motions[name].gain if name in motions else None,
                }
                for name, found in choice.series.items()
            },
            "series": [
                {"series_instance_uid": reading.found.uid, "taken_for": reading.contrast, "reading": str(reading)}
                for reading in choice.readings
            ],
        },
    )


def give_back(prepared: Prepared, labels: np.ndarray, arguments: PatientArguments, *, network: str) -> dict[str, float]:
    """Write classes (x, y, z) on the working grid to every series' own, the picture, and the output.

    Returns the volume of each label and region in ml on the reference series.
    """
    found = space.like(np.ascontiguousarray(labels.transpose(2, 1, 0)), prepared.grid)
    convention = CONVENTIONS[arguments.labels]
    on_series = {}
    for name, image in prepared.images.items():
        motion = prepared.motions.get(name)
        back = space.load_sitk().Euler3DTransform() if motion is None else motion.transform.GetInverse()
        on_series[name] = space.labels_to_series(found, image, back)
        stored = space.like(convention.from_classes(on_series[name]), image)
        space.write_nifti(prepared.folder / "on_series" / f"{name}_seg.nii.gz", stored)
    own, image = on_series[prepared.reference], prepared.images[prepared.reference]
    prepared.draw(labels.transpose(2, 1, 0), mark=patient.synthetic_mark(arguments.run))
    if arguments.is_dicom_out:
        algorithm = algorithm_of(network, arguments.run)
        folder = prepared.choice.series[prepared.reference].folder
        made = segmentation.write_segmentation(arguments.output, own, folder, algorithm=algorithm)
        segmentation.write_report(arguments.report_file, made, folder, algorithm=algorithm)
        print(f"written: {arguments.report_file}")
    else:
        space.write_nifti(arguments.output, space.like(convention.from_classes(own), image))
    print(f"every step: {prepared.folder}")
    return {name: volume_ml(np.isin(own, values), spacing_mm=image.GetSpacing()) for name, values in MEMBERS.items()}


def algorithm_of(network: str, run: Path) -> segmentation.Algorithm:
    """A network's run as DICOM names it: the suite's version and the run's folder."""
    try:
        version = importlib.metadata.version(segmentation.MAKER)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    return segmentation.Algorithm(name=f"{network}, {segmentation.MAKER}", version=f"{version}, {run.resolve().name}")
