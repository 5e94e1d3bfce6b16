"""How every experiment ends: its table and how to read it, what is missing, where its files are, what to try next."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

from common.runs import RunError, shown_again
from experiments.base.progress import ALL_STEPS, begin
from experiments.base.runs import shown


def end(
    command: str,
    folder: Path,
    *texts: str,
    missing: Iterable[str] = (),
    notes: Iterable[str] = (),
    below: bool = False,
    synthetic: bool = False,
    steps: Sequence[int] = ALL_STEPS,
) -> None:
    """Print what an experiment has come to.

    command: the experiment's, as typed. folder: of the run. texts: the table, and what its rows mean. notes: what it
    was measured on. missing: what failed or was left out. below: the folder lies below that of another run.
    synthetic: of phantoms, in whose place the command takes patients with ``--data``. steps: that the command has, of
    which this is the last.
    """
    begin(5, among=steps)
    print(*filter(None, (*texts, *notes, shown_again(folder))), sep="\n")
    print(f"failed or missing: {'; '.join(missing) or 'nothing'}")
    print(f"run folder: {folder}")
    print(f"pictures in it: {pictures(folder)}")
    page, why = _page(folder, below=below)
    next_ = {page: why}
    if synthetic:
        next_[f"python -m experiments.{command} --data FOLDER"] = "the same with patients of your own"
    next_[f"python -m experiments.{command} --help"] = "what can be changed"
    width = max(map(len, next_))
    for word, (line, why) in zip(["next:", *" " * len(next_)], next_.items(), strict=False):
        print(f"{word:<5} {line:<{width}}    {why}")


def _page(folder: Path, *, below: bool) -> tuple[str, str]:
    """The command that makes a page on which a run is, and why to call it."""
    place = folder.absolute()
    runs, experiment = place.parents[3 if below else 1], place.parent.name
    line = "python -m experiments.report" + ("" if runs == Path("runs").absolute() else f" --runs {quote(str(runs))}")
    try:
        taken = None if below else shown(runs, experiment)
    except RunError:  # of pins that are damaged, which the page says itself
        taken = None
    if taken is None or taken.name == place.name or not (place / "summary.json").exists():
        return line, "finished runs as a page: report/index.html"
    return f"{line} --run {quote(f'{experiment}={place.name}')}", f"the page with this run, in place of {taken.name}"


def pictures(folder: Path) -> str:
    """Where in a run's folder its pictures lie: its own by name, those of its trainings counted."""
    drawn = sorted(folder.rglob("*.png"))
    named = [path.name for path in drawn if path.parent == folder / "figures"]
    further = [path for path in drawn if path.parent != folder / "figures"]
    said = [f"figures ({', '.join(named)})"] if named else []
    if further:
        places = sorted({path.relative_to(folder).parts[0] for path in further})
        said.append(f"{len(further)} more, of its trainings, in {', '.join(places[:4])}{', ...' * (len(places) > 4)}")
    return "; ".join(said) or "none"


def unfinished(states: Iterable[tuple[str, str]]) -> list[str]:
    """What is missing of trainings. states: the name of each and what has become of it."""
    names: dict[str, list[str]] = {}
    for name, state in states:
        names.setdefault(state, []).append(name)
    return [f"{', '.join(each)} {state}" for state, each in names.items() if state != "finished"]
