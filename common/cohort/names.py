"""Layouts that the files' names tell: BraTS 2018-2021, BraTS 2023 and later, UCSF-PDGM, UPENN-GBM.

UCSF-PDGM: UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{FLAIR,T1,T1c,T2}.nii.gz, each also bias-corrected (_T1_bias; of T1c in
some copies _T1gad_bias), and _tumor_segmentation.nii.gz, among maps of diffusion and perfusion that take no part.
UPENN-GBM: images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_{FLAIR,T1,T1GD,T2}.nii.gz; masks corrected by hand
in images_segm (_segm), of the others those of an automated method in automated_segm (_automated_approx_segm), after
surgery (_21) none. Both have the mask values of BraTS 2018-2021. BraTS-Africa and BraTS 2024 have the names of BraTS
2023; what their values mean the ids tell (`common.labels`). Source: the collections' descriptions at The Cancer
Imaging Archive (doi 10.7937/tcia.bdgf-8v37, 10.7937/TCIA.709X-DN49) and the names in their downloads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.cohort.found import SCANS, Claims, Found, of_no_subject
from common.subject import CONTRASTS, LABEL, Problem
from common.walk import Trouble, composed, walk
from common.words import plural

_OTHER_FORMATS = (".img", ".img.gz", ".nrrd", ".mha", ".mgz")


@dataclass(frozen=True)
class Names:
    """File names of a release. pattern: the id and a word. words: which contrast or mask each word stands for.

    seconds: words that stand for a second choice, and what it is. masks: what kind of mask a word is, where a layout
    has several. without_mask: ids of the scans that have no mask by design. example: of a subject's files.
    """

    pattern: re.Pattern[str]
    words: Mapping[str, str]
    example: str
    seconds: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    without_mask: re.Pattern[str] | None = None

    def match(self, name: str) -> tuple[str, str] | None:
        """Id and word of a file's name."""
        if (found := self.pattern.fullmatch(composed(name))) is None:
            return None
        word = found[2] if found[2] in self.words else found[2].lower()
        return found[1], word


_BIAS = "bias-corrected copies"
_BY_HAND, _AUTOMATED = "corrected by hand (images_segm)", "of an automated method, not corrected (automated_segm)"
# A name is that of the first layout that it fits: UCSF-PDGM-0004_FLAIR.nii.gz fits BraTS 2018-2021 too. The words' case
# tells the two apart: UCSF-PDGM-0004_flair.nii.gz is of a collection that was renamed to BraTS's names.
FILE_NAMES: Mapping[str, Names] = {
    "UCSF-PDGM": Names(
        re.compile(
            r"(UCSF-PDGM-\d+(?:_FU\d+d)?)_((?:FLAIR|T1|T1c|T2)(?:_bias)?|T1gad_bias|tumor_segmentation)"
            r"(?i:\.nii(?:\.gz)?)"
        ),
        {
            **dict(zip(("FLAIR", "T1", "T1c", "T2", "tumor_segmentation"), (*CONTRASTS, LABEL), strict=True)),
            **dict(zip(("FLAIR_bias", "T1_bias", "T1c_bias", "T2_bias"), CONTRASTS, strict=True)),
            "T1gad_bias": "T1ce",
        },
        "UCSF-PDGM-*_FLAIR.nii.gz, _T1, _T1c, _T2",
        seconds=dict.fromkeys(("FLAIR_bias", "T1_bias", "T1c_bias", "T1gad_bias", "T2_bias"), _BIAS),
    ),
    "UPENN-GBM": Names(
        re.compile(r"(UPENN-GBM-\d+_\d+)_(FLAIR|T1|T1GD|T2|segm|automated_approx_segm)(?i:\.nii(?:\.gz)?)"),
        {
            **dict(zip(("FLAIR", "T1", "T1GD", "T2", "segm"), (*CONTRASTS, LABEL), strict=True)),
            "automated_approx_segm": LABEL,
        },
        "UPENN-GBM-*_11_FLAIR.nii.gz, _T1, _T1GD, _T2",
        seconds={"automated_approx_segm": "automated masks beside ones corrected by hand"},
        masks={"segm": _BY_HAND, "automated_approx_segm": _AUTOMATED},
        without_mask=re.compile(r"UPENN-GBM-\d+_21"),
    ),
    "BraTS 2018-2021": Names(
        re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?", re.IGNORECASE),
        dict(zip(("flair", "t1", "t1ce", "t2", "seg"), (*CONTRASTS, LABEL), strict=True)),
        "*_flair.nii.gz, _t1, _t1ce, _t2",
    ),
    "BraTS 2023": Names(
        re.compile(r"(.+)-(t2f|t1n|t1c|t2w|seg)\.nii(?:\.gz)?", re.IGNORECASE),
        dict(zip(("t2f", "t1n", "t1c", "t2w", "seg"), (*CONTRASTS, LABEL), strict=True)),
        "*-t2f.nii.gz, -t1n, -t1c, -t2w",
    ),
}
_STRAY_MASK = re.compile(
    r".+_Segm\.nii(?:\.gz)?", re.IGNORECASE
)  # BraTS 2020 case 355 has W39_1998.09.19_Segm.nii as its mask
_STRAY_WORD = "seg"
_OTHER_TUMOURS = "OtherNeoplasms"  # BraTS-Africa keeps 51 of its subjects in 51_OtherNeoplasms, 95 in 95_Glioma
_Words = dict[str, dict[str, list[Path]]]  # subject -> word of its files' names -> the files


def find_by_name(folder: Path) -> tuple[list[Found], tuple[Problem, ...], tuple[Path, ...]]:
    """The layouts that files anywhere below a folder have by their names, what could not be taken, and other scans."""
    by_layout: dict[str, _Words] = {layout: {} for layout in FILE_NAMES}
    by_folder: dict[Path, list[dict[str, list[Path]]]] = {}
    stray: list[Path] = []
    left_out: list[Path] = []
    walked = walk(folder, suffixes=(*SCANS, *_OTHER_FORMATS))
    for file in walked.files:
        # Some redistributions hold a folder X_flair.nii with a file of another name inside: the folder's name counts.
        if matched := _layout_of(file.parent.name) or _layout_of(file.name):
            layout, name, word = matched
            files = by_layout[layout].setdefault(name, {})
            files.setdefault(word, []).append(file)
            if _STRAY_WORD in FILE_NAMES[layout].words:
                by_folder.setdefault(file.parent, []).append(files)
        else:
            (stray if _STRAY_MASK.fullmatch(file.name) else left_out).append(file)
    for file in stray:
        owners = {id(files): files for files in by_folder.get(file.parent, [])}
        if len(owners) == 1:
            next(iter(owners.values())).setdefault(_STRAY_WORD, []).append(file)
        else:
            left_out.append(file)
    problems = tuple(map(problem_of, walked.troubles))
    found = [_found(layout, words, problems, tuple(left_out)) for layout, words in by_layout.items() if words]
    return found, problems, tuple(left_out)


def problem_of(trouble: Trouble) -> Problem:
    """What the walk could not take, as a problem of the subject whose file or folder it is by its name."""
    if (matched := _layout_of(trouble.name)) is not None:
        return Problem(matched[1], trouble.path, trouble.what)
    return of_no_subject(trouble)


def _layout_of(name: str) -> tuple[str, str, str] | None:
    """Layout, id and word of a file's name."""
    for layout, names in FILE_NAMES.items():
        if matched := names.match(name):
            return layout, *matched
    return None


def _found(layout: str, words: _Words, problems: tuple[Problem, ...], left_out: tuple[Path, ...]) -> Found:
    """Claims of the files by their words. Of a mask, a subject's second choice counts where it has no first; of scans,
    where the whole cohort has no first, so that a cohort's scans are all of one kind."""
    names = FILE_NAMES[layout]
    seconds = {word for word in names.seconds if names.words[word] != LABEL}
    is_first = any(names.words[word] != LABEL and word not in seconds for files in words.values() for word in files)
    claims: Claims = {}
    kinds, unused = {}, []
    for name, files in words.items():
        claims[name] = {}
        roles = {names.words[word] for word in files if word not in names.seconds}
        for word, paths in files.items():
            role = names.words[word]
            if word in names.seconds and (role in roles if role == LABEL else is_first):
                unused += [names.seconds[word]] * len(paths)
                continue
            claims[name].setdefault(role, []).extend(paths)
            if word in names.masks:
                kinds[name] = names.masks[word]
            if any(folder.endswith(_OTHER_TUMOURS) for path in paths for folder in path.parts[:-1]):
                kinds[name] = f"in {_OTHER_TUMOURS}: no gliomas"
    notes = [
        f"{plural(unused.count(what), 'file takes', 'files take')} no part: {what}" for what in dict.fromkeys(unused)
    ]
    if seconds and not is_first:
        notes.append(f"all scans are {names.seconds[min(seconds)]}: the cohort has no others")
    without_mask = frozenset(name for name in claims if names.without_mask and names.without_mask.fullmatch(name))
    return Found(
        layout,
        claims,
        problems,
        left_out=left_out,
        kinds=kinds,
        without_mask=without_mask,
        notes=tuple(notes),
    )
