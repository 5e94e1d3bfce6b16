"""What the pages tell a reader to type: every command is parsed by its own parser, every target is one of make's."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """The commands in a page's code blocks, each in one line, without what stands behind a #."""
    found = []
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8") + "\n"):
        if language not in ("", "bash", "sh"):
            continue
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
        is_first_look = options.get("add_help") is False  # at the preset, on which the defaults depend
        if is_first_look or (options.get("return_unknown_args") and parsed[1]):
            return parsed
        raise ParsedError

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
    known = ("demo", "demo-unet", "demo-mgmt", "report", "test", "docs", "help", "lint", "coverage", "clean")
    assert named & set(known) <= targets == set(known)


def test_links_between_the_pages_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_of_the_changelog_lead_out_as_it_is_a_page_of_the_site_too():
    links = re.findall(r"\]\((.*?)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert links
    assert all(link.startswith("https://") for link in links)


RECIPES = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?^```diff\n(.*?)^```\n+^```python\n(.*?)^```",
    (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def test_the_recipes_for_extending_apply_to_the_suite_and_work(tmp_path):
    """One after the other, and what stands below each in one process: importing PyTorch takes longer than all of it."""
    for folder in ("common", "segresnet_monai", "unet_tf", "mgmt_classifier", "experiments", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    for name, change, _ in RECIPES:
        changed = [line for line in change.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        assert len(re.findall(r"^\+\+\+ ", change, re.MULTILINE)) <= 2, name
        assert len(changed) <= 60, name
        command = ["git", "apply", "-"]
        done = subprocess.run(command, input=change, text=True, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        assert done.returncode == 0, f"docs/extending.md, {name}: its diff fits no more, write it anew: {done.stderr}"
    for lint in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports",)):
        command = [Path(sys.executable).with_name(lint[0]), *lint[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{lint}: {done.stdout}{done.stderr}"
    checks = "\n".join(check for *_, check in RECIPES)
    subprocess.run([sys.executable, "-c", checks], cwd=tmp_path, env=environment, check=True)


def test_there_is_a_recipe_for_what_users_change():
    assert [name for name, *_ in RECIPES] == ["A loss", "A row of a table", "A network", "An experiment", "A figure"]
