"""One's own patient: some scans in, one segmentation and its volumes in ml out; the same for every network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common import nifti
from common.labels import CONVENTIONS
from common.metrics import volume_ml
from common.recipe import Recipe, Volume, misfit, transform
from common.scoring import MEMBERS
from common.subject import Subject, examine_arrays


@dataclass(frozen=True, kw_only=True)
class PatientArguments:
    """What every network's command for one's own patient is told."""

    run: Path
    """Folder of the training run, for example runs/<experiment>/..."""
    flair: Path | None = None
    """FLAIR scan, .nii or .nii.gz."""
    t1: Path | None = None
    """T1 scan."""
    t1ce: Path | None = None
    """T1 scan with contrast agent."""
    t2: Path | None = None
    """T2 scan."""
    output: Path
    """Segmentation to write, .nii or .nii.gz, on the scans' grid."""
    labels: Literal["brats2018", "brats2023", "msd"] = "brats2018"
    """Label values of the segmentation: NCR/ED/ET are 1/2/4, 1/2/3 or 2/1/3."""


def segment(arguments: PatientArguments, recipe: Recipe, predict: Callable[[Volume], np.ndarray]) -> dict[str, float]:
    """Write the segmentation and return the volume of each label and region in ml.

    predict: classes uint8 (x, y, z) on the scan's own grid, from what the recipe makes of it. Raises ValueError when a
    scan that the recipe needs is not given, cannot be trusted, or is not as the network expects it.
    """
    given = {"FLAIR": arguments.flair, "T1": arguments.t1, "T1ce": arguments.t1ce, "T2": arguments.t2}
    if missing := [name for name in recipe.contrasts if given[name] is None]:
        options = ", ".join(f"--{name.lower()}" for name in recipe.contrasts)
        raise ValueError(f"expected {options} for this network, received no {', '.join(missing)}")
    images = {name: given[name] for name in recipe.contrasts}
    subject = Subject(id="patient", images=images)
    scans, _ = subject.read(recipe.contrasts)
    if problems := examine_arrays(subject, scans, None).problems:
        raise ValueError("; ".join(str(problem) for problem in problems))
    scan = scans[recipe.contrasts[0]]
    if not np.allclose(scan.spacing_mm, 1, atol=0.05):
        spacing = " x ".join(f"{side:.3g}" for side in scan.spacing_mm)
        raise ValueError(f"{images[recipe.contrasts[0]]}: expected voxels of 1 mm as in BraTS, found {spacing} mm")
    # The network has only seen brains that lie as BraTS stores them; the answer goes back to the scan's own axes.
    turned = {name: replace(each, data=nifti.to_axes(each.data, each.affine)) for name, each in scans.items()}
    for name, file in images.items():
        if reason := misfit(turned, replace(recipe, contrasts=(name,))):
            raise ValueError(f"{file}: {reason}")
    labels = nifti.from_axes(predict(transform(subject.id, turned, None, recipe)), scan.affine)
    nifti.write(arguments.output, CONVENTIONS[arguments.labels].from_classes(labels), like=scan)
    return {name: volume_ml(np.isin(labels, values), spacing_mm=scan.spacing_mm) for name, values in MEMBERS.items()}


def report(volumes_ml: dict[str, float], output: Path) -> None:
    """Print the volumes and where the segmentation lies."""
    for name, millilitres in volumes_ml.items():
        print(f"{name:>4}  {millilitres:8.2f} ml")
    print(f"written: {output}")
