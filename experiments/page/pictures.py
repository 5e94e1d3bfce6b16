"""Pictures of the page, each inside it as a data address: the report's figures, and what runs have drawn themselves."""

import io
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure

from experiments.base.runs import read
from experiments.drawing.style import written

FIGURES = "figures.json"
MOST_SVG_BYTES = 200_000
"""A larger vector figure (a scan inside it, or thousands of points) is shown as PNG."""
MOST_PNG_BYTES = 100_000
WIDEST = 1600
"""A larger PNG is shown as WebP of at most so many pixels across, a tenth as large to the eye's satisfaction."""
KNOWN = {
    "overlays": "Scans, truth and prediction of the best, median and worst case by mean Dice of NCR, ED and ET",
    "subjects": "Subjects of the cohort, each contrast under the name that its file has, and the mask",
    "patient": "One patient, every contrast under its name, and the truth's outlines",
    "cases": "The best, median and worst case: scans, truth and each method's label map",
    "label_size": "Label size against its Dice, class by class, and what was missed",
    "validation": "One fixed validation case as the last validation saw it: above the truth, below the prediction",
    "lesions": "Lesions by volume: Dice of each and the share found, by the BraTS organisers' definition of 2023; "
    "found: the prediction touches the lesion, dilated by 3 voxels",
    "history": "Learning curves of training and validation by epoch",
    "history_FLAIR": "Learning curves of the FLAIR model by epoch",
    "history_T1w": "Learning curves of the T1w model by epoch",
    "roc": "ROC curves on the test patients",
    "grid": "AUC of every cell of the grid, beside the best of all under chance",
    "saliency": "GradCAM++ of both models beside the image, validation patients",
    "variations": "Mean Dice of every variation with its interval, and its cost",
    "costs": "What scanner-like changes of the test scans cost, in Dice points, as last measured",
    "comparison": "The frameworks on the same test cases, with intervals",
}
"""What runs draw, by file name; a name that is not here is its own caption."""


FIRST = ("history", "history_FLAIR", "history_T1w", "label_size", "lesions")
"""Of what runs draw, what is looked at first: how it learned, and what it finds."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption. address: a data address with the whole file in it. first: to be seen at once."""

    caption: str
    address: str
    first: bool = False


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report. picture: None where it is missing, for the reason given; command makes it."""

    number: int
    title: str
    caption: str
    synthetic: bool
    picture: Picture | None
    reason: str
    command: str


def data_address(path: Path) -> str:
    """The picture as ``data:image/...;base64,...``, a large PNG as WebP.

    Raises OSError where it cannot be read, ValueError for other files.
    """
    kinds = {".png": "png", ".svg": "svg+xml"}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: expected a picture in {' or '.join(kinds)}")
    content = path.read_bytes()
    if path.suffix == ".png" and len(content) > MOST_PNG_BYTES:
        with PIL.Image.open(path) as picture:
            shown = picture.convert("RGB")
        shown.thumbnail((WIDEST, shown.height))
        return address("webp", webp(shown, quality=80))
    return address(kinds[path.suffix], content)


def address(kind: str, content: bytes) -> str:
    """``data:image/<kind>;base64,...``"""
    return f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"


def webp(picture: PIL.Image.Image, *, quality: int) -> bytes:
    """The picture as a lossy WebP. quality: 0 to 100."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def drawn(figure: Figure) -> str:
    """A figure's data address."""
    return address("svg+xml", written(figure, "svg"))


def of_run(folder: Path, part: Path) -> list[Picture]:
    """What a run has drawn, by file name. part: its folder of scored cases, which may be another below it; of a run
    over seeds the first one's learning curves are shown too, and what changes of its scans cost, as last measured."""
    measured = sorted((folder / "robustness").glob("*/summary.json"), key=lambda file: file.stat().st_mtime)
    places = dict.fromkeys((folder, folder / "seed0", part, *(file.parent for file in measured[-1:])))
    paths = [path for place in places for path in sorted((place / "figures").glob("*.png"))]
    return [Picture(_caption(path.stem), data_address(path), path.stem in FIRST) for path in paths]


def _caption(stem: str) -> str:
    """Of a picture by its file's name, which may end in that of a method or a model: ``lesions_ours``."""
    if stem in KNOWN:
        return KNOWN[stem]
    known = max((name for name in KNOWN if stem.startswith(f"{name}_")), key=len, default="")
    return f"{stem.removeprefix(f'{known}_')}: {KNOWN[known]}" if known else stem.replace("_", " ")


def of_report(folder: Path) -> tuple[list[ReportFigure], str]:
    """The figures that ``experiments.figures`` has listed, and what is wrong with the list."""
    lines, wrong = read(folder, FIGURES, list)
    try:
        return [_figure(folder, line) for line in lines], wrong
    except (KeyError, TypeError, AttributeError) as error:
        return [], f"{folder / FIGURES}: expected the list that experiments.figures writes, found: {error!r}"


def _figure(folder: Path, line: dict) -> ReportFigure:
    picture, reason = None, line.get("reason") or ""
    if line["state"] == "drawn":
        try:
            picture = Picture(line["caption"], data_address(_smallest_good([folder / name for name in line["files"]])))
        except (OSError, ValueError) as error:
            reason = str(error)
    return ReportFigure(
        number=int(line["number"]),
        title=line["title"],
        caption=line["caption"],
        synthetic=bool(line["synthetic"]),
        picture=picture,
        reason=reason,
        command=line.get("command") or "",
    )


def _smallest_good(files: list[Path]) -> Path:
    """The vector figure where it is small enough to be read at once, else the PNG."""
    vector = [path for path in files if path.suffix == ".svg" and path.stat().st_size <= MOST_SVG_BYTES]
    raster = [path for path in files if path.suffix == ".png"]
    if not vector + raster:
        raise ValueError(f"expected a PNG or an SVG below {MOST_SVG_BYTES / 1e6:g} MB, found {files or 'no file'}")
    return (vector + raster)[0]
