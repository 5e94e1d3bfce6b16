"""Figures 4, 7 and 9: truth and prediction side by side."""

import numpy as np
import pandas as pd

from common.picture import cut, overlay, window
from experiments.drawing.scans import Row, box, draw_rows, truth_and_prediction, tumour_slice
from experiments.figures.sources import Drawing, FinishedRun, Sources

RAW = "before_postprocessing"
FALSE_POSITIVES = "false_positive_voxels_WT"
FINAL_PART = "seed0/test"


def unet3d_prediction(sources: Sources) -> Drawing:
    """Fig. 7: truth and the 3D U-Net's prediction."""
    return _best_median_worst(sources.run("unet3d"), "3D U-Net")


def segresnet_prediction(sources: Sources) -> Drawing:
    """Fig. 9: truth and the final SegResNet's prediction."""
    return _best_median_worst(sources.run("table2_final"), "final SegResNet", inside=FINAL_PART)


def ranked(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases from the best whole-tumour Dice to the worst; undefined (no tumour in truth and prediction) is the best."""
    return cases.sort_values("dice_WT", ascending=False, kind="stable", key=lambda dice: dice.fillna(1))


def median(cases: pd.DataFrame) -> pd.Series:
    """The case in the middle of the ranks, of an even number the better one."""
    return ranked(cases).iloc[(len(cases) - 1) // 2]


def _best_median_worst(run: FinishedRun, network: str, *, inside: str = "") -> Drawing:
    cases = run.cases(inside)
    order = ranked(cases)
    # With fewer than three cases the same one would be shown twice.
    chosen = {"best": order.iloc[0], "median": median(cases), "worst": order.iloc[-1]}
    chosen = {case["case"]: (name, case) for name, case in reversed(chosen.items())}
    rows = []
    for name, case in reversed(chosen.values()):
        subject = run.subject(case["case"])
        predicted = run.prediction(subject, inside=inside)
        with run.readable():
            rows.append((f"{name}: {subject.id}", tumour_slice(subject, predicted, subject.load_labels()), case))
    figure = truth_and_prediction(
        rows, text=f"{network[0].upper()}{network[1:]}: {len(cases)} test cases", synthetic=run.synthetic
    )
    caption = (
        f"Truth and prediction of the {network} for the best, median and worst of {len(cases)} test cases by "
        "whole-tumour Dice, in the axial slice with the largest tumour area of the truth; both over FLAIR. Dice is of "
        f"the whole scan. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


def unet25d_postprocessed(sources: Sources) -> Drawing:
    """Fig. 4: truth, the 2.5D U-Net's prediction, and the same post-processed."""
    run = sources.run("unet25d")
    cases, every = run.cases(), run.table("cases.csv", ("case", "view", FALSE_POSITIVES))
    raw = every[every["view"] == RAW].set_index("case")
    with run.readable():
        if lost := sorted(set(cases["case"]) - set(raw.index)):
            raise ValueError(f"{run.folder / 'cases.csv'}: expected the view {RAW} of {', '.join(lost)}, found none")
    after = cases.set_index("case")
    removed = (raw[FALSE_POSITIVES] - after[FALSE_POSITIVES]).loc[after.index]
    rows = [
        _cleaned(run, median(cases)["case"], "median Dice", raw, after, changed=False),
        _cleaned(run, removed.idxmax(), "most false positives removed", raw, after, changed=True),
    ]
    names = ("FLAIR", "truth", "prediction (argmax)", "post-processed")
    figure = draw_rows(rows, names, text=f"2.5D U-Net: {len(cases)} test cases", synthetic=run.synthetic)
    caption = (
        "Truth, the 2.5D U-Net's prediction (most probable class) and the same after thresholding and morphological "
        f"operations, over FLAIR. Above: {rows[0].title}, the one with the largest tumour area. Below: "
        f"{rows[1].title}, the one that changed most. False positives are voxels called tumour that are none in the "
        f"truth; over all {len(cases)} test cases post-processing changed their number by "
        f"{int(-removed.sum()):+d}, from {int(raw.loc[after.index, FALSE_POSITIVES].sum())}. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


def _cleaned(run: FinishedRun, case: str, why: str, raw: pd.DataFrame, after: pd.DataFrame, *, changed: bool) -> Row:
    """FLAIR, truth, prediction and post-processed in one axial slice: that with most changes, or with most tumour."""
    subject = run.subject(case)
    predicted, cleaned = run.prediction(subject, view=RAW), run.prediction(subject)
    with run.readable():
        images, scan = subject.load_images(("FLAIR",))
        truth = subject.load_labels()
    (grey, *labels), view = cut((*images, truth, predicted, cleaned), scan.affine)
    differing = np.count_nonzero(labels[1] != labels[2], axis=(1, 2))
    area = np.count_nonzero(labels[0], axis=(1, 2))
    position = int((differing if changed and differing.any() else area).argmax())
    inside = box(grey[position])
    base = window(grey[position])[inside]
    counts = [int(table.loc[case, FALSE_POSITIVES]) for table in (raw, after)]
    return Row(
        title=f"{why}: {case}, slice {position + 1}",
        note=f"false positives: {counts[0]} → {counts[1]} voxels",
        pictures=(base, *(overlay(base, classes[position][inside]) for classes in labels)),
        view=view,
    )
