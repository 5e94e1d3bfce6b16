"""The one way in which a command reads its line: a misspelt option is answered with the names that come nearest."""

import difflib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import chain, pairwise
from typing import Any, TypeVar

import tyro

from common.signals import until_unread

T = TypeVar("T")
NEAREST = 3
"""Options that are offered for a misspelt one."""
LIKENESS = 0.75
"""Of two names, from 0 to 1 (difflib), from which one is offered for the other."""
ABBREVIATED, PART = 0.95, 0.85
"""The same of a name's initials (lr, learning-rate) and of one that holds the other (filters, initial-filters)."""
SHORTEST_PART = 4


def parse(kind: type[T], *, prog: str, **how: Any) -> T:
    """What the command line says, as a dataclass. how: as for ``tyro.cli``.

    Ends the program with status 2 and a message where it cannot be followed, as tyro does.
    """
    with until_unread():  # of --help
        found, unknown = tyro.cli(kind, prog=prog, return_unknown_args=True, **how)
    if not unknown:
        for option, line in _gathered(sys.argv[1:]):
            several = False
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
                _, surplus = tyro.cli(kind, prog=prog, args=line, return_unknown_args=True, **how)
                several = not surplus
            if several:
                print(f"error: {prog} was given {option} twice; give it once, with all its values", file=sys.stderr)
                sys.exit(2)
        return found
    written = io.StringIO()
    with redirect_stdout(written), suppress(SystemExit):
        tyro.cli(kind, prog=prog, args=["--help"], **how)
    options = options_in(written.getvalue())
    for word in [word for word in unknown if word.startswith("-")] or unknown:
        word = word.partition("=")[0]
        near = ", ".join(nearest(word, options))
        if not word.startswith("-") and os.path.exists(word) and "--data" in options:
            near = f"--data {shlex.quote(word)}"
        elif any(option.startswith(f"{word}.") for option in options):
            near = f"all that begin with {word}."
        print(f"error: {prog} has no {word}{near and f'; the nearest: {near}'}", file=sys.stderr)
    print(f"{prog} --help lists all", file=sys.stderr)
    sys.exit(2)


def _gathered(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option that is mentioned again, and the line in which its last mention has the first one's values too.

    An option that takes one value cannot be given that line, and of two mentions the last counts, as everywhere; one
    that takes several would drop the first mention's.
    """
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    starts = [n for n, word in enumerate(split) if word.startswith("--")]
    parts = [split[start:end] for start, end in pairwise([*starts, len(split)])]
    names = [part[0] for part in parts]
    for option in sorted({name for name in names if names.count(name) > 1}):
        first, last = names.index(option), len(names) - 1 - names[::-1].index(option)
        if values := parts[first][1:]:
            kept = [*parts[:first], *parts[first + 1 : last], parts[last] + values, *parts[last + 1 :]]
            yield option, [*split[: starts[0]], *chain(*kept)]


def options_in(help_text: str) -> list[str]:
    """The options that a command's help names, sorted, without their groups."""
    found = set(re.findall(r"--[a-z][\w-]*(?:\.[\w-]+)*", help_text))
    return sorted(found - {option.rpartition(".")[0] for option in found})


def nearest(word: str, options: Sequence[str]) -> list[str]:
    """At most NEAREST of the options, the nearest first; a word may leave out dashes and groups (``--model.``), give
    initials, or a part of the name."""
    group, _, own = word.lstrip("-").rpartition(".")
    own = _letters(own)

    def likeness(option: str) -> float:
        # A group is left out more often than it is meant: model.epochs is nearer to epochs than warmup-epochs is.
        of_group, _, name = option.lstrip("-").rpartition(".")
        ratios = [difflib.SequenceMatcher(None, _letters(word), _letters(each)).ratio() for each in (option, name)]
        if not group or group == of_group:
            ratios.append(ABBREVIATED * (own == "".join(part[:1] for part in name.split("-")) and len(own) > 1))
            ratios.append(PART * (len(own) >= SHORTEST_PART and own in _letters(name)))
        return max(ratios)

    scored = {option: likeness(option) for option in options if option != word}
    likely = (option for option in scored if scored[option] >= LIKENESS)
    best = sorted(likely, key=lambda option: (-scored[option], option.count(".")))
    return best[:NEAREST]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
