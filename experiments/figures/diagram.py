"""Figure 12: how the MGMT models are trained, chosen and tested, drawn from the settings of the experiments."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.drawing.style import WIDTH, bare, styled
from experiments.figures.series import CHOICES
from experiments.figures.sources import Drawing, Sources
from experiments.mgmt import ensemble, grid

FILLS = {"data": "#e8eef4", "train": "#cfe3f1", "validation": "#f8dfcc", "test": "#d7ece3", "result": "#ffffff"}
"""Pale shades of the colours of the parts."""
Box = tuple[float, float, float, float]


def process(_: Sources) -> Drawing:
    """Fig. 12: the training and validation process."""
    settings, cell = ensemble.Settings(), grid.Settings()
    parts = " / ".join(f"{100 * share:g}" for share in settings.fractions)
    caption = (
        f"Training and validation of the MGMT models as the suite does it with the report's settings: {parts} % of the "
        "patients to train, validate and test, stratified by methylation. Weights and thresholds are chosen on "
        "validation patients alone; test patients are used once, for the result. The models of the grid "
        f"({', '.join(cell.contrasts)} with {', '.join(map(str, cell.images))} central images and batches of "
        f"{' and '.join(map(str, cell.batch_sizes))}) take the same way one by one. A diagram: no data are shown."
    )
    return Drawing(draw_process(settings), caption, synthetic=False)


@styled
def draw_process(settings: ensemble.Settings) -> Figure:
    figure = Figure(figsize=(WIDTH, 5.2))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(0, 100), ylim=(0, 74))
    bare(axis)
    flair, t1w = settings.flair, settings.t1w
    size = " × ".join(map(str, flair.image_size))
    shares = [f"{100 * share:g} %" for share in settings.fractions]

    series = _box(axis, (24, 65, 52, 8), "data", "Patients with DICOM series and MGMT label", [
        "images in geometric order; black and broken series refused",
    ])  # fmt: skip
    inputs = [
        _box(axis, (x, 52.5, 40, 8), "data", f"{model.contrast}: {model.images} {CHOICES[model.slices]} images", [
            f"resized to {size}, z-scores over non-zero pixels",
        ])
        for x, model in ((8, flair), (52, t1w))
    ]  # fmt: skip
    split = _box(
        axis, (8, 42.5, 84, 5.5), "data", "Split by patient, stratified by methylation, the same for both models"
    )
    train = _box(axis, (1, 24.5, 34, 13), "train", f"Training, {shares[0]}", [
        f"3D {flair.backbone.replace('resnet', 'ResNet')} per contrast, {flair.epochs} epochs",
        f"Adam, learning rate {flair.learning_rate:g}, batch {flair.batch_size}",
        "binary cross-entropy",
    ])  # fmt: skip
    validation = _box(axis, (38, 24.5, 37, 13), "validation", f"Validation, {shares[1]}", [
        "weights: epoch with the best accuracy",
        f"threshold per model: best accuracy of {flair.threshold_steps}",
        "evenly spaced values from 0 to 1",
    ])  # fmt: skip
    test = _box(axis, (78, 24.5, 21, 13), "test", f"Test, {shares[2]}", ["chooses nothing", "used once"])
    ensemble = _box(axis, (8, 11, 60, 9.5), "result", "Final classifier", [
        f"probability = {settings.flair_weight:g} FLAIR + {1 - settings.flair_weight:g} T1w (weights from the report)",
        "threshold = mean of the two models' thresholds",
    ])  # fmt: skip
    result = _box(axis, (8, 0.5, 64, 7), "result", "Result", [
        "ROC AUC with 95 % interval, accuracy at the threshold, permutation test",
    ])  # fmt: skip

    for source in inputs:
        _arrow(axis, _below(series), _above(source))
        _arrow(axis, _below(source), _above(split, _below(source)[0]))
    for part in (train, validation, test):
        x = min(max(_above(part)[0], split[0] + 3), split[0] + split[2] - 3)
        _arrow(axis, (x, split[1]), _above(part, x))
    _arrow(axis, (train[0] + train[2], train[1] + 8), (validation[0], validation[1] + 8))
    _arrow(axis, (validation[0], validation[1] + 3), (train[0] + train[2], train[1] + 3))
    for part in (train, validation):
        _arrow(axis, _below(part), _above(ensemble, _below(part)[0]))
    _arrow(axis, _below(ensemble), _above(result, _below(ensemble)[0]))
    _arrow(
        axis,
        _below(test),
        (_below(test)[0], result[1] + result[3] / 2),
        (result[0] + result[2], result[1] + result[3] / 2),
    )
    return figure


def _box(axis: Axes, place: Box, fill: str, title: str, lines: Sequence[str] = ()) -> Box:
    """A rounded box with a title and lines below it. place: left, bottom, width, height."""
    x, y, width, height = place
    axis.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1",
            facecolor=FILLS[fill],
            edgecolor="0.35",
            lw=0.7,
        )
    )
    step = 2.9
    top = y + height / 2 + step * len(lines) / 2
    axis.text(x + width / 2, top, title, ha="center", va="center", fontsize=8, fontweight="bold")
    for number, line in enumerate(lines, start=1):
        axis.text(x + width / 2, top - step * number, line, ha="center", va="center", fontsize=7)
    return place


def _below(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1]


def _above(box: Box, x: float | None = None) -> tuple[float, float]:
    return (box[0] + box[2] / 2 if x is None else x), box[1] + box[3]


def _arrow(axis: Axes, *points: tuple[float, float]) -> None:
    """Along the points; the head is at the last."""
    axis.plot(*zip(*points, strict=True), color="0.25", linewidth=0.9)
    axis.add_patch(
        FancyArrowPatch(
            points[-2],
            points[-1],
            arrowstyle="-|>",
            mutation_scale=8,
            color="0.25",
            linewidth=0.9,
            shrinkA=0,
            shrinkB=0,
        )
    )
