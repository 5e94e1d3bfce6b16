"""How a folder of scans is read: what commands are told of it, and what their runs' folders keep."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from common.cohort import Cohort, CohortError, find_subjects
from common.labels import Cavity


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a folder of scans is read, where it does not tell by itself."""

    layout: Path | None = None
    """Mapping file (TOML, six lines: see common.cohort.mapping) of a folder in none of the known layouts."""
    convention: str | None = None
    """Name of the masks' label convention, where the folder cannot tell it for certain."""
    cavity: Cavity | None = None
    """What becomes of the resection cavity (RC of BraTS 2024), which no network here knows: background, or subjects
    whose masks hold one are left out. Without it masks with RC are refused where a network is concerned."""

    def find(self, folder: Path, *, max_subjects: int | None = None, patients: Path | None = None) -> Cohort:
        """The subjects in a folder. Raises CohortError as :func:`common.cohort.find_subjects`."""
        return find_subjects(
            folder,
            layout=self.layout,
            convention=self.convention,
            cavity=self.cavity,
            max_subjects=max_subjects,
            patients=patients,
        )


def kept(options: Mapping[str, object]) -> Reading:
    """The reading among the options that a run's config.json holds; older ones hold part of it."""
    found = {field.name: options.get(field.name) for field in fields(Reading)}
    return Reading(**found | {"layout": None if found["layout"] is None else Path(str(found["layout"]))})


def refuse_cavity(cohort: Cohort) -> None:
    """Raises CohortError when masks of a cohort that a network is to see have the resection cavity as a class."""
    if cohort.with_cavity:
        raise CohortError(
            f"{cohort.folder}: expected masks of NCR, ED and ET, found {cohort.with_cavity} of {len(cohort.subjects)} "
            "that may hold the resection cavity (RC), which the network does not know: --cavity background reads it as "
            "background, --cavity leave-out leaves out subjects that have one"
        )


def refuse_unlabelled(cohort: Cohort) -> None:
    """Raises CohortError unless every subject has a mask."""
    if missing := [subject.id for subject in cohort.subjects if subject.label is None]:
        raise CohortError(
            f"{cohort.folder}: expected a mask for every subject, {len(missing)} have none, the first "
            f"{missing[0]}; python -m segresnet_monai.predict --run RUN --data FOLDER --output FOLDER needs none"
        )
