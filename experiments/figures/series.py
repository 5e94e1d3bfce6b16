"""Figures 10, 11, 14 and 15: what the MGMT data look like, image by image."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from common.dicom.mgmt_cohort import CONTRASTS, Patient
from common.dicom.series import DicomError, Plane, look
from common.picture import View, window
from common.words import plural
from experiments.drawing.scans import show, turn
from experiments.drawing.style import CHOICE_COLOURS, WIDTH, bare, heading, styled
from experiments.figures.sources import Drawing, MissingError, Sources
from experiments.mgmt import ensemble
from mgmt_classifier import slices
from mgmt_classifier.config import Config

SEARCHED = 20
"""Patients, the first by id, among which Figs 14 and 15 look for one."""
LABELLED_TILES = 120
"""Up to so many images of a series are numbered one by one."""
CHOICES = {"central": "central", "tumour": "tumour-centred"}
TILE = 160
"""Rows and columns, at most, of an image among all of its series."""


@dataclass(frozen=True)
class Shown:
    """A series turned as it is looked at. images: grey values (image, row, column) in geometric order."""

    images: np.ndarray
    view: View
    plane: Plane

    @property
    def blank(self) -> int:
        """Images of a single grey value."""
        return int((self.images.min(axis=(1, 2)) == self.images.max(axis=(1, 2))).sum())


def read(patient: Patient, contrast: str) -> Shown:
    """All images of a series. Raises DicomError with the reason where it is none."""
    if contrast not in patient.folders:
        raise DicomError(f"{patient.id}: expected a series {contrast}, found none")
    folder = look(patient.folders[contrast])
    series = folder.series()
    return Shown(*turn(series.read(), folder.images[0].orientation, series.spacing_mm[1:]))


def central_images(sources: Sources) -> Drawing:
    """Fig. 10: the central image of each contrast of a patient."""
    patient, series, skipped = first_readable(sources, CONTRASTS)
    synthetic = sources.mgmt_data is None
    figure = draw_central(series, f"Patient {patient.id}", synthetic=synthetic)
    caption = (
        f"The central image of each contrast of patient {patient.id}, in the plane in which it was scanned. Planes and "
        f"numbers of images vary. {_origin(sources, skipped)}"
    )
    return Drawing(figure, caption, synthetic)


def t1wce_images(sources: Sources) -> Drawing:
    """Fig. 11: all T1wCE images of a patient."""
    patient, series, skipped = first_readable(sources, CONTRASTS)
    shown, synthetic = series["T1wCE"], sources.mgmt_data is None
    figure = draw_all(
        shown, f"Patient {patient.id}, T1wCE, {shown.plane}: all {len(shown.images)} images", synthetic=synthetic
    )
    caption = (
        f"All {len(shown.images)} T1wCE images of patient {patient.id} ({shown.plane}) in geometric order, with the "
        f"same grey values; {shown.blank} are of a single grey value. {_origin(sources, skipped)}"
    )
    return Drawing(figure, caption, synthetic)


def first_readable(sources: Sources, contrasts: tuple[str, ...]) -> tuple[Patient, dict[str, Shown], int]:
    """The first patient by id all of whose series can be read, these, and how many before could not."""
    reason = "no patients"
    for skipped, patient in enumerate(sources.patients.patients):
        try:
            return patient, {contrast: read(patient, contrast) for contrast in contrasts}, skipped
        except (DicomError, OSError) as error:
            reason = str(error)
    raise MissingError(f"{sources.patients.folder}: expected a patient with {', '.join(contrasts)}, found: {reason}")


def _origin(sources: Sources, skipped: int) -> str:
    cohort = "Embedded synthetic phantoms" if sources.mgmt_data is None else f"Cohort {sources.patients.folder.name}"
    before = (
        f"; {plural(skipped, 'patient before it has', 'patients before it have')} a series that cannot be read"
        if skipped
        else ""
    )
    return f"{cohort}, the first patient by id{before}."


@styled
def draw_central(series: dict[str, Shown], name: str, *, synthetic: bool) -> Figure:
    """The central image of each series, all at the same scale in mm."""
    sizes = [
        (shown.images.shape[1] * shown.view.spacing_mm[0], shown.images.shape[2] * shown.view.spacing_mm[1])
        for shown in series.values()
    ]
    figure = Figure(
        figsize=(WIDTH, WIDTH * max(h for h, _ in sizes) / sum(w for _, w in sizes) + 0.5), layout="constrained"
    )
    axes = figure.subplots(1, len(series), width_ratios=[width for _, width in sizes])
    for axis, (contrast, shown) in zip(axes, series.items(), strict=True):
        n = len(shown.images)
        (middle,) = slices.central(n, 1)
        show(axis, window(shown.images)[middle], shown.view)
        axis.set_title(f"{contrast}, {shown.plane}\nimage {middle + 1} of {n}")
    heading(figure, name, synthetic=synthetic)
    return figure


@dataclass(frozen=True)
class Choice:
    """The two choices of images of a FLAIR series. central, tumour: indices of their middle images; bright: pixels
    above the threshold by image; threshold: in grey values."""

    patient: Patient
    series: Shown
    central: int
    tumour: int
    bright: np.ndarray
    threshold: float


def choice(patient: Patient, config: Config) -> Choice:
    """As the final FLAIR model makes it. Raises DicomError or ValueError where the series is none or is black."""
    series = read(patient, config.contrast)
    images = series.images
    (central,) = slices.central(len(images), 1)
    (tumour,) = slices.tumour(images, 1, percentile=config.percentile)
    threshold = float(np.percentile(images[images != 0], config.percentile))
    bright = np.count_nonzero(images > threshold, axis=(1, 2))
    return Choice(patient, series, int(central), int(tumour), bright, threshold)


def farthest_choice(sources: Sources, config: Config) -> tuple[Choice, int]:
    """Of the first patients, the one whose two choices lie farthest apart in images; and how many were compared."""

    def choices() -> Iterator[Choice]:
        for patient in sources.patients.patients[:SEARCHED]:
            try:
                found = choice(patient, config)
            except (DicomError, OSError, ValueError):
                continue  # counted by what is compared
            if len(found.series.images) >= config.images:
                yield found

    best, compared = None, 0
    for found in choices():
        compared += 1
        if best is None or abs(found.tumour - found.central) > abs(best.tumour - best.central):
            best = found
    if best is None:
        raise MissingError(
            f"{sources.patients.folder}: expected {config.contrast} series of at least {config.images} images in the "
            f"first {SEARCHED} patients, found none"
        )
    return best, compared


def flair_images(sources: Sources) -> Drawing:
    """Fig. 14: all FLAIR images of a patient, with the central and the tumour-centred one marked."""
    config = ensemble.Settings().flair
    found, compared = farthest_choice(sources, config)
    n, synthetic = len(found.series.images), sources.mgmt_data is None
    text = f"Patient {found.patient.id}, FLAIR, {found.series.plane}: all {n} images"
    marks = {"central": found.central, "tumour": found.tumour}
    figure = draw_all(found.series, text, marks=marks, synthetic=synthetic)
    caption = (
        f"All {n} FLAIR images of patient {found.patient.id} ({found.series.plane}) in geometric order, with the same "
        f"grey values. Framed: the central image ({found.central + 1}) and the one with most pixels above the "
        f"{config.percentile:g}th percentile of the series ({found.tumour + 1}). {_searched(sources, compared)}"
    )
    return Drawing(figure, caption, synthetic)


def two_choices(sources: Sources) -> Drawing:
    """Fig. 15: the central and the tumour-centred image, and what chose it."""
    config = ensemble.Settings().flair
    found, compared = farthest_choice(sources, config)
    synthetic = sources.mgmt_data is None
    figure = draw_choice(found, config, synthetic=synthetic)
    caption = (
        f"The central image and the tumour-centred image of patient {found.patient.id}, FLAIR "
        f"({found.series.plane}). Red: pixels above the threshold, the {config.percentile:g}th percentile of the "
        f"series' non-zero pixels ({found.threshold:g} grey values). Right: their number by image, and the "
        f"{config.images} images that either choice takes. {_searched(sources, compared)}"
    )
    return Drawing(figure, caption, synthetic)


def _searched(sources: Sources, compared: int) -> str:
    cohort = "Embedded synthetic phantoms" if sources.mgmt_data is None else f"Cohort {sources.patients.folder.name}"
    searched = min(SEARCHED, len(sources.patients.patients))
    return (
        f"{cohort}: of the first {searched} patients, {compared} of which have a series that can be used, the one "
        "whose two choices lie farthest apart."
    )


@styled
def draw_all(shown: Shown, text: str, *, marks: dict[str, int] | None = None, synthetic: bool) -> Figure:
    """All images of a series as one table, row by row. marks: choice -> image to be framed."""
    n, rows, columns = shown.images.shape
    step = max(1, -(-max(rows, columns) // TILE))
    tiles = window(shown.images)[:, ::step, ::step]
    height, width = tiles.shape[1] * shown.view.spacing_mm[0], tiles.shape[2] * shown.view.spacing_mm[1]
    across = max(4, round(np.sqrt(1.25 * n * height / width)))
    down = -(-n // across)
    table = np.ones((down * across, *tiles.shape[1:]))
    table[:n] = tiles
    table = table.reshape(down, across, *tiles.shape[1:]).transpose(0, 2, 1, 3).reshape(down * tiles.shape[1], -1)
    figure = Figure(figsize=(WIDTH, WIDTH * down * height / (across * width) + 0.5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table, cmap="gray", vmin=0, vmax=1, aspect=shown.view.spacing_mm[0] / shown.view.spacing_mm[1])
    bare(axis)
    numbered = range(n) if n <= LABELLED_TILES else range(0, n, across)
    for image in numbered:
        axis.text(*_corner(image, across, tiles), str(image + 1), color="white", fontsize=5, ha="left", va="top")
    left, right, _, _ = shown.view.edges
    for letter, x, side in ((left, 0, "left"), (right, tiles.shape[2] - 1, "right")):
        axis.text(x, tiles.shape[1] / 2, letter, color="white", fontsize=6, ha=side, va="center")
    for name, image in (marks or {}).items():
        x, y = _corner(image, across, tiles)
        frame = Rectangle((x, y), tiles.shape[2] - 1, tiles.shape[1] - 1, fill=False, linewidth=1.8, clip_on=False)
        frame.set_edgecolor(CHOICE_COLOURS[name])
        axis.add_patch(frame)
    if marks:
        handles = [
            Line2D([], [], marker="s", markersize=7, linestyle="", markerfacecolor="none", markeredgewidth=1.8,
                   markeredgecolor=CHOICE_COLOURS[name], label=f"{CHOICES[name]}: image {image + 1}")
            for name, image in marks.items()
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    heading(figure, text, synthetic=synthetic)
    return figure


def _corner(image: int, across: int, tiles: np.ndarray) -> tuple[float, float]:
    """Upper left pixel of an image in the table: x, y."""
    return image % across * tiles.shape[2], image // across * tiles.shape[1]


@styled
def draw_choice(found: Choice, config: Config, *, synthetic: bool) -> Figure:
    """The two middle images with their bright pixels in red, and the number of these by image."""
    grey = window(found.series.images)
    height, width = (
        pixels * spacing for pixels, spacing in zip(grey.shape[1:], found.series.view.spacing_mm, strict=True)
    )
    figure = Figure(figsize=(WIDTH, max(2.6, 2.2 * height / width + 0.7)), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    chosen = {"central": found.central, "tumour": found.tumour}
    for axis, (name, image) in zip(axes, chosen.items(), strict=False):
        picture = np.repeat(grey[image][..., None], 3, axis=2)
        picture[found.series.images[image] > found.threshold] = (0.9, 0.1, 0.1)
        show(axis, picture, found.series.view)
        axis.set_title(f"{CHOICES[name]}: image {image + 1}\n{found.bright[image]} pixels above the threshold")
        axis.spines[:].set(visible=True, color=CHOICE_COLOURS[name], linewidth=2)
    n = len(grey)
    axis = axes[2]
    axis.plot(np.arange(1, n + 1), found.bright, color="black", marker=".", markersize=3)
    windows = {
        "central": slices.central(n, config.images),
        "tumour": slices.tumour(found.series.images, config.images, percentile=config.percentile),
    }
    for name, indices in windows.items():
        axis.axvspan(
            indices[0] + 0.5, indices[-1] + 1.5, color=CHOICE_COLOURS[name], alpha=0.18, linewidth=0,
            label=f"{CHOICES[name]}: images {indices[0] + 1} to {indices[-1] + 1}",
        )  # fmt: skip
        axis.axvline(chosen[name] + 1, color=CHOICE_COLOURS[name], linewidth=1.2)
    axis.set(
        xlabel=f"image (n = {n}, {found.series.plane})", ylabel=f"pixels above {found.threshold:g}", xlim=(0.5, n + 0.5)
    )
    axis.set_ylim(0, 1.05 * max(1, found.bright.max()))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(handles))
    heading(
        figure, f"Patient {found.patient.id}, FLAIR: threshold {config.percentile:g}th percentile", synthetic=synthetic
    )
    return figure
