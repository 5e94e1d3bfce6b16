"""A segmentation as DICOM: a Segmentation object on a series' own images, and a measurement report with its volumes.

Both are written with highdicom. The segments are binary, never fractional: NCR, ED and ET with the codes that the
standard's own context group for brain lesions has (CID 7168, Brain Lesion Segmentation Type With Necrosis): SNOMED CT
for necrosis and oedema, and the NCI thesaurus for the enhancing lesion, for which the group has no SNOMED code.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from common.dicom import checks
from common.dicom.extras import load_module
from common.dicom.series import DicomError, Folder
from common.files import atomic_path
from common.labels import CLASSES

if TYPE_CHECKING:
    import highdicom

CATEGORY = codes.SCT.MorphologicallyAbnormalStructure
TYPES = {
    "NCR": codes.SCT.Necrosis,
    "ED": codes.SCT.Edema,
    "ET": Code("C113842", "NCIt", "Enhancing Lesion"),
}
SITE = codes.SCT.Brain
PROCEDURE = codes.LN.BrainMRI
COLOURS = {"NCR": (213, 94, 0), "ED": (86, 180, 233), "ET": (240, 228, 66)}  # as in every picture
MAKER = "glioma-suite"
SERIES_NUMBERS = {"SEG": 9001, "SR": 9002}
MM3_PER_ML = 1000
_EMPTY_ALLOWED = (  # elements that the standard wants to be there, empty where nothing is known
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_SEXES = ("M", "F", "O")


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made a segmentation, as the objects name it."""

    name: str
    version: str
    source: str = MAKER


def write_segmentation(path: Path, labels: np.ndarray, folder: Folder, *, algorithm: Algorithm) -> Dataset:
    """Write classes as a DICOM Segmentation that refers to every image of a series, and return it.

    labels: classes 0..3 (image, row, column) on the series in ``folder``, in geometric order. All three segments are
    described, found or not; images without any of them have no frame.
    Raises MissingToolError without highdicom, ValueError for other shapes or classes, DicomError when the series' files
    lack what must be referred to, or are several enhanced files.
    """
    hd = load_module("highdicom", extra="preprocess")
    sources, order = _sources(folder)
    series = folder.series()
    if labels.shape != (len(series), *series.shape) or labels.max(initial=0) >= len(CLASSES):
        raise ValueError(
            f"expected classes below {len(CLASSES)} of shape {(len(series), *series.shape)}, found {labels.shape} "
            f"up to {labels.max(initial=0)}"
        )
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=algorithm.source,
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=CATEGORY,
            segmented_property_type=TYPES[name],
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
            anatomic_regions=[SITE],
            tracking_uid=generate_uid(),
            tracking_id=f"{name} of {algorithm.name}"[:64],
            display_color=hd.color.CIELabColor.from_rgb(*COLOURS[name]),
        )
        for number, name in enumerate(CLASSES[1:], start=1)
    ]
    with _unwarned():
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(labels[order], dtype=np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            pixel_measures=hd.PixelMeasuresSequence(
                pixel_spacing=series.spacing_mm[1:],
                slice_thickness=between_mm(folder),
                spacing_between_slices=between_mm(folder),
            ),
            content_label="GLIOMA",
            content_description="Glioma: NCR, ED and ET; research only",
            series_description="Glioma segmentation (research only)",
            **_identity("SEG", algorithm),
        )
    _save(made, path)
    return made


def write_report(path: Path, segmentation: Dataset, folder: Folder, *, algorithm: Algorithm) -> dict[str, float]:
    """Write a measurement report (TID 1500) with the volume of each segment, and return the volumes in ml.

    segmentation: as :func:`write_segmentation` returned it, of the series in ``folder``. A volume is the segment's
    voxels times a voxel's size, distances between images included.
    """
    hd = load_module("highdicom", extra="preprocess")
    sources, _ = _sources(folder)
    volumes_ml = segment_volumes_ml(segmentation, folder)
    identification = hd.sr.AlgorithmIdentification(name=algorithm.name, version=algorithm.version)
    groups = [
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
            referenced_segment=hd.sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=int(segment.SegmentNumber),
                source_series=hd.sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
            ),
            finding_category=CATEGORY,
            finding_type=TYPES[segment.SegmentLabel],
            finding_sites=[hd.sr.FindingSite(SITE)],
            algorithm_id=identification,
            measurements=[
                hd.sr.Measurement(
                    name=codes.SCT.Volume,
                    value=round(volumes_ml[segment.SegmentLabel], 6),
                    unit=Code("mL", "UCUM", "milliliter"),
                )
            ],
        )
        for segment in segmentation.SegmentSequence
    ]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(), manufacturer_name=MAKER, model_name=algorithm.name[:64]
        ),
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=PROCEDURE,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    identity = _identity("SR", algorithm)
    with _unwarned():
        made = hd.sr.ComprehensiveSR(
            evidence=[segmentation, *sources],
            content=report[0],
            series_instance_uid=identity["series_instance_uid"],
            series_number=identity["series_number"],
            sop_instance_uid=identity["sop_instance_uid"],
            instance_number=1,
            manufacturer=MAKER,
            series_description="Glioma volumes (research only)",
            is_complete=True,
        )
    _save(made, path)
    return volumes_ml


def segment_volumes_ml(segmentation: Dataset, folder: Folder) -> dict[str, float]:
    """Volume in ml of each segment, by its label, from the object's own pixels."""
    series = folder.series()
    rows, columns = series.shape
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    n_frames = int(segmentation.NumberOfFrames)
    filled = bits[: n_frames * rows * columns].reshape(n_frames, -1).sum(axis=1, dtype=np.int64)
    voxel_ml = between_mm(folder) * series.spacing_mm[1] * series.spacing_mm[2] / MM3_PER_ML
    labels = {int(segment.SegmentNumber): segment.SegmentLabel for segment in segmentation.SegmentSequence}
    volumes_ml = dict.fromkeys(labels.values(), 0.0)
    for group, n in zip(segmentation.PerFrameFunctionalGroupsSequence, filled, strict=True):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        volumes_ml[labels[number]] += float(n) * voxel_ml
    return volumes_ml


def between_mm(folder: Folder) -> float:
    """Mean distance between the images of a stack, to a millionth of a mm as headers can hold it."""
    positions, _ = checks.in_order(folder.images)
    return round(float(positions[-1] - positions[0]) / (len(positions) - 1), 6)


def check_sources(folder: Folder) -> None:
    """Before any work: that a segmentation can refer to a series. Raises as :func:`write_segmentation`."""
    load_module("highdicom", extra="preprocess")
    _sources(folder)


def _sources(folder: Folder) -> tuple[list[Dataset], np.ndarray]:
    """The series' data sets without pixels, and the geometric place of the image that each frame of them is."""
    _, images = checks.in_order(folder.images)
    paths = list(dict.fromkeys(image.path for image in images))
    if len(paths) not in (1, len(images)):
        raise DicomError(
            f"{folder.path}: expected a series of single images or one enhanced file, to which a DICOM segmentation "
            f"can refer, found {len(images)} images in {len(paths)} files; write .nii.gz"
        )
    sources = [_source(path) for path in paths]
    for source in sources:
        source.setdefault("SliceThickness", between_mm(folder))  # highdicom asks for it, whatever it is told
    order = np.argsort([image.index for image in images]) if len(paths) == 1 else np.arange(len(images))
    return sources, order


def _source(path: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError) as error:
        raise DicomError(f"{path}: expected a readable DICOM file, found: {error}") from error
    if missing := [keyword for keyword in _NEEDED if not dataset.get(keyword)]:
        raise DicomError(
            f"{path}: expected {', '.join(missing)}, to which a DICOM segmentation refers, found none; write .nii.gz"
        )
    for keyword in _EMPTY_ALLOWED:
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, None if keyword.startswith("Study") and keyword != "StudyID" else "")
    if not dataset.get("FrameOfReferenceUID"):
        # Pseudonymisation takes it away; a segmentation must have one, and names the images that it lies on anyway.
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", dataset.SeriesInstanceUID])
    if dataset.PatientSex not in _SEXES:
        dataset.PatientSex = ""
    return dataset


def _identity(kind: str, algorithm: Algorithm) -> dict[str, object]:
    return {
        "series_instance_uid": generate_uid(),
        "series_number": SERIES_NUMBERS[kind],
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": "0",
    }


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """highdicom warns of an empty segmentation, an answer too, and of names as pseudonymisation leaves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _save(dataset: highdicom.base.SOPClass, path: Path) -> None:
    with atomic_path(path) as temporary:
        dataset.save_as(temporary)
