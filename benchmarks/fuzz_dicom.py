"""Mutated DICOM headers: ``python -m benchmarks.fuzz_dicom [--mutants 300] [--seed 0] [--run FOLDER]``.

One element of the headers of a small series is changed at random (its value, VR, length or tag, or it is taken out), in
one file or in all, and the series is audited, prepared for an experiment and, with ``--run`` (an ensemble's run), given
to ``mgmt_classifier.patient``. Each mutant is *refused*, *noted*, or gives the *same* slices as the untouched series;
anything else (other slices without a word, another exception, more than ``LIMIT_S``) is a fault and is named.
"""

import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import tyro
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from common.dicom.mgmt_cohort import CONTRASTS, MgmtCohort, Patient, audit
from common.store import UnusableError
from mgmt_classifier.data import SliceRecipe, make

LIMIT_S = 20
IMAGES, SIDE = 9, 24
RECIPES = tuple(
    SliceRecipe(contrast="FLAIR", slices=slices, images=5, percentile=99.0, image_size=(16, 16))
    for slices in ("central", "tumour")
)
ELEMENTS = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *(
        "PhotometricInterpretation",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "NumberOfFrames",
        "PlanarConfiguration",
    ),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "SmallestImagePixelValue"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SliceLocation", "InstanceNumber", "SeriesInstanceUID", "SOPClassUID", "AcquisitionNumber", "EchoTime"),
    *("EchoNumbers", "TemporalPositionIdentifier", "ImageType", "PatientID", "PixelData", "TransferSyntaxUID"),
)
VRS = (b"US", b"SS", b"UL", b"DS", b"IS", b"LO", b"UI", b"SQ", b"OB", b"OW", b"UN", b"AT", b"FD", b"??", b"\0\0")
LONG = (b"OB", b"OW", b"SQ", b"UN", b"OF", b"UT")
WHOLE = (0, 1, 2, 3, 8, 10, 11, 12, 13, 15, 16, 17, 24, 32, 64, 255, 300, 600, 4095, 4096, 32768, 63536, 65535)
TEXTS = (
    "",
    "0",
    "1",
    "-1",
    "2",
    "0.5",
    "-5",
    "100",
    "1e3",
    "1e-30",
    "1e300",
    "nan",
    "inf",
    "1_0",
    "abc",
    "1\\2",
    "1\\2\\3",
)
TEXTS = (*TEXTS, "MONOCHROME1", "MONOCHROME2", "RGB", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read mutated headers."""

    mutants: int = 300
    """How many."""
    seed: int = 0
    """Of the mutations."""
    run: Path | None = None
    """An ensemble's run of FLAIR and T1w; its models are asked about every mutant too."""


def write_patient(folder: Path) -> Patient:
    """Four equal series of a bright ball on a background of 0, with every element that a mutation may change."""
    rng = np.random.default_rng(7)
    z, y, x = np.mgrid[-1 : 1 : IMAGES * 1j, -1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    images = (rng.normal(900, 200, x.shape).clip(1, 4000) * (x**2 + y**2 + z**2 < 0.9)).astype("<u2")
    for contrast in CONTRASTS:
        (folder / contrast).mkdir(parents=True)
        for place, pixels in enumerate(images):
            own = pydicom.Dataset()
            own.file_meta = pydicom.dataset.FileMetaDataset()
            own.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            own.file_meta.MediaStorageSOPClassUID = own.SOPClassUID = MRImageStorage
            own.file_meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID = f"1.2.3.{place}"
            own.SeriesInstanceUID, own.PatientID, own.ImageType = "1.2.3", folder.name, ["ORIGINAL", "PRIMARY", "M"]
            own.InstanceNumber, own.AcquisitionNumber, own.EchoTime = place + 1, 1, "12.5"
            own.EchoNumbers, own.TemporalPositionIdentifier = 1, 1
            own.ImagePositionPatient, own.ImageOrientationPatient = [-20, 10, 2.5 * place], [1, 0, 0, 0, 1, 0]
            own.PixelSpacing, own.SliceThickness, own.SpacingBetweenSlices = [0.8, 0.8], 2.5, 2.5
            own.SliceLocation, own.Rows, own.Columns = 2.5 * place, SIDE, SIDE
            own.SamplesPerPixel, own.PhotometricInterpretation, own.NumberOfFrames = 1, "MONOCHROME2", 1
            own.BitsAllocated, own.BitsStored, own.HighBit, own.PixelRepresentation = 16, 12, 11, 0
            own.RescaleSlope, own.RescaleIntercept, own.RescaleType = "1", "0", "US"
            own.WindowCenter, own.WindowWidth = 500, 900
            own.PixelData = pixels.tobytes()
            own["PixelData"].VR = "OW"
            own.save_as(folder / contrast / f"Image-{place}.dcm", enforce_file_format=True)
    return Patient(folder.name, {contrast: folder / contrast for contrast in CONTRASTS})


@dataclass(frozen=True)
class Mutation:
    """A change of one element; repr tells it again."""

    element: str
    kind: str
    value: bytes

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Mutation":
        element = str(rng.choice(ELEMENTS))
        kind = str(rng.choice(["value", "value", "value", "value", "VR", "length", "tag", "gone"]))
        if kind == "VR":
            return cls(element, kind, VRS[rng.integers(len(VRS))])
        if kind in ("length", "tag") or dictionary_VR(tag_for_keyword(element)) in ("US", "US or SS"):
            number = int(rng.choice(WHOLE)) if rng.random() < 0.8 else int(rng.integers(2**16))
            return cls(element, kind, number.to_bytes(2, "little"))
        text = str(rng.choice(TEXTS)) if rng.random() < 0.7 else f"{rng.normal(0, 100):.4f}"
        return cls(element, kind, text.encode() + b" " * (len(text) % 2))

    def apply(self, content: bytes) -> bytes:
        """A file's bytes after the change; an element that is not there is put in before the pixels."""
        tag = tag_for_keyword(self.element)
        key = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
        if (start := content.find(key, 132)) < 0:
            start = content.find(b"\xe0\x7f\x10\x00OW") if tag >> 16 > 0x20 else 132
            content = content[:start] + key + b"US\x02\x00\x00\x00" + content[start:]
        is_long = content[start + 4 : start + 6] in LONG
        head = 12 if is_long else 8
        length = int.from_bytes(
            content[start + 8 : start + 12] if is_long else content[start + 6 : start + 8], "little"
        )
        before, after = content[:start], content[start + head + length :]
        whole = content[start : start + head + length]
        match self.kind:
            case "gone":
                whole = b""
            case "VR":
                whole = whole[:4] + self.value + whole[6:]
            case "tag":
                whole = whole[:2] + self.value + whole[4:]
            case "length":
                whole = (
                    whole[: head - (4 if is_long else 2)] + self.value + (b"\0\0" if is_long else b"") + whole[head:]
                )
            case "value" if not is_long:
                whole = whole[:6] + len(self.value).to_bytes(2, "little") + self.value
            case "value":  # of the pixels: cut or prolonged
                whole = whole[:8] + len(self.value).to_bytes(4, "little") + self.value
        return before + whole + after


@contextmanager
def limited() -> Iterator[None]:
    """Raises TimeoutError in work that takes longer than LIMIT_S."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def prepared(patient: Patient) -> list[tuple[np.ndarray, tuple[str, ...]]] | None:
    """Slices and notes of every recipe; None where the series is refused."""
    try:
        made = [make(patient, recipe) for recipe in RECIPES]
    except UnusableError:
        return None
    return [(images, geometry["notes"]) for images, geometry in made]


def outcome(patient: Patient, expected: list[np.ndarray]) -> str:
    """same, noted or refused, by preparation and audit alike. Raises ValueError where they contradict each other."""
    row = audit(MgmtCohort(Path(), (patient,), (), ()), n_jobs=1).iloc[0]
    found = prepared(patient)
    if (found is None) != bool(row["problem"]):
        raise ValueError(f"audit says {row['problem']!r}, preparation {'refuses' if found is None else 'takes it'}")
    if found is None:
        return "refused"
    if all(notes for _, notes in found):
        if not row["note"]:
            raise ValueError(f"preparation notes {found[0][1]}, the audit nothing")
        return "noted"
    # A slope for the whole series has no meaning here, but rounds a step up or down.
    steps = (np.abs(images.astype(int) - wanted).max() for (images, _), wanted in zip(found, expected, strict=True))
    return "same" if max(steps) <= 1 else "silent"


def fuzz(mutants: int, seed: int, run: Path | None = None) -> tuple[Counter[str], list[str]]:
    """How many mutants had which outcome, and every fault in words."""
    rng, counts, faults = np.random.default_rng(seed), Counter(), []
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of what it finds odd
        patient = write_patient(Path(temporary) / "00001")
        files = sorted(patient.folders["FLAIR"].iterdir())
        whole = {file: file.read_bytes() for file in files}
        expected = [images for images, _ in prepared(patient)]
        answer = None if run is None else predicted(run, patient, Path(temporary))
        for _ in range(mutants):
            mutation = Mutation.draw(rng)
            chosen = files if rng.random() < 0.3 else [files[rng.integers(len(files))]]
            for file in chosen:
                file.write_bytes(mutation.apply(whole[file]))
            try:
                with limited():
                    found = outcome(patient, expected)
                    if run is not None and found in ("same", "refused"):
                        again = predicted(run, patient, Path(temporary))
                        if (again is None) != (found == "refused") or (found == "same" and again != answer):
                            raise ValueError(f"{found} when prepared, but predicted {again} in place of {answer}")
            except Exception as error:
                found = "fault"
                faults.append(f"{mutation} in {len(chosen)} files: {type(error).__name__}: {error}")
            if found == "silent":
                faults.append(f"{mutation} in {len(chosen)} files: other slices without a word")
            counts[found] += 1
            for file in chosen:
                file.write_bytes(whole[file])
    return counts, faults


def predicted(run: Path, patient: Patient, folder: Path) -> float | None:
    """The ensemble's probability; None where the patient is refused."""
    from mgmt_classifier.patient import predict_patient

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        return predict_patient(run, folder / patient.id, out)["probability"]
    except ValueError:
        return None


def main(options: Options) -> None:
    counts, faults = fuzz(options.mutants, options.seed, options.run)
    print(f"{options.mutants} mutants, seed {options.seed}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.fuzz_dicom", description=__doc__))
