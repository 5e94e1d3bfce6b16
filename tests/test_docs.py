"""What the pages tell a reader to type: every command is parsed by its own parser, every target is one of make's."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """The commands in a page's code blocks, each in one line, without what stands behind a #."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        found += [re.sub(r"(^|\s)#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in found if line]


def module_and_words(line: str) -> tuple[str, list[str]] | None:
    words = shlex.split(re.sub(r"[\[\]]", "", line))  # what may be left out stands in brackets
    while words and ("=" in words[0] or words[0] in ("srun", "time")):
        words = words[1:]
    if words[:1] == ["glioma-suite"] and len(words) > 1:
        return f"experiments.{words[1].replace('-', '_')}", words[2:]
    if words[:2] != ["python", "-m"] or words[2].partition(".")[0] not in (
        *("common", "segresnet_monai", "unet_tf", "mgmt_classifier", "experiments", "benchmarks"),
    ):
        return None
    end = next((i for i, word in enumerate(words) if word in ("&", "&&", "|", ">", ";")), len(words))
    return words[2], words[3:end]


COMMANDS = sorted({
    (module, tuple(words)) for page in PAGES for line in lines(page) if (found := module_and_words(line))
    for module, words in [found]
})  # fmt: skip


class ParsedError(Exception):
    pass


@pytest.mark.parametrize(("module", "words"), COMMANDS, ids=[" ".join((module, *words)) for module, words in COMMANDS])
def test_a_command_of_the_pages_is_one_that_its_parser_takes(module, words, monkeypatch, capsys):
    parse = tyro.cli

    def parse_alone(*arguments, **options):
        parsed = parse(*arguments, **options)
        if not options.get("return_unknown_args"):
            raise ParsedError
        return parsed

    spec = importlib.util.find_spec(module)
    assert spec is not None
    name = f"{module}.__main__" if spec.submodule_search_locations else module
    if not words:
        assert importlib.util.find_spec(name) is not None
        return
    monkeypatch.setattr(sys, "argv", [module, *words])
    command = importlib.import_module(name)
    monkeypatch.setattr(tyro, "cli", parse_alone)
    try:
        command.main()
    except ParsedError:
        return
    except SystemExit as ended:
        pytest.fail(f"{ended}\n{capsys.readouterr()}")
    pytest.fail("expected the command to parse its arguments")


def test_targets_that_the_pages_name_are_makes():
    named = {word for page in PAGES for word in re.findall(r"`?\bmake ([a-z-]+)\b`?", page.read_text(encoding="utf-8"))}
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "report", "docs"} <= named
    known = ("demo", "demo-unet", "demo-mgmt", "report", "test", "docs", "help", "lint", "clean")
    assert named & set(known) <= targets == set(known)


def test_links_between_the_pages_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
