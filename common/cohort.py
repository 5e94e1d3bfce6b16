"""Find the subjects in a folder of scans, whatever its layout, and name everything that is wrong with them.

Layouts: BraTS 2018-2021 and BraTS 2023 (told by file names, at any depth), MSD Task01 and nnU-Net raw (`imagesTr`,
`labelsTr`, `dataset.json`). What cannot be told for certain is refused with every possible reading named, unless the
caller names the label convention. Finding reads no voxels: a mask that contradicts its layout is met when it is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from common.labels import BRATS_2023, BY_FILE_NAMES, CONVENTIONS, MSD, infer_convention
from common.subject import CONTRASTS, LABEL, Problem, Subject, examine

_FILE_NAMES = {
    "BraTS 2018-2021": (
        re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?"),
        dict(zip(("flair", "t1", "t1ce", "t2", "seg"), (*CONTRASTS, LABEL), strict=True)),
    ),
    "BraTS 2023": (
        re.compile(r"(.+)-(t2f|t1n|t1c|t2w|seg)\.nii(?:\.gz)?"),
        dict(zip(("t2f", "t1n", "t1c", "t2w", "seg"), (*CONTRASTS, LABEL), strict=True)),
    ),
}
_STRAY_MASK = re.compile(r".+_Segm\.nii(?:\.gz)?")  # BraTS 2020 case 355 has W39_1998.09.19_Segm.nii as its mask
_CHANNEL_NAMES = {
    "FLAIR": {"flair", "t2flair", "t2f"},
    "T1": {"t1", "t1w", "t1n", "t1pre"},
    "T1ce": {"t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1cew", "t1post", "t1km"},
    "T2": {"t2", "t2w"},
}
_Claims = dict[str, dict[str, list[Path]]]  # subject -> contrast or label -> the files that claim to be it


class CohortError(ValueError):
    """A folder that cannot be read as a cohort; the message says what was looked for and what was found."""


@dataclass(frozen=True)
class Cohort:
    """Subjects sorted by id, all of them with four contrasts; incomplete: what kept other subjects out of it."""

    folder: Path
    layout: str
    subjects: tuple[Subject, ...]
    incomplete: tuple[Problem, ...]


def audit(cohort: Cohort, *, n_jobs: int = 1) -> list[Problem]:
    """Everything wrong with a cohort, all subjects at once, sorted by subject; reads every voxel (n_jobs threads).

    When masks contradict the layout's label convention and no mask in the whole cohort confirms it (BraTS 2018-2021
    names, but ET stored as 3), masks without ET are as doubtful as those with it and are listed too.
    """
    checks = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(examine)(subject) for subject in cohort.subjects
    )
    problems, values = list(cohort.incomplete), set()
    for found in tqdm(checks, total=len(cohort.subjects), desc="checking", unit="subject", leave=False):
        problems += found.problems
        values |= found.values
    convention = BY_FILE_NAMES.get(cohort.layout)
    bad = {problem.subject for problem in problems}
    doubtful = [s for s in cohort.subjects if s.label and s.convention == convention and s.id not in bad]
    if convention is not None and doubtful and convention.et not in values:
        try:
            infer_convention(cohort.layout, values)
        except ValueError as error:
            problems += [Problem(s.id, s.label, f"in the cohort as a whole, {error}") for s in doubtful]
    return sorted(problems, key=lambda problem: (problem.subject, str(problem.file), problem.what))


def find_subjects(folder: str | Path, *, convention: str | None = None, max_subjects: int | None = None) -> Cohort:
    """Find the subjects in a folder. convention: a name in CONVENTIONS, where the folder alone does not settle it.

    max_subjects: the first so many by id. A folder without a single mask is a validation set: label is None.
    Raises CohortError when no layout or more than one is found, no subject is complete, or the contrasts or labels of
    a 4-D or numbered file cannot be told for certain.
    """
    folder = Path(folder)
    if convention is not None and convention not in CONVENTIONS:
        raise CohortError(f"unknown label convention {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    if max_subjects is not None and max_subjects < 1:
        raise CohortError(f"max_subjects must be at least 1, received {max_subjects}")
    if not folder.is_dir():
        raise CohortError(f"{folder}: expected a folder of scans, found no folder")
    found = {layout: (claims, None) for layout, claims in _find_by_name(folder).items() if claims}
    described: dict[str, object] = {}
    if (folder / "imagesTr").is_dir():
        layout, described, claims, channels = _find_by_table(folder, convention)
        found[layout] = claims, channels
    if len(found) != 1:
        examples = [f"{name} ({next(iter(claims), 'none')})" for name, (claims, _) in found.items()]
        raise CohortError(
            f"{folder}: expected one of BraTS 2018-2021 (*_flair.nii.gz, _t1, _t1ce, _t2), BraTS 2023 (*-t2f.nii.gz, "
            f"-t1n, -t1c, -t2w), MSD or nnU-Net (imagesTr); found {' and '.join(examples) or _listing(folder)}"
        )
    ((layout, (claims, channels)),) = found.items()
    has_labels = any(LABEL in files for files in claims.values())
    chosen = CONVENTIONS.get(convention or "")
    if has_labels and (chosen is None or "labels" in described):
        try:
            inferred = infer_convention(layout, names=described.get("labels"))
        except ValueError as error:
            if chosen is None:
                raise CohortError(f"{folder}: {error}") from error
            inferred = chosen
        if chosen is not None and chosen.values != inferred.values:
            raise CohortError(
                f"{folder}: dataset.json says {inferred}, which contradicts the named convention {chosen}"
            )
        chosen = inferred
    subjects, problems = [], []
    for name, files in sorted(claims.items()):
        if max_subjects is not None and len(subjects) == max_subjects:
            break
        if what := list(_incomplete(name, files, has_labels)):
            problems += what
            continue
        label = files[LABEL][0] if LABEL in files else None
        images = {contrast: files[contrast][0] for contrast in CONTRASTS}
        subjects.append(Subject(name, images, label, chosen if label else None, channels))
    if not subjects:
        why = "; ".join(map(str, problems)) or "there is none"
        raise CohortError(f"{folder}: looks like {layout}, but no subject is complete: {why}")
    return Cohort(folder, layout, tuple(subjects), tuple(problems))


def _find_by_name(folder: Path) -> dict[str, _Claims]:
    found: dict[str, _Claims] = {layout: {} for layout in _FILE_NAMES}
    by_folder: dict[Path, list[dict[str, list[Path]]]] = {}
    stray = []
    for file in _scans_below(folder):
        # Some redistributions hold a folder X_flair.nii with a file of another name inside: the folder's name counts.
        for name in (file.parent.name, file.name):
            for layout, (pattern, roles) in _FILE_NAMES.items():
                if match := pattern.fullmatch(name):
                    files = found[layout].setdefault(match[1], {})
                    files.setdefault(roles[match[2]], []).append(file)
                    by_folder.setdefault(file.parent, []).append(files)
                    break
            else:
                continue
            break
        else:
            stray += [file] if _STRAY_MASK.fullmatch(file.name) else []
    for file in stray:
        owners = {id(files): files for files in by_folder.get(file.parent, [])}
        if len(owners) == 1:
            next(iter(owners.values())).setdefault(LABEL, []).append(file)
    return found


def _find_by_table(folder: Path, convention: str | None) -> tuple[str, dict, _Claims, Mapping[str, int] | None]:
    """MSD or nnU-Net: layout, dataset.json, files, and the place of each contrast in a 4-D file."""
    images = list(_scans_below(folder / "imagesTr"))
    numbered = [re.fullmatch(r"(.+)_(\d{4})\.nii(?:\.gz)?", file.name) for file in images]
    if any(numbered) and not all(numbered):
        raise CohortError(
            f"{folder}: imagesTr mixes nnU-Net names (*_0000.nii.gz) with others, as {_listing(folder / 'imagesTr')}"
        )
    layout = "nnU-Net" if any(numbered) else "MSD"
    table = folder / "dataset.json"
    described: dict = {}
    channels = dict(zip(CONTRASTS, range(4), strict=True))
    if table.is_file():
        try:
            described = json.loads(table.read_text(encoding="utf-8"))
            if not (isinstance(described, dict) and isinstance(described.get("labels", {}), dict)):
                raise ValueError("expected an object with an object of labels")
            channels = _channels(described.get("channel_names", described.get("modality", {})))
        except ValueError as error:
            raise CohortError(f"{table}: {error}") from error
    elif layout == "nnU-Net" or convention != MSD.name:
        raise CohortError(
            f"{folder}: {layout} folder without a dataset.json, which says what its contrasts and labels are; "
            f"mask values 1, 2, 3 could be read as {BRATS_2023} or {MSD}"
        )
    claims: _Claims = {}
    for file, match in zip(images, numbered, strict=True):
        if match is None:
            contrasts, name = CONTRASTS, _stem(file)
        else:
            contrasts, name = [c for c, index in channels.items() if index == int(match[2])], match[1]
        for contrast in contrasts:
            claims.setdefault(name, {}).setdefault(contrast, []).append(file)
    for file in _scans_below(folder / "labelsTr"):
        claims.setdefault(_stem(file), {}).setdefault(LABEL, []).append(file)
    return layout, described, claims, None if layout == "nnU-Net" else channels


def _channels(names: Mapping[str, str] | Sequence[str]) -> dict[str, int]:
    """Place of each contrast by the names of a dataset.json. Raises ValueError unless each occurs exactly once."""
    items = names.items() if isinstance(names, Mapping) else enumerate(names)
    plain = {int(index): re.sub(r"[^a-z0-9]", "", str(name).lower()) for index, name in items}
    places = {c: [index for index, name in plain.items() if name in known] for c, known in _CHANNEL_NAMES.items()}
    if any(len(place) != 1 for place in places.values()):
        raise ValueError(f"expected each of {', '.join(CONTRASTS)} once among its channel names, found {names}")
    return {contrast: place[0] for contrast, place in places.items()}


def _scans_below(folder: Path) -> Iterator[Path]:
    """All .nii and .nii.gz files below a folder in a fixed order, without hidden ones (macOS leaves ._ files)."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, f) for f in sorted(files) if f.endswith((".nii", ".nii.gz")) and f[0] != ".")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" or "an empty folder"


def _incomplete(name: str, files: Mapping[str, Sequence[Path]], has_labels: bool) -> Iterator[Problem]:
    """What keeps a subject out of the cohort, from its files' names alone."""
    if missing := [contrast for contrast in CONTRASTS if contrast not in files]:
        yield Problem(name, None, f"missing {', '.join(missing)}; found {', '.join(files)}")
    if has_labels and LABEL not in files:
        yield Problem(name, None, "missing its mask, which other subjects of the cohort have")
    folders: dict[tuple[Path, ...], None] = {}
    for role, claimants in files.items():
        parents = tuple(dict.fromkeys(path.parent for path in claimants))
        if len(parents) > 1:
            folders[parents] = None
        elif len(claimants) > 1:
            names = ", ".join(path.name for path in claimants)
            yield Problem(name, claimants[0], f"{len(claimants)} files claim to be its {role}: {names}")
    for parents in folders:
        yield Problem(name, None, f"duplicate id, its files lie in {' and in '.join(map(str, parents))}")
