"""Figures 1 and 2: what the segmentation data look like."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from common.labels import CLASSES
from common.metrics import voxel_volume_ml
from common.picture import CLASS_COLOURS, ROWS_AND_COLUMNS, View, cut, overlay, window
from common.subject import CONTRASTS, Subject
from experiments.drawing.scans import box, show
from experiments.drawing.style import WIDTH, bare, class_legend, heading, styled
from experiments.figures.sources import Drawing, MissingError, Sources, readable

REPORTS_SUBJECT = "00006"
GRID = (4, 6)


def mri_and_mask(sources: Sources) -> Drawing:
    """Fig. 1: the four contrasts, and the mask in three planes."""
    subject, said = chosen(sources)
    with readable("python -m experiments.cohort"):
        images, scan = subject.load_images(CONTRASTS)
        labels = subject.load_labels()
    volumes = dict(zip(CONTRASTS, images, strict=True))
    synthetic = sources.data is None
    figure = draw_mri_and_mask(volumes, labels, scan.affine, subject.id, synthetic=synthetic)
    caption = (
        f"The four contrasts of {subject.id} in the axial slice with the largest tumour area (above), and the mask "
        "over FLAIR in the axial, coronal and sagittal slice with the largest, with each label's volume (below; the "
        f"three at one scale). {said}"
    )
    return Drawing(figure, caption, synthetic)


def flair_slices(sources: Sources) -> Drawing:
    """Fig. 2: axial FLAIR slices from the feet to the head."""
    subject, said = chosen(sources)
    with readable("python -m experiments.cohort"):
        images, scan = subject.load_images(("FLAIR",))
    (slices,), view = cut(images, scan.affine)
    with_brain = np.flatnonzero(slices.any(axis=(1, 2)))
    synthetic = sources.data is None
    figure = draw_slices(slices, view, f"{subject.id}, FLAIR", synthetic=synthetic)
    caption = (
        f"Axial FLAIR slices of {subject.id}, evenly spaced from the first to the last of {len(slices)}, counted from "
        f"the feet. Brain lies in {len(with_brain)} of them ({with_brain[0] + 1} to {with_brain[-1] + 1}). {said}"
    )
    return Drawing(figure, caption, synthetic)


def chosen(sources: Sources) -> tuple[Subject, str]:
    """The report's subject if the cohort has it, else the first with a mask; and a sentence that says which."""
    labelled = [subject for subject in sources.cohort.subjects if subject.label is not None]
    if not labelled:
        raise MissingError(f"{sources.cohort.folder}: expected a subject with a mask, found none")
    is_reports = re.compile(rf"(?<!\d){REPORTS_SUBJECT}(?!\d)").search
    subject = next((subject for subject in labelled if is_reports(subject.id)), labelled[0])
    if sources.data is None:
        return subject, "A synthetic patient, not the report's subject 00006: no cohort was given."
    if is_reports(subject.id):
        return subject, f"Subject {REPORTS_SUBJECT}, as in the report, if the cohort is numbered alike."
    return (
        subject,
        f"The report shows subject {REPORTS_SUBJECT}, which the cohort lacks; this is its first subject by id.",
    )


@styled
def draw_mri_and_mask(
    volumes: dict[str, np.ndarray], labels: np.ndarray, affine: np.ndarray, name: str, *, synthetic: bool
) -> Figure:
    """volumes: contrast -> (x, y, z). labels: classes (x, y, z). affine: (4, 4). name: of the subject."""
    (axial, *grey), view = cut((labels, *volumes.values()), affine)
    position = int(np.count_nonzero(axial, axis=(1, 2)).argmax())
    inside = box(np.stack([volume[position] for volume in grey]))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.05))
    planes = [(plane, *cut((labels, volumes["FLAIR"]), affine, plane)) for plane in ROWS_AND_COLUMNS]
    cuts = [box(base) for _, (_, base), _ in planes]
    widths_mm = [
        (inside[1].stop - inside[1].start) * view.spacing_mm[1]
        for inside, (_, _, view) in zip(cuts, planes, strict=True)
    ]
    for axis, contrast, volume in zip(above.subplots(1, 4), volumes, grey, strict=True):
        show(axis, window(volume[position])[inside], view)
        axis.set_title(f"{contrast}, axial slice {position + 1} of {len(volume)}")
    axes = below.subplots(1, 3, width_ratios=widths_mm)
    for axis, inside, (plane, (shown, base), view) in zip(axes, cuts, planes, strict=True):
        position = int(np.count_nonzero(shown, axis=(1, 2)).argmax())
        show(axis, overlay(window(base[position])[inside], shown[position][inside]), view)
        axis.set_title(f"mask, {plane} slice {position + 1} of {len(shown)}")
    volume_ml = np.bincount(labels.ravel(), minlength=len(CLASSES)) * voxel_volume_ml(
        np.linalg.norm(affine[:3, :3], axis=0)
    )
    class_legend(figure, **{c: f"{c} {volume_ml[CLASSES.index(c)]:.1f} ml" for c in CLASS_COLOURS})
    heading(figure, name, synthetic=synthetic)
    return figure


@styled
def draw_slices(slices: np.ndarray, view: View, name: str, *, synthetic: bool) -> Figure:
    """Some of the slices (position, row, column), evenly spaced, all with the same grey values and scale."""
    inside, grey = box(slices), window(slices)
    height, width = (part.stop - part.start for part in inside)
    aspect = height * view.spacing_mm[0] / (width * view.spacing_mm[1])
    rows, columns = GRID
    figure = Figure(figsize=(WIDTH, WIDTH / columns * aspect * rows + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.025, wspace=0, hspace=0)
    positions = spaced(len(slices), rows * columns)
    axes = figure.subplots(rows, columns).ravel()
    for axis in axes[len(positions) :]:
        bare(axis)
    for axis, position in zip(axes, positions, strict=False):
        show(axis, grey[position][inside], view, edges=position == positions[0])
        axis.text(
            0.5, 0.02, str(position + 1), transform=axis.transAxes, color="white", fontsize=7, ha="center", va="bottom"
        )
    heading(
        figure, f"{name}: {len(positions)} of {len(slices)} axial slices, numbered from the feet", synthetic=synthetic
    )
    return figure


def spaced(n: int, count: int) -> Sequence[int]:
    """Positions evenly spaced over n, the first and the last among them; all where there are no more."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int)).tolist()
