"""Dice, Hausdorff and HD95 of five masks: ``python -m benchmarks.scoring [--data FOLDER] [--json PATH] [--repeats N]``.

Ours is ``common.scoring.score_case``, which also gives surface Dice and volumes. The peers get their boolean masks
ready-made, outside the clock, and give Dice, Hausdorff and HD95:

- MONAI: ``compute_dice`` and ``compute_hausdorff_distance`` twice (maximum and 95th percentile), five channels a call.
- surface-distance: ``compute_surface_distances`` once per mask, both percentiles and Dice from it.

Without ``--data`` the truth is a synthetic ellipsoid tumour. Predictions are the truth with the errors that networks
make (:func:`with_errors`), and once a collapsed one, the whole brain called tumour.
A subject without one of the classes is named and not timed: surface-distance 0.1 fails on empty masks under numpy 2.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tyro
from scipy import ndimage

from benchmarks.compare import Arguments, Row, compare, report, seconds
from common.labels import CLASSES
from common.scoring import MASKS, MEMBERS, score_case

SHAPE = (240, 240, 155)
SPACING_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """What to time."""

    max_subjects: int = 3
    """Subjects taken from the data folder."""


def tumour(seed: int = 0) -> np.ndarray:
    """Synthetic truth, uint8 classes (240, 240, 155): nested rough ellipsoids of ED, ET and NCR, about 70 ml."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(size) for size in SHAPE)]
    centre, radii = (150, 100, 80), (32, 26, 22)
    squares = (((axis - middle) / radius) ** 2 for axis, middle, radius in zip(axes, centre, radii, strict=True))
    rough = ndimage.zoom(rng.normal(size=(24, 24, 16)), np.divide(SHAPE, (24, 24, 16)), order=1)
    depth = np.sqrt(sum(squares)) + 0.1 * rough
    return np.select([depth < 0.4, depth < 0.65, depth < 1], [1, 3, 2], default=0).astype(np.uint8)


def with_errors(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """A prediction: shifted by two voxels, ET thinner, ED grown in patches, a false tumour far from the true one."""
    rng = np.random.default_rng(seed)
    prediction = np.roll(truth, (1, -2, 1), (0, 1, 2))
    enhancing = prediction == 3
    prediction[enhancing & ~ndimage.binary_erosion(enhancing)] = 1
    rim = ndimage.binary_dilation(prediction > 0, iterations=2) & (prediction == 0)
    prediction[rim & (ndimage.gaussian_filter(rng.normal(size=truth.shape), 3) > 0)] = 2
    mirrored = np.array(truth.shape) - ndimage.center_of_mass(truth > 0)
    axes = np.ogrid[tuple(slice(size) for size in truth.shape)]
    away = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(axes, mirrored, strict=True)))
    for radius, label in ((8, 2), (4, 1), (2, 3)):
        prediction[away < radius] = label
    return prediction


def collapsed() -> np.ndarray:
    """A prediction as large as a brain: nested ellipsoids of the three classes."""
    axes = np.ogrid[tuple(slice(size) for size in SHAPE)]
    centre, radii = (120, 120, 77), (70, 88, 65)
    depth = np.sqrt(sum(((a - middle) / radius) ** 2 for a, middle, radius in zip(axes, centre, radii, strict=True)))
    return np.select([depth < 0.3, depth < 0.5, depth < 1], [1, 3, 2], default=0).astype(np.uint8)


def cases(options: Options) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, prediction, truth) of each comparison."""
    if options.data is None:
        truth = tumour()
        yield "synthetic tumour", with_errors(truth), truth
    else:
        from common.cohort import find_subjects

        for subject in find_subjects(options.data).subjects[: options.max_subjects]:
            truth = np.ascontiguousarray(subject.load_labels())
            if np.unique(truth).size < len(CLASSES):
                print(f"{subject.id}: not timed, its truth lacks a class")
                continue
            yield subject.id, with_errors(truth), truth
    yield "collapsed prediction", collapsed(), tumour()


def monai(prediction: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of boolean (mask, x, y, z), one per mask."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    pair = {"y_pred": torch.from_numpy(prediction[None]), "y": torch.from_numpy(truth[None])}
    pair |= {"include_background": True}
    return {
        "dice": compute_dice(**pair)[0].numpy(),
        "hd": compute_hausdorff_distance(**pair, spacing=SPACING_MM)[0].numpy(),
        "hd95": compute_hausdorff_distance(**pair, spacing=SPACING_MM, percentile=95)[0].numpy(),
    }


def surface_distance(prediction: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of boolean (mask, x, y, z), one per mask."""
    import surface_distance as peer

    scores: dict[str, list[float]] = {"dice": [], "hd": [], "hd95": []}
    for mask, true in zip(prediction, truth, strict=True):
        distances = peer.compute_surface_distances(true, mask, SPACING_MM)
        scores["dice"].append(peer.compute_dice_coefficient(true, mask))
        scores["hd"].append(peer.compute_robust_hausdorff(distances, 100))
        scores["hd95"].append(peer.compute_robust_hausdorff(distances, 95))
    return {metric: np.array(values) for metric, values in scores.items()}


def difference(ours: Mapping[str, float], theirs: Mapping[str, np.ndarray]) -> str:
    """Largest absolute difference per metric over the five masks, in words."""
    largest = {
        metric: max(abs(ours[f"{metric}_{name}"] - float(value)) for name, value in zip(MASKS, values, strict=True))
        for metric, values in theirs.items()
    }
    return ", ".join(f"{metric} {value:.1e}" for metric, value in largest.items())


def main(options: Options) -> None:
    """Time every case against both peers, show how far the values differ, print and write the rows."""
    rows: list[Row] = []
    for name, prediction, truth in cases(options):
        masks = [np.stack([np.isin(labels, MEMBERS[mask]) for mask in MASKS]) for labels in (prediction, truth)]
        ours = score_case(prediction, truth, spacing_mm=SPACING_MM)
        print(f"{name}: largest difference from MONAI: {difference(ours, monai(*masks))}")
        print(f"{name}: largest difference from surface-distance: {difference(ours, surface_distance(*masks))}")
        rows += compare(
            f"scoring, {name}",
            lambda p=prediction, t=truth: score_case(p, t, spacing_mm=SPACING_MM),
            {"MONAI": lambda m=masks: monai(*m), "surface-distance": lambda m=masks: surface_distance(*m)},
            repeats=options.repeats,
            floor_s=min(seconds(lambda p=prediction, t=truth: (p.max(), t.max())) for _ in range(5)),
            floor="each voxel of both volumes read once",
        )
    print(
        "MONAI interpolates HD95 between ranks in single precision, hence differences of up to about 1e-5 of the value."
    )
    print(
        "Hausdorff of surface-distance differs by definition: its surface runs through voxel corners, half a voxel "
        "out, and its percentile weighs each point by surface area; ours and MONAI's count surface voxels."
    )
    report(rows, options.json)


if __name__ == "__main__":
    # MONAI 1.6 calls its own function with an argument that it has deprecated.
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
    # surface-distance 0.1 reaches scipy.ndimage through its deprecated namespaces.
    warnings.filterwarnings("ignore", message="Please import", category=DeprecationWarning, module="surface_distance")
    main(tyro.cli(Options, description=__doc__))
