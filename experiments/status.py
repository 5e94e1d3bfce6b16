"""Every training below a folder of run folders: waiting, running, stopped, finished or failed, as their folders say.

    python -m experiments.status --runs runs                     a table
    python -m experiments.status --watch --html status.html      again and again, and as a page that refreshes

It asks neither Ray nor Slurm, so it works on any machine that sees the folders: one is running if its run's lock is
held, failed if an error ended it, and stopped if it has begun and nobody works on it. One that nobody has begun is
waiting if it has a job's number or a command of which it is a part is running, else not started. The command that
began it goes on with it.
"""

import html
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from common.command_line import parse
from common.files import read_json, write_text
from common.runs import History, RunError, is_in_use
from common.words import plural
from experiments.base.options import Refused, refusals, wrapped
from experiments.base.progress import epochs, seconds_left
from experiments.base.results import aligned
from experiments.base.trainings import JOB, LOG, WHERE, state

WATCH_SECONDS = 10
PREPARING = "; a command has one once it has its scans together"
RESULTS = {
    "mgmt": "predictions.csv",
    "backend": "backend.json",
    "prepare": "prepared.json",
    "prepare_mgmt": "prepared.json",
}
"""Kind of a training -> the file that it writes last, where that is not summary.json."""


@dataclass(frozen=True, kw_only=True)
class Options:
    runs: Path = Path("runs")
    """Folder of the run folders."""
    watch: bool = False
    """Look again every ten seconds, until Ctrl-C."""
    html: Path | None = None
    """Write the table as a page, too, which a browser loads again by itself."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A training. left: minutes to the last epoch, at the pace of those before."""

    training: str
    state: str
    where: str = ""
    epoch: str = ""
    left: str = ""
    so_far: str = ""


def lines(runs: Path) -> Iterator[Line]:
    """Every training below the folder, by its place. Raises Refused where there is no such folder."""
    if not runs.is_dir():
        raise Refused(f"{runs}: expected the folder of the run folders, found none; --runs names it")
    for path in sorted(
        {*runs.rglob("config.json"), *(path.with_name("config.json") for path in runs.rglob("history.csv"))}
    ):
        try:
            config = read_json(path, dict)
        except (OSError, ValueError) as error:
            yield Line(training=str(path.parent.relative_to(runs)), state=f"damaged: {error}")
            continue
        if "kind" in config or (path.parent / "history.csv").exists() or ("model" in config and _alone(path.parent)):
            yield line(path.parent, str(path.parent.relative_to(runs)), config)


def line(folder: Path, name: str, config: dict) -> Line:
    """What a training's folder says of it."""
    known = state(folder, RESULTS.get(config.get("kind"), "summary.json"))
    place = _place(folder)
    if known == "finished":
        return Line(training=name, state=known, where=place, epoch=epochs(folder), so_far=_score(folder))
    if is_in_use(folder):
        seconds = seconds_left(folder)
        left = "" if seconds is None else f"{seconds / 60:.1f} min"
        return Line(training=name, state="running", where=place, epoch=epochs(folder), left=left, so_far=_score(folder))
    job = _job(folder)
    if known == "not run" and job:
        known = "waiting"
    elif known == "not run" and _begun(folder, config):
        known = "stopped"
    elif known == "not run":
        known = "waiting" if any(is_in_use(parent) for parent in folder.parents) else "not started"
    return Line(training=name, state=known, where=job, epoch=epochs(folder), so_far=_score(folder))


def _begun(folder: Path, config: dict) -> bool:
    """Whether anybody has; one of a table or a cross-validation is described before, some with a lock."""
    signs = ("history.csv", WHERE, LOG) if "kind" in config else ("run.lock",)
    return any((folder / sign).exists() for sign in signs)


def _alone(folder: Path) -> bool:
    """Whether it is of a run that is not finished and has no trainings below it, and so is one itself."""
    begun = (folder / "run.lock").exists() and not (folder / "summary.json").exists()
    return begun and sum(1 for _ in folder.rglob("config.json")) == 1


def _place(folder: Path) -> str:
    where = _read(folder / WHERE)
    return " ".join(str(where[name]) for name in ("on", "node", "job") if where.get(name))


def _job(folder: Path) -> str:
    job = _read(folder / JOB).get("job")
    return f"slurm {job}" if job else ""


def _read(path: Path) -> dict:
    try:
        return read_json(path, dict)
    except (OSError, ValueError):
        return {}


def _rows(folder: Path) -> list[dict[str, str]]:
    try:
        return History(folder / "history.csv").rows()
    except RunError:
        return []  # said in the column of the epoch


def _score(folder: Path) -> str:
    """The last validation's first column and its epoch, where there was one; else the last epoch's loss."""
    rows = _rows(folder)
    name = next((name for name in (rows or [{}])[-1] if name.startswith("validation")), None)
    validated = [row for row in rows if name and row[name]]
    if validated:
        return f"{name} {float(validated[-1][name]):.4g} (epoch {validated[-1]['epoch']})"
    return f"loss {float(rows[-1]['loss'] or 'nan'):.4g}" if rows and "loss" in rows[-1] else ""


def as_text(table: list[Line]) -> str:
    """The table, below it why trainings failed, and how many are in which state."""
    head = tuple(field.name for field in fields(Line))
    rows = [astuple(replace(each, state=_word(each))) for each in table]
    reasons = [f"{each.training} {each.state}\n" for each in table if ":" in each.state]
    return f"{aligned([head, *rows])}\n{''.join(reasons)}{_counts(table)}"


def as_page(table: list[Line]) -> str:
    head = "".join(f"<th>{field.name}" for field in fields(Line))
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(word)}" for word in astuple(each)) for each in table)
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="{WATCH_SECONDS}">'
        "<title>Trainings</title><style>body{font-family:sans-serif}td,th{text-align:left;padding:.1em .8em}</style>\n"
        f"<p>{_counts(table)}, {time.strftime('%Y-%m-%d %H:%M:%S')}</p>\n<table><tr>{head}\n{rows}\n</table>\n"
    )


def _word(line: Line) -> str:
    return line.state.partition(":")[0]


def _counts(table: list[Line]) -> str:
    words = [_word(each) for each in table]
    return f"{plural(len(table), 'training')}: " + ", ".join(
        f"{words.count(word)} {word}" for word in dict.fromkeys(words)
    )


def main() -> None:
    options = parse(Options, prog="python -m experiments.status", description=wrapped(__doc__))
    with refusals():
        while True:
            table = list(lines(options.runs))
            print(as_text(table) if table else f"{options.runs}: no training yet{PREPARING}", flush=True)
            if options.html is not None:
                write_text(options.html, as_page(table))
            if not options.watch:
                break
            time.sleep(WATCH_SECONDS)


if __name__ == "__main__":
    main()
