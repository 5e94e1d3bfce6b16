"""A folder in a layout of the user's own, described by a mapping file of six lines.

    FLAIR = "{patient}/{session}/anat/{patient}_{session}_FLAIR.nii.gz"
    T1 = "{patient}/{session}/anat/{patient}_{session}_T1w.nii.gz"
    T1ce = "{patient}/{session}/anat/{patient}_{session}_ce-gadolinium_T1w.nii.gz"
    T2 = "{patient}/{session}/anat/{patient}_{session}_T2w.nii.gz"
    label = "derivatives/masks/{patient}/{session}/anat/{patient}_{session}_dseg.nii.gz"
    labels = {NCR = 1, ED = 2, ET = 3}

Paths are relative to the folder of scans, with / between their parts. ``{patient}`` and ``{session}`` stand for what
differs, within one part, and for the same text wherever they stand again; ``*`` stands for any text within one part.
A subject's id is its patient, or patient_session, and one patient's sessions are kept on one side of every split.
``{session}`` may be left out, and so may ``label`` and ``labels`` together where there are no masks. labels: the value
of each class (RC, the resection cavity, may be among them), or the name of a convention: labels = "brats2018".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.cohort.found import SCANS, Claims, CohortError, Found, listing, of_no_subject
from common.labels import CLASSES, CONVENTIONS, RC, LabelConvention
from common.subject import CONTRASTS, LABEL
from common.walk import composed, shown, walk

_CLASS_KEYS = {name: name.lower() for name in (*CLASSES[1:], RC)}
_VALUES = "labels"
_PATIENT, _SESSION = "patient", "session"
_PARTS = re.compile(r"(\{[^{}]*\}|\*|[{}])")


@dataclass(frozen=True)
class MappingFile:
    """A mapping file. written: role -> path as it stands there; convention: None without masks."""

    file: Path
    written: dict[str, str]
    convention: LabelConvention | None

    @property
    def has_sessions(self) -> bool:
        return f"{{{_SESSION}}}" in next(iter(self.written.values()))


def read_mapping(file: str | Path, contrasts: Sequence[str] = CONTRASTS) -> MappingFile:
    """contrasts: that it must name. Raises CohortError, naming the file, what was expected and what was found, for what
    is no mapping file."""
    file = Path(file)
    if not file.is_file():
        raise CohortError(f"{file}: expected a mapping file (TOML), found no such file")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"{file}: expected a mapping file (TOML), but {error}") from error
    try:
        return _checked(file, content, contrasts)
    except ValueError as error:
        raise CohortError(f"{file}: {str(error).removeprefix(f'{file.name}: ')}") from error


def _checked(file: Path, content: dict[str, object], contrasts: Sequence[str]) -> MappingFile:
    known = (*CONTRASTS, LABEL, _VALUES)
    if unknown := [key for key in content if key not in known]:
        raise ValueError(f"expected the keys {', '.join(known)}, found {', '.join(map(repr, unknown))}")
    if missing := [name for name in contrasts if name not in content]:
        raise ValueError(f"expected a path for each of {', '.join(contrasts)}, found none for {', '.join(missing)}")
    if (LABEL in content) != (_VALUES in content):
        one, other = (LABEL, _VALUES) if LABEL in content else (_VALUES, LABEL)
        raise ValueError(f"expected {other} beside {one}, found none")
    written = {role: _path(role, value) for role, value in content.items() if role != _VALUES}
    placed = {role: set(re.findall(r"\{(\w+)\}", path)) for role, path in written.items()}
    first = next(iter(placed))
    for role, names in placed.items():
        if names != placed[first]:
            both = " and ".join(f"{key} = {written[key]!r}" for key in (first, role))
            raise ValueError(f"expected every path with {{{_SESSION}}} or none, found {both}")
    for number, (role, path) in enumerate(written.items()):
        if same := [other for other in list(written)[:number] if written[other] == path]:
            raise ValueError(f"expected a path of its own for {role}, found that of {same[0]}: {path!r}")
    return MappingFile(file, written, _convention(file, content[_VALUES]) if _VALUES in content else None)


def _path(role: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a path as {role}, found {value!r}")
    inside = [part for part in _PARTS.split(value) if part[:1] in ("{", "}")]
    if wrong := [part for part in inside if part not in (f"{{{_PATIENT}}}", f"{{{_SESSION}}}")]:
        raise ValueError(
            f"expected {{{_PATIENT}}} and {{{_SESSION}}} in braces only, found {wrong[0]} in {role} = {value!r}"
        )
    if f"{{{_PATIENT}}}" not in inside:
        raise ValueError(f"expected {{{_PATIENT}}} in the path of {role}, found {value!r}")
    if not value.lower().endswith(SCANS):
        raise ValueError(f"expected a path that ends in .nii or .nii.gz as {role}, found {value!r}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError(f"expected a path below the folder of scans, parts separated by /, as {role}, found {value!r}")
    return str(path)


def _convention(file: Path, value: object) -> LabelConvention:
    if isinstance(value, str) and value in CONVENTIONS:
        return CONVENTIONS[value]
    needed = set(_CLASS_KEYS) - {RC}
    if not isinstance(value, dict) or not needed <= set(value) <= set(_CLASS_KEYS):
        raise ValueError(
            f"expected as {_VALUES} the values {{NCR = 1, ED = 2, ET = 3}}, with RC where masks have it, or one of "
            f"{', '.join(CONVENTIONS)}, found {value!r}"
        )
    named = LabelConvention(file.name, **{_CLASS_KEYS[name]: number for name, number in value.items()})
    return {c.values: c for c in CONVENTIONS.values()}.get(named.values, named)


def find_by_mapping(folder: Path, mapping: MappingFile, contrasts: Sequence[str], *, masks: bool) -> Found:
    """The files below a folder that fit a mapping's paths; without masks, its contrasts' paths.

    contrasts: of which there must be some. Raises CohortError when no file fits the path of one of them or of the
    masks, or one file fits two.
    """
    patterns = {role: _pattern(path) for role, path in mapping.written.items() if masks or role != LABEL}
    walked = walk(folder, suffixes=SCANS)
    claims: Claims = {}
    patients: dict[str, str] = {}
    left_out: list[Path] = []
    fitted: set[str] = set()
    for file in walked.files:
        name = composed(file.relative_to(folder).as_posix())
        fits = {role: match for role, pattern in patterns.items() if (match := pattern.fullmatch(name))}
        if len(fits) > 1:
            raise CohortError(f"{mapping.file}: expected each file in one place, found {name} as {' and '.join(fits)}")
        for role, match in fits.items():
            _require_one_reading(mapping, role, name, match)
            own = "_".join(match[key] for key in (_PATIENT, _SESSION) if key in match.re.groupindex)
            claims.setdefault(own, {}).setdefault(role, []).append(file)
            if patients.setdefault(own, match[_PATIENT]) != match[_PATIENT]:
                raise CohortError(
                    f"{mapping.file}: expected ids that tell patients apart, found {own} of the patients "
                    f"{patients[own]} and {match[_PATIENT]}"
                )
            fitted.add(role)
        left_out += [] if fits else [file]
    if lost := [role for role in patterns if role in (*contrasts, LABEL) and role not in fitted]:
        wanted = ", ".join(f"{role} = {mapping.written[role]!r}" for role in lost)
        some = [shown(file.relative_to(folder).as_posix()) for file in left_out[:3]] or [listing(folder)]
        raise CohortError(
            f"{folder}: expected files as {mapping.file} says, {wanted}, found none but {', '.join(some)}"
        )
    return Found(
        mapping.file.name,
        claims,
        tuple(map(of_no_subject, walked.troubles)),
        left_out=tuple(left_out),
        convention=mapping.convention,
        patients=patients if mapping.has_sessions else {},
    )


def _require_one_reading(mapping: MappingFile, role: str, name: str, match: re.Match[str]) -> None:
    """Raises CohortError where patient and session can be parted in two ways, as in 2019_01_P1."""
    other = _pattern(mapping.written[role], shortest=False).fullmatch(name)
    if other is not None and other.groupdict() != match.groupdict():
        raise CohortError(
            f"{mapping.file}: {role} = {mapping.written[role]!r} reads {name} as {match.groupdict()} and as "
            f"{other.groupdict()}; expected one way: a layout whose folders part patient and session"
        )


def _pattern(path: str, *, shortest: bool = True) -> re.Pattern[str]:
    """What a path fits, with the groups patient and session: text as short as fits (or as long), the same where it
    stands again."""
    text, seen = "", set()
    for part in _PARTS.split(composed(path)):
        if part[:1] == "{":
            name = part[1:-1]
            text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+{'?' if shortest else ''})"
            seen.add(name)
        else:
            text += "[^/]*" if part == "*" else re.escape(part)
    return re.compile(text)
