"""Every MR series below a folder, however an archive has laid out its files, and what its header says it is.

Series are told by their SeriesInstanceUID, not by folders. What cannot be read is counted against the series that it
belongs to, so that an image missing from a stack is never overlooked.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from common.dicom import checks
from common.dicom.file import Image, NotAnImageError, read_header
from common.dicom.pixels import DicomError
from common.dicom.series import Folder
from common.walk import shown, walk

_NO_UID = ""
_KEYWORDS = (
    *("Modality", "PatientID", "StudyInstanceUID", "StudyDate", "SeriesInstanceUID", "SeriesNumber"),
    *("SeriesDescription", "ProtocolName", "ImageType", "DiffusionBValue", "AngioFlag"),
    *("EchoTime", "RepetitionTime", "InversionTime", "EffectiveEchoTime", "InversionTimes"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence"),
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first file of a series says of it: by keyword, as text without spaces at its ends, empty where it is
    missing; of an enhanced file as its shared functional groups, or those of its first image, have it."""

    values: dict[str, str]

    def __getitem__(self, keyword: str) -> str:
        return self.values.get(keyword, "")

    def number(self, keyword: str) -> float | None:
        """The first of an element's numbers, None where it has none."""
        try:
            return float(self[keyword].split("\\")[0])
        except ValueError:
            return None

    @property
    def name(self) -> str:
        """What people called the series and its protocol."""
        return " / ".join(dict.fromkeys(filter(None, (self["SeriesDescription"], self["ProtocolName"]))))


@dataclass(frozen=True, kw_only=True)
class Found:
    """A series: its images, as a folder of its own would hold them, and its header."""

    uid: str
    folder: Folder
    header: Header

    def __str__(self) -> str:
        number = self.header["SeriesNumber"]
        return shown(
            f'series {number or "?"} "{self.header.name or "without a name"}", {len(self.folder.images)} images'
        )


@dataclass(frozen=True, kw_only=True)
class Search:
    """What lies below a folder. others: how many files are no images, or of no series, by the reason."""

    folder: Path
    series: tuple[Found, ...]
    others: dict[str, int]


def find_series(folder: str | Path) -> Search:
    """Read every header below a folder; hidden files take no part.

    Raises DicomError when there is no such folder or it holds no DICOM image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DicomError(f"{shown(folder)}: expected a folder of DICOM files, found none")
    walked = walk(folder, suffixes=("",))
    images: dict[str, list[Image]] = defaultdict(list)
    unreadable: dict[str, list[str]] = defaultdict(list)
    lost: list[tuple[Path, str]] = []
    others: Counter[str] = Counter()
    for trouble in walked.troubles:
        others[f"{trouble.name}: {trouble.what}"] += 1
    for path in walked.files:
        try:
            for image in read_header(path):
                images[image.marks.get("SeriesInstanceUID", _NO_UID) or f"folder {path.parent}"].append(image)
        except NotAnImageError:
            others["no DICOM images"] += 1
        except DicomError as error:
            if uid := _uid_of(path):
                unreadable[uid].append(shown(str(error)))
            else:
                lost.append((path, shown(str(error))))
    grouped = _regrouped(images)
    if not grouped:
        found = "; ".join([what for _, what in lost][:3] or [f"{n} x {what}" for what, n in others.items()][:3])
        raise DicomError(f"{shown(folder)}: expected DICOM images, found {found or 'no file'}")
    series = []
    for uid, everything in grouped.items():
        own = _without_copies(everything)
        if n_copies := len(everything) - len(own):
            others["copies of another image"] += n_copies
        folders = {image.path.parent for image in own}
        # A file that does not say whose it is may be any series' image that lies beside it.
        mine = [*unreadable.pop(uid, ()), *(what for path, what in lost if path.parent in folders)]
        place = Path(*_common(sorted(folders)))
        stack = Folder(path=place, images=tuple(own), unreadable=tuple(mine), ignored=())
        series.append(Found(uid=uid, folder=stack, header=read_facts(own[0].path)))
    for reasons in unreadable.values():
        others[reasons[0]] += len(reasons)
    series.sort(key=lambda found: (found.header.number("SeriesNumber") or 0, found.uid))
    return Search(folder=folder, series=tuple(series), others=dict(others))


def read_facts(path: Path) -> Header:
    """What a file's header says of its series. Raises DicomError when it cannot be read."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        found = {keyword: value for keyword in _KEYWORDS if (value := _text(dataset, keyword))}
    except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DicomError(f"{path}: expected a readable DICOM header, found: {error}") from error
    found.setdefault("EchoTime", found.get("EffectiveEchoTime", ""))
    found.setdefault("InversionTime", found.get("InversionTimes", ""))
    found.setdefault("ContrastBolusAgent", found.get("ContrastBolusAgentSequence", ""))
    return Header(values=found)


def _uid_of(path: Path) -> str:
    """The series that a file says it belongs to though it is no image of it; empty where it does not say."""
    try:
        return str(
            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
        )
    except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError, TypeError, EOFError):
        return _NO_UID


def _regrouped(images: dict[str, list[Image]]) -> dict[str, list[Image]]:
    """Series by UID; the images of a folder as one where a broken pseudonymisation gave each a series of its own."""
    alone: dict[Path, list[str]] = defaultdict(list)
    for uid, own in images.items():
        if len(own) == 1:
            alone[own[0].path.parent].append(uid)
    grouped = dict(images)
    for folder, uids in alone.items():
        in_folder = sum(image.path.parent == folder for own in images.values() for image in own)
        if len(uids) == in_folder > 2:
            grouped[f"folder {folder}"] = [image for uid in uids for image in grouped.pop(uid)]
    return grouped


def _without_copies(images: list[Image]) -> list[Image]:
    """The images without those of files that are another's copy, byte by byte, as exports hold them."""
    if not checks.duplicates(images):
        return images
    kept: dict[str, Path] = {}
    for path in dict.fromkeys(image.path for image in images):
        with path.open("rb") as file:
            kept.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
    chosen = set(kept.values())
    return [image for image in images if image.path in chosen]


def _common(folders: Sequence[Path]) -> Iterator[str]:
    """Parts of the path that all folders share."""
    for parts in zip(*(folder.parts for folder in folders), strict=False):
        if len(set(parts)) > 1:
            return
        yield parts[0]


def _text(dataset: Dataset, keyword: str) -> str:
    value = next(_values(dataset, keyword), None)
    if isinstance(value, pydicom.Sequence):
        return "given" if len(value) else ""
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(map(str, value))
    return "" if value is None else str(value).strip(" \0")


def _values(dataset: Dataset, keyword: str) -> Iterator[object]:
    """An element of the data set itself, else of its functional groups."""
    if keyword in dataset:
        yield dataset[keyword].value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or ())[:1]:
            for element in group:
                for item in (element.value or ())[:1] if element.VR == "SQ" else ():
                    if keyword in item:
                        yield item[keyword].value
