"""The figures by number: what each is called and drawn by, and all of them drawn into a folder with their captions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from common.files import write_json
from experiments.drawing import style
from experiments.figures import classification, curves, diagram, distributions, scans, segmentation, series
from experiments.figures.sources import Drawing, MissingError, Sources

FIGURES: dict[int, tuple[str, Callable[[Sources], Drawing]]] = {
    1: ("MRI and segmentation mask", scans.mri_and_mask),
    2: ("FLAIR slices of a subject", scans.flair_slices),
    3: ("Learning curves of the 2.5D U-Net", curves.unet25d_curves),
    4: ("Truth, prediction and post-processed prediction of the 2.5D U-Net", segmentation.unet25d_postprocessed),
    5: ("Learning curves of the 3D U-Net", curves.unet3d_curves),
    6: ("Dice and Hausdorff distances of the 3D U-Net", distributions.unet3d_histograms),
    7: ("Truth and prediction of the 3D U-Net", segmentation.unet3d_prediction),
    8: ("Label size and Dice of the final SegResNet", distributions.label_sizes),
    9: ("Truth and prediction of the final SegResNet", segmentation.segresnet_prediction),
    10: ("Central images of a patient's four contrasts", series.central_images),
    11: ("T1wCE images of a patient", series.t1wce_images),
    12: ("Training and validation process", diagram.process),
    13: ("Classification results by contrast, images and batch size", classification.grid),
    14: ("FLAIR images of a patient", series.flair_images),
    15: ("Central and tumour-centred image", series.two_choices),
    16: ("Learning curves of the FLAIR model", curves.flair_curves),
    17: ("Learning curves of the T1w model", curves.t1w_curves),
    18: ("GradCAM++ of both models", classification.saliency),
}
INDEX = "figures.json"
KINDS = ("svg", "png")


def draw(sources: Sources, output: Path, only: Sequence[int] = ()) -> list[dict]:
    """Draw the figures of the numbers, or all, and write figures.json, which has every figure once. Returns what it
    holds."""
    known = _earlier(output)
    entries = [_drawn(number, sources, output) if number in (only or FIGURES) else known[number] for number in FIGURES]
    write_json(output / INDEX, entries)
    return entries


def _drawn(number: int, sources: Sources, output: Path) -> dict:
    """Draw one figure and write its files; what figures.json says of it."""
    _, make = FIGURES[number]
    try:
        drawing = make(sources)
    except MissingError as error:
        for kind in KINDS:
            (output / f"figure_{number:02}.{kind}").unlink(missing_ok=True)  # an older picture of another run
        return _missing(number, str(error), error.command)
    files = [f"figure_{number:02}.{kind}" for kind in KINDS]
    for file in files:
        style.save(drawing.figure, output / file)
    drawn = {"caption": drawing.caption, "state": "drawn", "synthetic": drawing.synthetic, "files": files}
    return _missing(number, "", "") | drawn


def _missing(number: int, reason: str, command: str) -> dict:
    return {
        "number": number,
        "title": FIGURES[number][0],
        "caption": "",
        "state": "missing",
        "reason": reason,
        "command": command,
        "synthetic": False,
        "files": [],
    }


def _earlier(output: Path) -> dict[int, dict]:
    """What the output folder says of every figure; of a figure that it does not have, how to draw it."""
    try:
        entries = json.loads((output / INDEX).read_text(encoding="utf-8"))
        known = {
            entry["number"]: entry for entry in entries if all((output / file).exists() for file in entry["files"])
        }
    except (OSError, ValueError, KeyError, TypeError):
        known = {}  # none yet, or not one of this command's: drawn again it becomes whole
    return {
        n: known.get(n) or _missing(n, "not drawn yet", f"python -m experiments.figures --only {n}") for n in FIGURES
    }
