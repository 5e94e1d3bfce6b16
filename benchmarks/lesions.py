"""Lesion-wise scores of five regions: ``python -m benchmarks.lesions [--data FOLDER] [--json PATH] [--repeats N]``.

Ours is ``common.lesions.lesion_scores``. The peer, :func:`plain`, writes the organisers' definition of 2023 down as it
reads, as their program does: whole volumes dilated and labelled, masks of the whole volume for every lesion, distances
by the package surface-distance. Cases are those of ``benchmarks.scoring``.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import tyro
from scipy import ndimage

from benchmarks.compare import Row, compare, report, seconds
from benchmarks.scoring import SPACING_MM, Options, cases
from common.lesions import BRATS_2023, BRATS_2024, REGIONS, lesion_scores
from common.scoring import MASKS


def plain(prediction: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    """Lesion-wise Dice and HD95 in mm of each mask, definition of 2023, voxels of 1 mm."""
    import surface_distance

    neighbours, everywhere = (ndimage.generate_binary_structure(3, rank) for rank in (2, 3))
    found = {}
    for name in MASKS:
        predicted, true = (np.isin(labels, REGIONS[name]) for labels in (prediction, truth))
        parts, n_parts = ndimage.label(predicted, everywhere)
        grown = ndimage.binary_dilation(true, neighbours, iterations=BRATS_2023.dilation)
        lesions, n_lesions = ndimage.label(grown, everywhere)
        dice, hd95, matched = [], [], set()
        for number in range(1, n_lesions + 1):
            lesion = true & (lesions == number)
            matches = np.setdiff1d(parts[lesions == number], [0])
            matched |= set(matches.tolist())
            if lesion.sum() <= BRATS_2023.threshold:
                continue
            both = np.isin(parts, matches)
            dice.append(2 * (lesion & both).sum() / (lesion.sum() + both.sum()))
            hd95.append(BRATS_2023.charged_mm)
            if matches.size:
                distances = surface_distance.compute_surface_distances(lesion, both, SPACING_MM)
                hd95[-1] = surface_distance.compute_robust_hausdorff(distances, 95)
        invented = n_parts - len(matched)
        n = len(dice) + invented
        found[name] = (sum(dice) / n, (sum(hd95) + BRATS_2023.charged_mm * invented) / n) if n else (1.0, 0.0)
    return found


def difference(ours: Mapping, theirs: Mapping[str, tuple[float, float]]) -> float:
    """Largest difference of a Dice or an HD95 in mm over the masks."""
    return max(
        max(abs(ours[name].dice - dice), abs(ours[name].hd95_mm - hd95)) for name, (dice, hd95) in theirs.items()
    )


def main(options: Options) -> None:
    """Time every case under each definition, show how far the values differ, print and write the rows."""
    rows: list[Row] = []
    for name, prediction, truth in cases(options):
        peer: Callable[[], Mapping] = partial(plain, prediction, truth)
        ours = {
            each.name: partial(lesion_scores, prediction, truth, spacing_mm=SPACING_MM, definitions=[each])
            for each in (BRATS_2023, BRATS_2024)
        }
        print(f"{name}: largest difference, 2023: {difference(ours['brats2023']()['brats2023'], peer()):.1e}")
        floor_s = min(seconds(lambda p=prediction, t=truth: (p.max(), t.max())) for _ in range(5))
        for definition, work in ours.items():
            rows += compare(
                f"{definition}, {name}",
                work,
                {"whole volumes (2023)": peer},
                repeats=options.repeats,
                floor_s=floor_s,
                floor="each voxel of both volumes read once",
                warmup=0,
            )
    report(rows, options.json)


if __name__ == "__main__":
    # surface-distance 0.1 reaches scipy.ndimage through its deprecated namespaces.
    warnings.filterwarnings("ignore", message="Please import", category=DeprecationWarning, module="surface_distance")
    main(tyro.cli(Options, description=__doc__))
