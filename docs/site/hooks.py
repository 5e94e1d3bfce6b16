"""What differs between a page in the repository and on the site: links to source files, and the roles in docstrings."""

import re

_SOURCE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
_ROLE = re.compile(r":(?:func|class|mod|meth|data):")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links that leave docs/ point to source, which the site does not have: their text alone is left."""
    return _SOURCE_LINK.sub(r"\1", markdown)


def on_page_content(html: str, **_: object) -> str:
    """Docstrings name functions by Sphinx's roles, which are shown as plain code."""
    return _ROLE.sub("", html)
