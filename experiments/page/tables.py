"""The tables of the written report as files: CSV with every digit, LaTeX (booktabs, longtable) and Markdown."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from common.files import write_text
from experiments.page.content import Content, Experiment
from experiments.page.rows import Row

HEAD = ("result", "reported", "reproduced", "95 % interval", "n", "verdict")


def write(content: Content, folder: Path, kind: str) -> list[Path]:
    """One file per experiment with results, the report's or ours: ``folder``/tables/<experiment>.csv, .tex or .md.

    Returns their paths.
    """
    suffix, made = KINDS[kind]
    written = []
    for experiment in filter(_rows, content.experiments):
        path = folder / "tables" / f"{experiment.name}{suffix}"
        write_text(path, made(experiment))
        written.append(path)
    return written


def csv(experiment: Experiment) -> str:
    """Every digit; reported, value, low and high are empty where they are not defined. of: what the values are of."""
    lines = [
        {
            "result": row.name,
            "place": row.place,
            "reported": row.reported,
            "value": row.value,
            "low": row.result and row.result.low,
            "high": row.result and row.result.high,
            "n": row.result and row.result.n,
            "synthetic": row.result and row.result.synthetic,
            "verdict": row.verdict.text,
            "of": experiment.basis,
        }
        for row in _rows(experiment)
    ]
    return pd.DataFrame(lines, dtype=object).to_csv(index=False)


def markdown(experiment: Experiment) -> str:
    """A heading, the state of the run and the table."""
    lines = [HEAD, ["---", *["---:"] * 4, "---"], *(_cells(row) for row in _rows(experiment))]
    table = "\n".join(f"| {' | '.join(map(_in_markdown, line))} |" for line in lines)
    return f"# {_in_markdown(experiment.name)}\n\n{_in_markdown(_about(experiment))}\n\n{table}\n"


def latex(experiment: Experiment) -> str:
    """A longtable in small type, which fits an article's column; its first line says which packages it needs."""
    frame = pd.DataFrame([_cells(row) for row in _rows(experiment)], columns=HEAD)
    caption = in_latex(f"{experiment.name}: {_about(experiment)}")
    style = frame.map(in_latex).rename(columns=in_latex).style.hide(axis="index")
    table = style.to_latex(
        environment="longtable",
        hrules=True,
        column_format=r"p{0.20\linewidth}p{0.10\linewidth}p{0.14\linewidth}rrp{0.14\linewidth}",
        caption=caption,
        label=f"tab:{experiment.name}",
    )
    return (
        f"% \\usepackage{{booktabs,longtable,caption}}\n{{\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n{table}}}\n"
    )


KINDS: dict[str, tuple[str, Callable[[Experiment], str]]] = {
    "csv": (".csv", csv),
    "latex": (".tex", latex),
    "md": (".md", markdown),
}


def _rows(experiment: Experiment) -> list[Row]:
    return [*experiment.beside, *experiment.further]


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, row.said, row.ours, row.interval, row.n, row.verdict.text


def _about(experiment: Experiment) -> str:
    state = experiment.found.state if experiment.finished else f"{experiment.found.state}; {experiment.command}"
    synthetic = "; synthetic patients: no test of the report" if experiment.synthetic else ""
    tuned = "; fine-tuned, not from random weights" if experiment.fine_tuned else ""
    said = f"{experiment.purpose} ({state}{tuned}{synthetic})" + f" {experiment.basis}." * bool(experiment.basis)
    return " ".join((said, *(f"Note: {doubt}." for doubt in experiment.doubts)))


def _in_markdown(text: str) -> str:
    for special in ("\\", "`", "*", "_", "[", "]", "<", ">", "|"):
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def in_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text)


LATEX = {character: f"\\{character}" for character in "&%$#{}"} | {
    "_": r"\_\allowbreak{}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "“": "``",
    "”": "''",
    "–": "--",
    "×": r"$\times$",
    "³": r"\textsuperscript{3}",
    '"': r"\textquotedbl{}",
}
"""What LaTeX reads otherwise, and what its standard fonts have under another name."""
