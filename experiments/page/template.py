"""The page's templates, with everything escaped that does not come from them."""

import math
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.page.rows import DASH, number


def code(text: str) -> Markup:
    """Plain text as HTML, what stands between backticks as code."""
    parts = str(text).split("`")
    marked = (f"<code>{escape(part)}</code>" if i % 2 else str(escape(part)) for i, part in enumerate(parts))
    return Markup("".join(marked))


def breakable(name: str) -> Markup:
    """The name of a result or setting, which a narrow column may break after an underscore or a point."""
    return Markup(re.sub("(_+|[.])", r"\1<wbr>", str(escape(name))))


def dice(value: float) -> str:
    """Two decimals, as in the pictures; nan, where the case has no such label in truth or prediction, is a dash."""
    return DASH if math.isnan(value) else f"{value:.2f}"


def whole(value: float | None) -> str:
    """Seconds of a command; a dash where they were not taken."""
    return DASH if value is None else f"{value:.0f}"


def render(name: str, **values: object) -> str:
    """A template of this package, filled in. Raises jinja2.UndefinedError for a value that it lacks."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("experiments.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "code": code, "dice": dice, "number": number, "whole": whole}
    return environment
