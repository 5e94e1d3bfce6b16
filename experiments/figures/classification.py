"""Figures 13 and 18: the grid of MGMT models, and where the final ones look."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from common.picture import View, window
from common.words import p_value
from experiments.base import results
from experiments.drawing.scans import show, turn
from experiments.drawing.style import WIDTH, heading, styled
from experiments.figures.sources import Drawing, Sources
from experiments.mgmt.explanation import SALIENCY
from experiments.mgmt.pictures import grid_table

HEAT = "viridis"
"""Of saliency: told apart with any colour vision, and darker to brighter on paper."""


def grid(sources: Sources) -> Drawing:
    """Fig. 13: threshold, loss and AUC by contrast, number of images and batch size."""
    run = sources.run("mgmt_grid")
    cells = run.table("grid.csv", ("contrast", "images", "batch_size", "threshold", "loss", "auc"))
    lines = run.json("summary.json")
    with run.readable():
        found = {line["key"].partition(".")[2]: line for line in lines}
        best, chance, p = (
            found[f"best_of_all{name}"]["value"] for name in ("__auc", "_under_chance__auc", "__permutation_p")
        )
        names = [f"{c.contrast}_n{c.images}_b{c.batch_size}__auc" for c in cells.itertuples()]
        said = results.reported()["mgmt_grid"]
        cells = cells.assign(
            low=[found[name]["low"] for name in names],
            high=[found[name]["high"] for name in names],
            reported=[said[name].value if name in said else np.nan for name in names],
        )
        n = found["best_of_all__auc"]["n"]
    text = (
        f"{n} test patients. Best AUC of {len(cells)}: {best:.3f}; expected without any signal: {chance:.3f} "
        f"(permutation {p_value(p, named=True)})"
    )
    figure = grid_table(cells, text=text, synthetic=run.synthetic)
    caption = (
        f"Best threshold, loss and ROC AUC of {len(cells)} models by contrast, number of central images N and batch "
        f"size, on {n} test patients; each contrast's best AUC in bold, 95 % intervals in brackets, and in grey the "
        f"report's AUC, which is not a result of this run. The best of {len(cells)} AUCs, {best:.3f}, stands beside "
        f"{chance:.3f}, which is expected of the best without any signal (permutation {p_value(p, named=True)}). "
        f"{run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


def saliency(sources: Sources) -> Drawing:
    """Fig. 18: GradCAM++ of both models beside the image."""
    run = sources.run("mgmt_explain")
    stored = run.arrays(SALIENCY)
    names = ("id", "label", "image", "saliency", "position", "orientation", "extent_mm")
    contrasts = list(dict.fromkeys(key.partition("_")[0] for key in stored))
    with run.readable():
        parts = {contrast: {name: stored[f"{contrast}_{name}"] for name in names} for contrast in contrasts}
        if len({tuple(part["id"]) for part in parts.values()}) != 1:
            raise ValueError(f"{run.folder / SALIENCY}: expected the same patients of every contrast")
    n = len(parts[contrasts[0]]["id"])
    figure = draw_saliency(parts, text=f"{n} validation patients", synthetic=run.synthetic)
    caption = (
        f"GradCAM++ of the {' and the '.join(contrasts)} model beside the image, for {n} validation patients: the "
        "image with the largest saliency on the brain, of those that the model sees. Colour: evidence for methylation, "
        "relative to the map's largest value. It shows where a model looks, not whether it is right. The report's "
        f"figure calls the second model T1wCE, the rest of the report T1w. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


@styled
def draw_saliency(parts: dict[str, dict[str, np.ndarray]], *, text: str, synthetic: bool) -> Figure:
    """parts: contrast -> arrays as mgmt_explain stores them. One row per patient, two pictures per contrast."""
    n = len(next(iter(parts.values()))["id"])
    figure = Figure(figsize=(WIDTH, 1.95 * n + 0.7), layout="constrained")
    axes = figure.subplots(n, 2 * len(parts), squeeze=False)
    for place, (contrast, part) in enumerate(parts.items()):
        for row in range(n):
            left, right = axes[row, 2 * place : 2 * place + 2]
            grey, heat, view = _turned(part, row)
            for axis in (left, right):
                show(axis, grey, view)
            aspect = view.spacing_mm[0] / view.spacing_mm[1]
            right.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.7 * heat, aspect=aspect)
            status = "methylated" if part["label"][row] else "not methylated"
            title = f"{part['id'][row]}, {status}" if place == 0 else ""
            left.set_title(title, loc="left", parse_math=False)
            left.set_xlabel(f"{contrast}, image {part['position'][row] + 1}")
            right.set_xlabel(f"{contrast} model")
    bar = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), HEAT)
    figure.colorbar(
        bar, ax=axes, shrink=0.5, aspect=30, panchor=False, label="GradCAM++: evidence for methylation, relative"
    )
    heading(figure, text, synthetic=synthetic)
    return figure


def _turned(part: dict[str, np.ndarray], row: int) -> tuple[np.ndarray, np.ndarray, View]:
    """Grey values, saliency, both (row, column) as they are looked at, and how they lie."""
    image = part["image"][row]
    spacing = tuple(float(extent) / side for extent, side in zip(part["extent_mm"][row], image.shape, strict=True))
    both, view, _ = turn(np.stack([image, part["saliency"][row]]), part["orientation"][row], spacing)
    return window(both[0]), both[1], view
