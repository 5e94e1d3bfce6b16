"""Pictures of a comparison of methods: cases with every method's labels, sizes of labels, lesions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.lesions import BRATS_2023
from common.words import plural
from experiments.drawing.scans import SHOWN_CONTRASTS, Row, box, cut, draw_rows, overlay, window
from experiments.drawing.style import save_for_screen
from experiments.evaluation.page import Shown
from experiments.segmentation.label_size import draw_label_sizes
from experiments.segmentation.lesion_detection import draw_detection

MOST_METHODS = 6
"""Beside each other in a picture."""


def chosen(cases: pd.DataFrame) -> dict[str, str]:
    """Rank -> case: best, median and worst by the methods' mean Dice of WT; of few cases the same is not named twice.

    A mask that is rightly empty counts as 1; of an even number of cases the median is the better one of the two.
    """
    dice = cases.assign(dice_WT=cases["dice_WT"].fillna(1)).groupby("case", sort=True)["dice_WT"].mean()
    order = dice.sort_values(ascending=False, kind="stable").index
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    ranks = {order[place]: rank for rank, place in reversed(places.items())}
    return {rank: case for case, rank in reversed(ranks.items())}


def draw_cases(
    path: Path,
    shown: Sequence[Shown],
    cases: pd.DataFrame,
    *,
    synthetic: bool,
) -> None:
    """FLAIR, T1ce, truth and each method's labels, one row per case, in the slice with most tumour.

    cases: their scores, of which the Dice of WT is written beside them.
    """
    dice = cases.set_index(["case", "method"])["dice_WT"]
    rows, names = [], []
    for rank, subject, truth, predicted in shown:
        names = list(predicted)[:MOST_METHODS]
        images, scan = subject.load_images(SHOWN_CONTRASTS)
        (true, *labels), view = cut((truth, *(predicted[name] for name in names)), scan.affine)
        (*scans,), _ = cut(images, scan.affine)
        area = np.count_nonzero(true if true.any() else labels[0], axis=(1, 2))
        position = int(area.argmax())
        inside = box(np.stack([image[position] for image in scans]))
        grey = [window(image[position])[inside] for image in scans]
        overlays = [overlay(grey[0], classes[position][inside]) for classes in (true, *labels)]
        values = ", ".join(_dice(dice[subject.id, name]) for name in names)
        title = f"{rank}: {subject.id}, slice {position + 1}"
        rows.append(Row(title, f"Dice of WT {values}", (*grey, *overlays), view))
    left = cases["method"].nunique() - len(names)
    text = f"{plural(cases['case'].nunique(), 'case')} ranked by the methods' mean Dice of WT"
    text += f"; {plural(left, 'more method')}" * (left > 0)
    figure = draw_rows(rows, (*SHOWN_CONTRASTS, "truth", *names), text=text, synthetic=synthetic)
    save_for_screen(figure, path)


def _dice(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def draw_method(figures: Path, method: str, sizes: pd.DataFrame, lesions: pd.DataFrame, *, synthetic: bool) -> None:
    """Two pictures of one method: sizes of labels against their Dice, and of lesions against their detection.

    sizes: as in label_size.csv. lesions: as in lesions.csv.
    """
    n = sizes["case"].nunique()
    save_for_screen(
        draw_label_sizes(sizes, text=f"{method}: {plural(n, 'case')}", synthetic=synthetic),
        figures / f"label_size_{method}.png",
    )
    own = lesions[lesions["definition"] == BRATS_2023.name]
    save_for_screen(draw_detection(own, synthetic=synthetic), figures / f"lesions_{method}.png")
