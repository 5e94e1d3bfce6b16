"""The map in docs is the code's."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def draw_map():
    spec = importlib.util.spec_from_file_location("draw_map", ROOT / "docs" / "draw_map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_is_as_the_code_is(draw_map):
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    again = "python docs/draw_map.py draws it again"
    assert draw_map.page(page) == page, again
    assert draw_map.picture() == (ROOT / "docs" / "map.svg").read_text(encoding="utf-8"), again


def test_every_module_is_on_it_once(draw_map):
    named = [f"{room.replace('.', '/')}/{name}.py" for room, names in draw_map.modules().items() for name in names]
    packages = draw_map.PACKAGES
    there = [p.relative_to(ROOT) for package in packages for p in (ROOT / package).rglob("*.py")]
    assert sorted(named) == sorted(str(path) for path in there if path.name != "__init__.py")


def test_files_that_the_page_names_exist(draw_map):
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8").partition(draw_map.BEGIN)[0]
    named = [part for part in page.split("`")[1::2] if "/" in part]
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
