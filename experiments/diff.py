"""In what two runs differ: settings, data, split, environment and, of finished ones, results.

python -m experiments.diff RUN RUN
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro

from common.command_line import parse
from common.splits import PARTS
from common.words import listed
from experiments.base.options import Refused, refusals, settings_in, wrapped
from experiments.base.results import DIRECTIONS, aligned, short
from experiments.base.runs import OTHER_PATIENTS, options_of, patients_of, read

RESULT = "result "


@dataclass(frozen=True)
class Options:
    """Two runs, each by its folder."""

    first: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    second: Annotated[Path, tyro.conf.Positional]
    """Folder of another."""


def main() -> None:
    options = parse(Options, prog="python -m experiments.diff", description=wrapped(__doc__))
    with refusals():
        rows = differences(options.first, options.second)
        print(aligned([("", str(options.first), str(options.second)), *rows]) if rows else "no difference")
        if any(name.startswith(RESULT) for name, *_ in rows):
            both = f"{quote(str(options.first))} {quote(str(options.second))}"
            label_maps = all((run / "predictions").is_dir() for run in (options.first, options.second))
            how = f": python -m experiments.score --runs-of {both}" if label_maps else ""
            tests = any(name.endswith("_p") for name, *_ in rows)
            holm = "; _p: after Holm over all tests of its run, so more tests make it larger"
            print(f"(n): cases that a result is of{holm * tests}; {DIRECTIONS}")
            if any("model" in read(run, "config.json", dict)[0] for run in (options.first, options.second)):
                print(chance([name for name, *_ in rows], how))


def differences(first: Path, second: Path) -> list[tuple[str, str, str]]:
    """What differs, in words, of both. Raises Refused where one is no run's folder."""
    sides = [_facts(first), _facts(second)]
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    alone = [
        [name for name in side if name.startswith(RESULT) and name not in other] for side, other in (sides, sides[::-1])
    ]
    rows = []
    for name in names:
        values = [side.get(name) for side in sides]
        if values[0] == values[1] or name in alone[0] or name in alone[1]:
            continue
        if all(isinstance(value, Mapping) for value in values):
            values = [f"{len(value)}{of}" for value, of in zip(values, ("", _other(*values)), strict=True)]
        values = [len(value) if isinstance(value, Mapping) else value for value in values]  # of a method of one only
        rows.append((name, *map(_said, values)))
    shared = [name for name in sides[0] if name.startswith(RESULT) and name in sides[1]]
    if rows and (equal := [name for name in shared if sides[0][name] == sides[1][name]]):
        rows.append(("results that are equal in both", str(len(equal)), str(len(equal))))
    if any(alone):
        rows.append(("results that the other lacks", *(str(len(names)) for names in alone)))
    return rows


def chance(names: Sequence[str], how: str) -> str:
    """What a difference of two trainings says.

    names: of the rows in which they differ. how: it is tested, as the end of a sentence.
    """
    given = [name for name in names if not name.startswith((RESULT, "results "))]
    if [name.rpartition(".")[2] for name in given] == ["seed"]:
        return (
            "Only the seed differs: this is how far chance alone moves the same training. In paired tests it would\n"
            "look like a difference of recipes: for them only the patients are drawn by chance"
        )
    return (
        "One recipe trained with two seeds gives two results, too (--model.seed): a difference says something of\n"
        "recipes where it is larger than that. Whether other patients would show it\n"
        f"is said by paired tests on the same cases{how}"
    )


def _other(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """Which label maps of the second have another content."""
    changed = [case for case, digest in second.items() if first.get(case, digest) != digest]
    return f", other content: {listed(changed)}" if changed else ""


def _facts(run: Path) -> dict[str, Any]:
    config, wrong = read(run, "config.json", dict)
    if wrong or not config:
        found = "no config.json in it" if run.is_dir() else "no such folder"
        raise Refused(wrong or f"{run}: expected the folder of a run, found {found}")
    finished = (run / "summary.json").exists()
    facts: dict[str, Any] = {"experiment": config.get("experiment"), "finished": "yes" if finished else "no"}
    facts |= settings_in(config.get("model", {}))
    options, data, split = options_of(run), read(run, "data.json", dict)[0], read(run, "split.json", dict)[0]
    facts |= {"preset": options.get("preset"), "backend": config.get("backend")}
    facts["empty masks"] = options.get("empty_masks")
    facts |= {name.replace("_", " "): options[name] for name in OTHER_PATIENTS if name in options}
    facts |= _compared(data)
    patients = patients_of(run)
    facts["of"] = {"phantoms": "synthetic phantoms", "-": "patients"}.get(patients, f"patients of {patients}")
    facts |= {f"{part} cases": len(split[part]) for part in PARTS if isinstance(split.get(part), list)}
    facts |= {"fingerprint of the scans": data.get("fingerprint"), "split": split.get("hash")}
    starts = read(run, "environment.json", list)[0]
    if starts:
        facts |= {f"version of {name}": version for name, version in starts[-1].get("packages", {}).items()}
        facts |= {name: starts[-1].get(name) for name in ("python", "git_commit", "processor", "gpus")}
    for line in read(run, "summary.json", list)[0]:
        facts[RESULT + line["key"].partition(".")[2]] = f"{short(line['value'])} ({line['n']})"
    return facts


def _compared(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of a comparison of methods: each one's label maps, how they are read, and the truths, by their content."""
    facts: dict[str, Any] = {}
    content = data.get("content", {})
    for method, each in data.get("methods", {}).items():
        facts |= {f"{method}: {name}": each.get(name) for name in ("folder", "values", "training")}
        facts[f"{method}: missing"] = len(each.get("missing", ()))
        maps = {case: digests["label_maps"].get(method) for case, digests in content.items()}
        facts[f"{method}: label maps"] = maps
    if content:
        facts["truths"] = {case: digests["truth"] for case, digests in content.items()}
    return facts


def _said(value: object) -> str:
    return "-" if value is None else str(value)


if __name__ == "__main__":
    main()
