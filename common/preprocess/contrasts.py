"""Which series is which contrast: by what people called it, by how it was measured, and by the contrast agent.

A name and a measurement that contradict each other decide nothing: the series is then nobody's until its user says what
it is. Every reading comes with its reasons, so that a wrong one can be seen.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.dicom.pixels import DicomError
from common.preprocess.series import Found, Header, Search
from common.subject import CONTRASTS
from common.walk import shown

# ms: the standardised brain tumour protocol (Ellingson et al., Neuro-Oncology 2015) with room around.
FLAIR_INVERSION, LEAST_T2_ECHO, LEAST_T2_REPETITION = (1400.0, 3200.0), 65.0, 1800.0
MOST_T1_ECHO, MOST_T1_REPETITION, T1_INVERSION = 30.0, 1400.0, (400.0, 1300.0)
SAME_SIZE = 0.05
"""Share by which the largest sides of two series' voxels may differ and neither be the finer one."""

_NOT_A_SCAN = {  # words of names, and what such a series is
    r"loc(ali[sz]er)?(?![a-z])|scout|survey|3 ?plane|smartbrain": "a localiser",
    r"adc|dwi|diff|trace(?![a-z])|dti|b ?1000|ep2d|(?<![a-z])fa(?![a-z])|colfa": "diffusion",
    r"perf|dsc|dce|(?<![a-z])asl(?![a-z])|cbv|cbf|mtt|ttp": "perfusion",
    r"swi|swan|(?<![a-z])mip|pha(se)?(?![a-z])|t2 ?\*|t2 ?star|(?<![a-z])hemo": "susceptibility",
    r"^(?!.*t1).*(?<![a-z])gre(?![a-z])": "susceptibility",
    r"tof|angio|(?<![a-z])mra|(?<![a-z])pc3d|venog": "angiography",
    r"fmri|bold|resting|field ?map|b0 ?map": "functional or a field map",
    r"subtr?|(?<![a-z])sub(?![a-z])|diffe|minus +(t1|pre|nativ)": "a subtraction",
    r"spectr|svs|csi|mrs(?![a-z])": "spectroscopy",
    r"stir(?![a-z])|(?<![a-z])pd(w|_|-| |$)|proton": "another contrast",
}
_NOT_A_SCAN_TYPE = {
    "LOCALIZER": "a localiser",
    "DIFFUSION": "diffusion",
    "ADC": "diffusion",
    "TRACEW": "diffusion",
    "PERFUSION": "perfusion",
    "SUBTRACTION": "a subtraction",
    "PROJECTION IMAGE": "a projection",
    "MIN IP": "susceptibility",
}
_FLAIR = r"flair|dark[ -]?fl(uid)?|(?<![a-z])da[ -]?fl(?![a-z])|tirm|(?<![a-z0-9])t2f(?![a-z])"
_T1, _T2 = r"t1(?![0-9])", r"t2(?![0-9])"
_T1_SEQUENCES = r"mp ?rage|bravo|spgr|mdeft|tfl3d|fl3d|vibe(?![a-z])"
# Before and after a treatment, and the whole examination's name, say nothing of one series.
_OTHER_BEFORE_AND_AFTER = (
    r"(?<![a-z])(pre|post)[ -]*(op|surg|rt|chemo|treat|radi)\w*"
    r"|(?<![a-z])(w|with)[ -]*(and|&)?[ -]*(w ?o|without)(?![a-z])([ -]*(contrast|gad|gd)\w*)?"
)
_AGENTS = (
    r"(i ?v ?|any )?"
    r"(contrast|kontrast|gad|gd|km|cm|ce(?![a-z])|enh|c(?![a-z])|magnevist|dotarem|prohance|multihance)\w*"
)
_WITHOUT = (
    rf"(?<![a-z])(without|w ?o|non|no|ohne|kein\w*|sans|sin|before|prior to|avant|minus)[ -]*{_AGENTS}"
    r"|(?<![a-z])(without|w ?o|ohne|sans) *$"
    rf"|(?<![a-z])(pre|vor)(?![a-z])([ -]*{_AGENTS})?|(?<![a-z])pre(contrast|gad|gd)\w*|unenhanced|nativ\w*"
    r"|(?<![a-z])plain"
    # A minus stands against a word's one side ("KM- sag", "-GD"), or last; a hyphen joins two ("T1-Gd", "Gd-DTPA").
    rf"|(?<![a-z]){_AGENTS}(-(?![a-z0-9])|[ -]*((minus|neg\w*)(?![a-z])|(-|no|none|nein) *$))|(?<= )-{_AGENTS}"
    rf"|(?<= )- +(?={_AGENTS})"  # a minus or a dash: the agent's name stays, so that neither is believed
)
_WITH = (
    r"(?<![a-z])(gd|gad|gado\w*|post(?!er)\w*|km|kontrast\w*|contrast\w*|ce|wce|enhanced|magnevist|dotarem|prohance"
    r"|multihance)(?![a-z])|\+ ?(c|gd|gad|km|cm|k)(?![a-z])|(?<![a-z])c ?\+|t1w?(c|ce|gd|km)(?![a-z])"
)
_NO = r"(no|non|none|not|n|nil|nein|kein\w*|without|w/?o|ohne|sans|sin|unknown|pre|nativ\w*|unenhanced|plain)"
_NO_AGENT = (  # how headers say that none was given: at their beginning or end, so that "Gadovist, no reaction" is one
    rf"^[\W_]*($|{_NO}(?![a-z])|(non?|pre)[ _-]?contrast|0+([.,]0*)?(?![.,\d]))|(?<![a-z]){_NO}[\W_]*$"
    r"|(?<![a-z])not (given|used|administered|injected)"
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a series is taken for. contrast: None where it is none of the four, or cannot be told. reasons: why."""

    found: Found
    contrast: str | None
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.found}: {self.contrast or 'not used'} ({'; '.join(self.reasons)})"


def read_contrast(found: Found) -> Reading:
    """The contrast of a series, told from its header."""
    header = found.header
    if what := _not_a_scan(header):
        return Reading(found=found, contrast=None, reasons=(what,))
    named, said = _by_name(header)
    measured, how = _by_measurement(header)
    reasons = [*said, *how]
    if named and measured and named != measured:
        reasons.append(f"its name says {named} and its measurement {measured}, so that neither is believed")
        return Reading(found=found, contrast=None, reasons=tuple(reasons))
    weighting = named or measured
    if weighting is None:
        return Reading(found=found, contrast=None, reasons=(*reasons, "neither name nor measurement says what it is"))
    if weighting == "T1":
        with_agent, why = has_agent(header)
        reasons += why
        if with_agent is None:
            return Reading(found=found, contrast=None, reasons=tuple(reasons))
        weighting = "T1ce" if with_agent else "T1"
    if problems := found.folder.problems:
        reasons.append(f"{weighting}, but no stack that can be used: {problems[0]}")
        return Reading(found=found, contrast=None, reasons=tuple(reasons))
    return Reading(found=found, contrast=weighting, reasons=tuple(reasons))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One series per contrast. readings: of every series that was found, chosen or not; notes: how it was chosen."""

    series: Mapping[str, Found]
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]


def choose(
    search: Search, contrasts: Sequence[str] = CONTRASTS, named: Mapping[str, str | Path] | None = None
) -> Choice:
    """The series of each contrast.

    named: by contrast the series that its user says it is, by its UID, or by a folder that holds no other. Of several
    series of one contrast, one as measured is taken before one that was computed from it, and then the one whose
    voxels' largest side is the smallest.
    Raises DicomError, with every series and what it was taken for, when a contrast has no series or several that are
    equally fine, when a named one is not there or no stack, or when the series are several patients' or studies'.
    """
    named = named or {}
    readings = tuple(read_contrast(found) for found in search.series)
    series, notes, problems = {}, [], []
    for contrast in sorted(contrasts, key=lambda contrast: contrast not in named):  # those are nobody else's
        try:
            if contrast in named:
                series[contrast] = _named(search, contrast, named[contrast])
                notes.append(f"{contrast}: {series[contrast]}, as its user says")
                continue
            taken = [series[name].uid for name in named if name in series]
            own = [reading for reading in readings if reading.contrast == contrast and reading.found.uid not in taken]
            best = _finest(contrast, own)
            series[contrast] = best.found
            rest = f"; of {len(own)} such series the finest as measured" if len(own) > 1 else ""
            notes.append(f"{contrast}: {best.found} ({'; '.join(best.reasons)}){rest}")
        except DicomError as error:
            problems.append(str(error))
    if problems:
        seen = "\n".join(f"  {reading} [{reading.found.uid}]" for reading in readings)
        raise DicomError(f"{shown(search.folder)}: {'; '.join(problems)}. The series there:\n{seen}")
    for (one, first), (other, second) in _pairs(series):
        if first.uid == second.uid:
            raise DicomError(f"expected a series of its own for {other}, found the one given for {one}: {second}")
    series = {contrast: series[contrast] for contrast in contrasts}
    _check_one_patient(search.folder, series, has_all_named=set(contrasts) <= set(named))
    return Choice(series=series, readings=readings, notes=tuple(notes))


def _pairs(series: Mapping[str, Found]) -> Iterator[tuple[tuple[str, Found], tuple[str, Found]]]:
    items = list(series.items())
    return ((one, other) for place, one in enumerate(items) for other in items[place + 1 :])


def _named(search: Search, contrast: str, name: str | Path) -> Found:
    option = f"--{contrast.lower()} {shown(name)}"
    own = [found for found in search.series if found.uid == str(name)]
    place = next((path for path in (Path(name), search.folder / name) if path.is_dir()), None)
    if not own and place is not None:
        place = place.resolve()
        own = [
            found
            for found in search.series
            if any(image.path.resolve().is_relative_to(place) for image in found.folder.images)
        ]
    if len(own) != 1:
        raise DicomError(
            f"{option}: expected a series' UID, or a folder with one series, found {len(own) or 'none'} of this name"
        )
    own[0].folder.series()  # says what keeps it from being a stack
    return own[0]


def _finest(contrast: str, own: Sequence[Reading]) -> Reading:
    if not own:
        raise DicomError(f"no series is {contrast}: name it with --{contrast.lower()} UID (or its folder)")

    def key(reading: Reading) -> tuple[bool, float]:
        return "DERIVED" in reading.found.header["ImageType"].split("\\")[:1], max(
            reading.found.folder.series().spacing_mm
        )

    ranked = sorted(own, key=key)
    if len(ranked) > 1:
        (computed, side), (also, other) = key(ranked[0]), key(ranked[1])
        if computed == also and other <= side * (1 + SAME_SIZE):
            which = " and ".join(f"{reading.found} [{reading.found.uid}]" for reading in ranked[:2])
            raise DicomError(
                f"{len(own)} series are {contrast} and equally fine, {which}: name one with --{contrast.lower()} UID"
            )
    return ranked[0]


def _check_one_patient(folder: Path, series: Mapping[str, Found], *, has_all_named: bool) -> None:
    """Scans of two days are registered without complaint, and show two tumours."""
    for keyword, what in (("PatientID", "patient"), ("StudyInstanceUID", "study")):
        found = {name: one.header[keyword] for name, one in series.items()}
        if len(set(found.values())) > 1 and not (what == "study" and has_all_named):
            dates = ", ".join(f"{name} {found[name] or 'none'} {series[name].header['StudyDate']}" for name in series)
            raise DicomError(
                f"{shown(folder)}: expected the series of one {what}, found several ({dates}): give the folder of one"
                + (", or name all series" if what == "study" else "")
            )


def _words(name: str) -> str:
    return re.sub(r"[_/.,()\[\]:]+", " ", name.lower().replace("(-)", " minus "))


def _not_a_scan(header: Header) -> str | None:
    if (modality := header["Modality"]) != "MR":
        return f"modality {modality or 'not given'}"
    for kind in header["ImageType"].upper().split("\\"):
        if kind in _NOT_A_SCAN_TYPE:
            return f"{_NOT_A_SCAN_TYPE[kind]}, image type {kind}"
    if header.number("DiffusionBValue"):
        return f"diffusion, b = {header.number('DiffusionBValue'):g}"
    if header["AngioFlag"] == "Y":
        return "angiography, by its flag"
    name = _words(header.name)
    for pattern, what in _NOT_A_SCAN.items():
        if match := re.search(pattern, name):
            return f'{what}, "{match[0].strip()}" in its name'
    return None


def _by_name(header: Header) -> tuple[str | None, list[str]]:
    name = _words(header.name)
    flair, t1, t2 = (bool(re.search(pattern, name)) for pattern in (_FLAIR, _T1, _T2))
    t1 = t1 or bool(re.search(_T1_SEQUENCES, name))
    if t1 and t2:
        return None, ["its name says both T1 and T2"]
    weighting = "T1" if t1 else "FLAIR" if flair else "T2" if t2 else None
    return weighting, [f'{weighting} by its name "{header.name}"'] if weighting else []


def _by_measurement(header: Header) -> tuple[str | None, list[str]]:
    """The weighting that echo, repetition and inversion time make, where they are given and leave no doubt."""
    echo, repetition, inversion = (header.number(f"{kind}Time") for kind in ("Echo", "Repetition", "Inversion"))
    if echo is None or repetition is None:
        return None, []
    times = f"TE {echo:g} ms, TR {repetition:g} ms" + (f", TI {inversion:g} ms" if inversion else "")
    found = None
    if inversion and FLAIR_INVERSION[0] <= inversion <= FLAIR_INVERSION[1] and echo >= LEAST_T2_ECHO:
        found = "FLAIR"
    elif echo <= MOST_T1_ECHO and (
        repetition <= MOST_T1_REPETITION or (inversion and T1_INVERSION[0] <= inversion <= T1_INVERSION[1])
    ):
        found = "T1"
    elif not inversion and echo >= LEAST_T2_ECHO and repetition >= LEAST_T2_REPETITION:
        # Some scanners leave the inversion time of a FLAIR out: only its name tells it from a T2.
        found = None if re.search(_FLAIR, _words(header.name)) else "T2"
    return found, [f"{found} by {times}"] if found else []


def has_agent(header: Header) -> tuple[bool | None, list[str]]:
    """Whether a T1 was measured with contrast agent, and why; None where name and header contradict each other."""
    agent = header["ContrastBolusAgent"]
    in_header = not re.search(_NO_AGENT, agent.lower())
    names = [re.sub(_OTHER_BEFORE_AND_AFTER, " ", _words(name)) for name in header.name.split(" / ")]
    rests = [re.sub(_WITHOUT, " ", name) for name in names]
    without, with_agent = rests != names, any(re.search(_WITH, rest) for rest in rests)
    reasons = [f'contrast agent "{agent}" in its header'] if in_header else []
    if without and with_agent:
        return None, [*reasons, "its name says both with and without contrast agent"]
    if without:
        reasons.append("its name says without contrast agent")
        if in_header:
            return None, [*reasons, "which contradict each other"]
        return False, reasons
    if with_agent:
        return True, [*reasons, "its name says with contrast agent"]
    return in_header, reasons or ["no contrast agent in its header or name"]
