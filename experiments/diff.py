"""In what two runs differ: settings, data, split, environment and, of finished ones, results.

python -m experiments.diff RUN RUN
"""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro

from common.command_line import parse
from common.splits import PARTS
from experiments.base.options import Refused, refusals, settings_in, wrapped
from experiments.base.results import aligned, short
from experiments.base.runs import options_of, patients_of, read

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
        print(
            "(n): cases that a result is of. One recipe trained with two seeds gives two results, too:\n"
            f"whether a difference is more than chance is said by paired tests on the same cases{how}"
        )


def differences(first: Path, second: Path) -> list[tuple[str, str, str]]:
    """What differs, in words, of both. Raises Refused where one is no run's folder."""
    sides = [_facts(first), _facts(second)]
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    return [
        (name, *(_said(side.get(name)) for side in sides)) for name in names if sides[0].get(name) != sides[1].get(name)
    ]


def _facts(run: Path) -> dict[str, Any]:
    config, wrong = read(run, "config.json", dict)
    if wrong or not config:
        found = "no config.json in it" if run.is_dir() else "no such folder"
        raise Refused(wrong or f"{run}: expected the folder of a run, found {found}")
    facts: dict[str, Any] = {"experiment": config.get("experiment")}
    facts |= settings_in(config.get("model", {}))
    options, data, split = options_of(run), read(run, "data.json", dict)[0], read(run, "split.json", dict)[0]
    facts |= {"preset": options.get("preset"), "backend": config.get("backend")}
    facts["empty masks"] = options.get("empty_masks")
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


def _said(value: object) -> str:
    return "-" if value is None else str(value)


if __name__ == "__main__":
    main()
