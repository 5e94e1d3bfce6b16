"""The written report: what was run and on what data, every table and figure, as one page that opens without a network.

    python -m experiments.report                    runs and figures below this folder -> report/index.html
    python -m experiments.report --format csv       the tables alone: report/tables/<experiment>.csv; also latex, md

Shows of every experiment one run with a preset's own settings (patients before phantoms, paper before demo, the last
before earlier ones), or the one that --run names; every result of the report beside it with an interval and a
verdict by rule, the figures, a slice viewer of the best, the median and the worst case, what contradicts itself in the
report, and the environment. What was not run, failed or is damaged is named with the command that makes it.
Cost: 6 seconds of a core of an AMD EPYC with three real patients to view; the page then has 5 to 6 MB.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from common.command_line import parse
from common.files import write_text
from experiments.base.options import refusals, wrapped
from experiments.base.runs import available, pin


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the report is made from, and as what."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    figures: Path = Path("figures")
    """Folder that experiments.figures has written."""
    output: Path = Path("report")
    """Folder of the report."""
    run: tuple[str, ...] = ()
    """EXPERIMENT=FOLDER: the run that stands for an experiment, from now on (shown.json in the folder of the run
    folders keeps it; EXPERIMENT= undoes it). By default, of the runs with a preset's own settings: patients before
    phantoms, paper before demo, the last before earlier ones."""
    format: Literal["html", "csv", "latex", "md"] = "html"
    """The page, or the tables alone, one file per experiment."""


def main() -> None:
    options = parse(Options, prog="python -m experiments.report", description=wrapped(__doc__))
    with refusals():
        pin(options.runs, options.run)
    from experiments.page import content, html, tables, viewer  # and with them the plotting library

    found = content.gather(options.runs, options.figures, presets())
    if options.format == "html":
        path = options.output / "index.html"
        write_text(path, html.page(found, viewer.viewers(options.runs), made=datetime.now(UTC)))
        print(path)
    else:
        for path in tables.write(found, options.output, options.format):
            print(path)
    others = [each.name for each in found.finished if each not in found.own]
    print(
        f"{sum(each.finished for each in found.own)} of {len(found.own)} experiments finished in {options.runs}"
        + (f", and shown beside them: {', '.join(others)}" if others else "")
    )


def presets() -> dict[str, Any]:
    """Experiment -> its configuration with the report's settings, where it has one."""
    modules = {name: import_module(f"experiments.{name}") for name in available()}
    return {name: module.PAPER for name, module in modules.items() if hasattr(module, "PAPER")}


if __name__ == "__main__":
    main()
