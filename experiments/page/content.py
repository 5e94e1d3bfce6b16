"""Everything that the page and the tables show, gathered from the runs and figures folders."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from common.splits import PARTS
from experiments.base import results, runs
from experiments.mgmt.meanings import meanings
from experiments.page import cases, facts, pictures, reading, rows
from experiments.page.headlines import Headline, headline
from experiments.page.pictures import Picture, ReportFigure
from experiments.page.rows import Row
from experiments.page.settings import Difference, Setting, differences, seeds, settings
from experiments.segmentation import cohort

VERDICTS = "verdicts.txt"


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is, what became of it, and its results beside the report's.

    data: sentences on the data and its split. basis: the preset, patients and changed settings behind the results,
    and in_short without patients.
    beside: rows with a reported value; further: the run's other results. apart: settings that are not those of the
    report's preset; None where there is no such preset. seeds: by name. tested: ids of the test part.
    meanings: of names of its results.
    fine_tuned: whose weights it started from, empty where from random ones. cases: pictures drawn of its test cases.
    doubts: what was noticed of compared methods' label maps.
    """

    name: str
    purpose: str
    command: str
    found: runs.Found
    synthetic: bool
    fine_tuned: str
    data: tuple[str, ...]
    basis: str
    in_short: str
    beside: list[Row]
    further: list[Row]
    settings: list[Setting]
    apart: list[Difference] | None
    seeds: dict[str, str]
    tested: tuple[str, ...]
    cases: list[Picture]
    pictures: list[Picture]
    verdicts: tuple[str, ...]
    meanings: list[str]
    environment: list[facts.Environment]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return self.found.state == "finished"

    @property
    def headline(self) -> Headline | None:
        """The result that says most."""
        head = headline(self.name, [*self.beside, *self.further])
        return replace(head, measure=f"{head.measure} (read with care)") if head and self.doubts else head

    @property
    def value(self) -> dict[str, float | str | None]:
        """Every result of the run, by name."""
        return {row.name: row.value for row in (*self.beside, *self.further) if row.result is not None}

    @property
    def test_patients(self) -> int | None:
        """Test patients of the run, the n of its AUCs; None where it has none."""
        return next((row.result.n for row in self.beside if row.result and row.name.endswith("__auc")), None)


@dataclass(frozen=True)
class Content:
    """The whole report. attempts: what run_all says of each experiment; problems: what could not be read."""

    experiments: list[Experiment]
    figures: list[ReportFigure]
    reading: reading.Reading
    attempts: list[dict]
    problems: tuple[str, ...]

    @property
    def finished(self) -> list[Experiment]:
        """What can be shown, comparisons of label maps and other tools' results among it."""
        return [experiment for experiment in self.experiments if experiment.finished]

    @property
    def own(self) -> list[Experiment]:
        """The suite's experiments, finished or not; the tools around them reproduce nothing."""
        return [experiment for experiment in self.experiments if experiment.name in runs.available()]

    @property
    def tried(self) -> list[Experiment]:
        """Those of which there is anything to say: finished, failed, or not finished yet."""
        return [experiment for experiment in self.experiments if experiment.found.state != "not run"]

    @property
    def not_run(self) -> list[Experiment]:
        return [experiment for experiment in self.experiments if experiment.found.state == "not run"]

    @property
    def synthetic(self) -> str:
        """Whether the finished runs saw ``all``, ``some`` or ``none`` synthetic patients; empty without any run."""
        kinds = {experiment.synthetic for experiment in self.finished}
        return {frozenset(): "", frozenset({True}): "all", frozenset({False}): "none"}.get(frozenset(kinds), "some")

    @property
    def counts(self) -> Counter[str]:
        """How many of the report's results lie inside, above and below our intervals, have none, or are missing."""
        return Counter(
            "missing" if row.result is None or row.result.n == 0 else row.verdict.relation or "other"
            for experiment in self.experiments
            for row in experiment.beside
            if row.reported is not None
        )


def gather(folder: Path, figures: Path, presets: Mapping[str, object] = MappingProxyType({})) -> Content:
    """What the runs in ``folder`` and the figures' folder hold; what is missing or damaged is named, never left out.

    presets: experiment -> configuration with the report's settings.
    """
    attempts, wrong = runs.attempts(folder)
    drawn, figures_wrong = pictures.of_report(figures)
    names = dict.fromkeys((*results.reported(), *runs.OWN, *runs.further(folder)))
    return Content(
        experiments=[experiment(folder, name, attempts.get(name), presets.get(name)) for name in names],
        figures=drawn,
        reading=reading.read(),
        attempts=list(attempts.values()),
        problems=tuple(filter(None, (wrong, figures_wrong))),
    )


def chance_error(n: int) -> float:
    """Standard error of the AUC of guesses on n patients, half of them with the marker (Mann and Whitney 1947)."""
    return math.sqrt((n + 1) / 3) / n


def experiment(
    folder: Path, name: str, attempt: Mapping[str, object] | None, preset: object | None = None
) -> Experiment:
    """One experiment of the runs in ``folder``. attempt: what run_all's status.json says of it. preset: configuration
    with the report's settings, where there is one."""
    found = runs.find(folder, name, attempt)
    try:
        return _of(found, name, attempt, preset)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSON, but not what a run writes
        reason = f"{found.folder}: expected the files of a run, found: {error!r}"
        return _of(runs.Found("failed", reason, also=found.also), name, attempt, preset)


def _of(found: runs.Found, name: str, attempt: Mapping[str, object] | None, preset: object | None) -> Experiment:
    data, data_wrong = runs.read(found.folder, "data.json", dict)
    split, split_wrong = runs.read(found.folder, "split.json", dict)
    config, config_wrong = runs.read(found.folder, "config.json", dict)
    starts, starts_wrong = runs.read(found.folder, "environment.json", list)
    noted, noted_wrong = runs.read(found.folder, "notes.json", list)
    known = (files("experiments") / f"{name}.py").is_file()
    attempted = rows.command(name) if attempt is None else str(attempt["command"])
    command = facts.command(starts[-1]) if starts else attempted
    beside, further = rows.rows(name, found.results, command)
    head = headline(name, [*beside, *further])
    drawn, undrawn = cases.of_run(name, found)
    parts = tuple(len(split.get(part, ())) for part in PARTS) if split else ()
    model = config.get("model", {})
    apart = differences(preset, model) if preset is not None and model else None
    return Experiment(
        name=name,
        purpose=runs.purpose(name) if known else "",
        command=command,
        found=found,
        synthetic=any(result.synthetic for result in found.results),
        fine_tuned=facts.fine_tuned(config),
        data=(*facts.data(config, data, parts, noted), *_own_page(found.folder)),
        basis=facts.basis(found, config, apart, n=head.row.result.n if head and head.row.result else 0),
        in_short=runs.preset_of(found.folder) if found.results else "",
        beside=beside,
        further=further,
        settings=settings(name, model, parts),
        apart=apart,
        seeds=seeds(config),
        tested=() if "ensemble" in data else tuple(split.get("test", ())),  # which explains validation patients
        cases=drawn,
        pictures=[] if found.folder is None else pictures.of_run(found.folder, cases.part(name, found.folder)),
        verdicts=_verdicts(found.folder),
        meanings=_meanings(name, found),
        environment=[facts.environment(name, start) for start in starts],
        problems=tuple(filter(None, (data_wrong, split_wrong, config_wrong, starts_wrong, noted_wrong, undrawn))),
        doubts=tuple(data.get("notes", ())) if data.get("methods") else (),
    )


def _own_page(folder: Path | None) -> list[str]:
    page = None if folder is None else folder / "index.html"
    return [f"A page of its own, with all tables: {page}."] if page is not None and page.exists() else []


def _meanings(name: str, found: runs.Found) -> list[str]:
    if name == cohort.EXPERIMENT:
        return [*cohort.LEGEND, *meanings(found.results)]
    return meanings(found.results) if name.startswith("mgmt") else []


def _verdicts(folder: Path | None) -> tuple[str, ...]:
    path = None if folder is None else folder / VERDICTS
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path is not None and path.exists() else ()
