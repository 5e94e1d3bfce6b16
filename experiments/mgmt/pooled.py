"""Patients of several hospitals in one training: how its data.json names them, and where their images are found."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.cohort import find_subjects
from common.files import typed
from common.runs import RunError
from mgmt_classifier import scans
from mgmt_classifier.config import Config
from mgmt_classifier.scans import Cut

if TYPE_CHECKING:
    from mgmt_classifier.data import Entry

DEFAULT_CUT = Cut(plane="axial", between_mm=5.0, extent_mm=(155.0, 240.0, 240.0))
"""Where no site has DICOM series: BraTS's field of view, in images as thick as most clinical ones (D)."""


def pooled_id(site: str, subject: str) -> str:
    """One id of a subject among several sites: ``case_001`` is another patient in every hospital."""
    return f"{site}:{subject}"


def site_in_data(folder: Path, cuts: Mapping[str, Cut]) -> dict[str, object]:
    """What a training's data.json says of a site."""
    return {"folder": folder.resolve(), "cuts": {contrast: asdict(cut) for contrast, cut in cuts.items()}}


def site_entries(
    described: Mapping[str, Mapping],
    config: Config,
    used: Iterable[str],
    prepared: Path,
    *,
    jobs: int,
    local_copy: Path | None,
) -> "dict[str, Entry]":
    """Prepared images of the sites' subjects among ``used``, by the pool's ids. described: as data.json holds it.

    Raises RunError when it is damaged.
    """
    used, found = set(used), {}
    for name, site in described.items():
        try:
            cut = typed(Cut, site["cuts"][config.contrast])
            folder = Path(site["folder"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"expected folder and cuts of the site {name} in data.json, found: {error!r}") from error
        wanted = [s for s in find_subjects(folder, masks=False).subjects if pooled_id(name, s.id) in used]
        recipe = scans.ScanRecipe(slices=config.recipe, cut=cut)
        store = scans.prepare(wanted, recipe, prepared, n_jobs=jobs, local_copy=local_copy)
        for id, entry in store.entries.items():
            found[pooled_id(name, id)] = replace(entry, id=pooled_id(name, id))
    return found
