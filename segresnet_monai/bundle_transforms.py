"""What a MONAI bundle of a SegResNet is made of beside MONAI: the suite's preparation, windows and decision.

This file becomes the bundle's ``scripts``, with copies of the modules of ``common`` that it needs, so that a bundle
runs without the suite and prepares a scan with the very same code.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference

from common import nifti
from common.grid import bring
from common.labels import CONVENTIONS, REGIONS
from common.recipe import Recipe, misfit, transform
from common.regions import Decision, decode_labels, decode_regions
from common.subject import Subject, examine_arrays

FILE_NAMES = {
    "FLAIR": ("flair", "t2f"),
    "T1": ("t1", "t1n"),
    "T1ce": ("t1ce", "t1c"),
    "T2": ("t2", "t2w"),
}
"""How a contrast's file is called after the last ``_`` or ``-``, in BraTS 2018 and 2023."""
_NAME = re.compile(r"(?:([^.].*)[_-])?([^._-]+)\.nii(?:\.gz)?", re.IGNORECASE)


def cases(folder: str, contrasts: Sequence[str]) -> list[dict[str, str]]:
    """One entry of files by contrast for every patient below ``folder``, whose id is what its files' names begin with,
    or their folder's name where they have no such beginning.

    Raises ValueError without any, and for a patient that lacks a contrast, has two of one, or lies in two folders.
    """
    contrast_of = {name: contrast for contrast in contrasts for name in FILE_NAMES[contrast]}
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(Path(folder).rglob("*")):
        named = _NAME.fullmatch(path.name)
        contrast = named and contrast_of.get(named[2].lower())
        if contrast is None or not path.is_file():
            continue
        patient = named[1] or path.parent.name
        files = found.setdefault(patient, {})
        other = files.get(contrast) or next((each for each in files.values() if each.parent != path.parent), None)
        if other is not None:
            raise ValueError(f"{patient}: expected one file of each contrast in one folder, found {other} and {path}")
        files[contrast] = path
    for patient, files in found.items():
        if missing := [contrast for contrast in contrasts if contrast not in files]:
            beside = next(iter(files.values()))
            raise ValueError(f"{beside}: expected {', '.join(missing)} of {patient} beside it, found none")
    if not found:
        raise ValueError(
            f"{folder}: expected folders that hold {', '.join(contrasts)} (ID_flair.nii.gz, ...), found none"
        )
    return [{"id": patient, **{name: str(files[name]) for name in contrasts}} for patient, files in found.items()]


class Prepare:
    """A patient's files by contrast to ``image``, float32 (contrast, x, y, z) of the brain's box, and ``volume``, which
    knows the way back. Raises ValueError for scans that the network must not see."""

    def __init__(self, recipe: Mapping[str, object]) -> None:
        tuples = {name: _tuple(value) for name, value in recipe.items()}
        self.recipe = Recipe(**tuples)

    def __call__(self, data: Mapping[str, object]) -> dict[str, object]:
        subject = Subject(str(data["id"]), {contrast: Path(str(data[contrast])) for contrast in self.recipe.contrasts})
        scans, _ = subject.read(self.recipe.contrasts)
        if problems := examine_arrays(subject, scans, None).problems:
            raise ValueError("; ".join(map(str, problems)))
        brought = bring(scans, None, self.recipe.grid)
        if reason := misfit(brought.scans, self.recipe):
            raise ValueError(f"{subject.id}: {reason}")
        volume = transform(subject.id, brought, self.recipe)
        first = subject.images[self.recipe.contrasts[0]]
        affine = nifti.affine_mm(nifti.read_header(first))
        return {"image": torch.from_numpy(volume.image()), "volume": volume, "affine": affine, "id": subject.id}


def run(patients: Iterable[Mapping[str, object]], network: torch.nn.Module, inferer: Inferer, finish: Callable) -> None:
    """Segment one prepared patient after the other. finish: postprocessing."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        for patient in patients:
            finish(patient | {"pred": inferer(patient["image"][None].to(device), network)})


class Together(torch.nn.Module):
    """Several networks of one definition on one window: their logits one after the other, (n, network * channel, ...).

    Not their mean, for logits of windows are put together before they become probabilities, each network's own.
    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = {network: network(x) for network in dict.fromkeys(self.networks)}
        return torch.cat([logits[network] for network in self.networks], dim=1)


class Windows(Inferer):
    """Sliding windows of the scan and its flips to mean probabilities (1, channel, x, y, z) of the networks."""

    def __init__(
        self, size: Sequence[int], *, overlap: float, weights: str, flips: Sequence[Sequence[int]], softmax: bool
    ) -> None:
        super().__init__()
        self.size, self.overlap, self.weights, self.flips, self.softmax = size, overlap, weights, flips, softmax

    def __call__(self, inputs: torch.Tensor, network: Together, *args: object, **kwargs: object) -> torch.Tensor:
        total = 0
        for flips in self.flips:
            axes = [axis + 2 for axis in flips]
            logits = sliding_window_inference(
                inputs.flip(axes), self.size, 1, network, overlap=self.overlap, mode=self.weights
            ).flip(axes)
            several = logits.float().unflatten(1, (len(network.networks), -1))
            total = total + (several.softmax(2)[:, :, 1:] if self.softmax else several.sigmoid()).mean(1)
        return total / len(self.flips)


class Decide:
    """Probabilities ``pred`` of a patient's box to label values of a convention, uint8 (1, x, y, z) on the scans' grid.

    threshold: of labels; None takes the most probable of them and background. decision: of regions.
    """

    def __init__(
        self,
        *,
        decision: Mapping[str, object] | None,
        threshold: float | None,
        regions: bool,
        labels: str = "brats2018",
    ) -> None:
        if regions and decision is None:
            decision = {"thresholds": (threshold,) * len(REGIONS)}
        self.decision = None if decision is None else Decision(**{k: _tuple(v) for k, v in decision.items()})
        self.threshold, self.regions, self.convention = threshold, regions, CONVENTIONS[labels]

    def __call__(self, data: dict[str, object]) -> dict[str, object]:
        volume, found = data["volume"], data["pred"][0].cpu().numpy()
        probability, region = volume.on_working_grid(found, volume.box)
        if self.regions:
            labels = decode_regions(probability, self.decision, voxel_ml=volume.placement.voxel_ml)
        else:
            labels = decode_labels(probability, self.threshold)
        values = self.convention.from_classes(volume.to_source(labels, region))
        meta = {"filename_or_obj": f"{data['id']}.nii.gz", "affine": torch.from_numpy(data["affine"])}
        return data | {"pred": MetaTensor(torch.from_numpy(values)[None], meta=meta)}


def _tuple(value: object) -> object:
    return tuple(map(_tuple, value)) if isinstance(value, (list, tuple)) else value
