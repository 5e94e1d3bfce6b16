"""The page as HTML, from everything that it shows."""

from dataclasses import asdict
from datetime import datetime
from importlib.resources import files

from matplotlib.colors import to_rgb

from common.picture import CLASS_COLOURS
from experiments.page import content, reading, rows, slices, viewer
from experiments.page.template import render


def page(found: content.Content, viewers: viewer.Viewers, *, made: datetime) -> str:
    """The page as HTML. made: the time that it bears."""
    style = (files("experiments.page") / "templates" / "page.css").read_text(encoding="utf-8")
    return render(
        "page.html",
        content=found,
        viewers=viewers,
        sprites=[asdict(view.sprites) for view in viewers.cases],
        colours=CLASS_COLOURS,
        rgb=[None, *([round(255 * part) for part in to_rgb(colour)] for colour in CLASS_COLOURS.values())],
        step=slices.LABEL_STEP,
        chance_error=content.chance_error,
        experiments={experiment.name: experiment for experiment in found.experiments},
        made=f"{made:%d %B %Y, %H:%M} UTC",
        style=style,
        heads=reading.HEADS | {"apart": {"name": "setting", "preset": "report's preset", "ours": "this run"}},
        rule=rows,
    )
