"""A misspelt option is answered with the nearest that a command has."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from common.command_line import parse


@dataclass(frozen=True, kw_only=True)
class Model:
    epochs: int = 50
    warmup_epochs: int = 0
    crops_per_epoch: int = 40
    batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    data: str | None = None
    max_subjects: int | None = None
    runs: tuple[str, ...] = ()
    methods: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    model: Model = field(default_factory=Model)


def parsed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["command", *words])
    return parse(Options, prog="command")


def test_a_line_without_mistakes_is_what_it_says(monkeypatch):
    assert parsed(monkeypatch, "--model.epochs", "3", "--data=scans") == Options(data="scans", model=Model(epochs=3))


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("--epochs", "3"), "--model.epochs"),
        (("--model.epoch", "3"), "--model.epochs"),
        (("--batchsize", "2"), "--model.batch-size"),
        (("--datas", "X"), "--data"),
        (("--max_subject=3",), "--max-subjects"),
        (("--model.bs", "3"), "--model.batch-size"),
        (("--size", "3"), "--model.batch-size"),
        (("--model", "3"), "all that begin with --model."),
        (("tests",), "--data tests"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_first(monkeypatch, capsys, words, nearest):
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, *words)
    first, last = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert first.startswith(f"error: command has no {words[0].partition('=')[0]}; the nearest: {nearest}")
    assert last == "command --help lists all"


def test_nothing_is_offered_where_nothing_is_near_and_stray_words_are_refused(monkeypatch, capsys):
    for word in ("--colour", "stray"):
        with pytest.raises(SystemExit):
            parsed(monkeypatch, word)
        assert capsys.readouterr().err.splitlines()[0] == f"error: command has no {word}"


@pytest.mark.parametrize("words", [("--runs", "a", "b", "--data", "x", "--runs", "c"), ("--runs=x", "--runs", "y")])
def test_an_option_that_is_given_twice_is_refused_for_the_first_would_be_dropped(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, *words)
    assert ended.value.code == 2
    said = f"error: command was given {words[0].partition('=')[0]} twice; give it once, with all its values\n"
    assert capsys.readouterr().err == said


def test_of_an_option_with_one_value_the_last_counts(monkeypatch):
    assert parsed(monkeypatch, "--data=x", "--model.epochs", "3", "--data", "y", "--model.epochs", "4") == Options(
        data="y", model=Model(epochs=4)
    )


def test_an_option_that_gathers_may_be_given_twice(monkeypatch):
    assert parsed(monkeypatch, "--methods", "a", "--runs", "x", "y", "--methods", "b").methods == ("a", "b")
