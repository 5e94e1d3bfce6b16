"""The commands that segment patients: parsed first, and only then is anything heavy imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal, TypeVar

from common.arguments import PatientArguments
from common.command_line import parse
from common.loading import loading

if TYPE_CHECKING:
    from common.patient import Trained

Arguments = TypeVar("Arguments", bound=PatientArguments)


def run_command(
    kind: type[Arguments],
    network: Callable[[Arguments], Trained],
    *,
    prog: str,
    extra: str,
    framework: Literal["PyTorch", "Keras"],
) -> None:
    """What ``python -m <package>.predict`` does; ends the program with one sentence where the user can mend it.

    network: the trained network that the arguments name; imports its framework itself. extra: of the installation,
    that brings the framework.
    """
    arguments = parse(kind, prog=prog)
    try:
        from common.answers import check_folder, segment_folder
        from common.patient import report
        from common.preprocess.patient import check, segment

        check_run(arguments.run)
        if arguments.data is None or arguments.dicom is not None:
            check(arguments)
            name = prog.removeprefix("python -m ").partition(".")[0]
            with loading(framework):
                trained = network(arguments)
            pictured = () if arguments.dicom is not None else (arguments.picture_file,)
            report(segment(arguments, trained, network=name), arguments.output, *pictured)
            print(
                f"next: {prog} --run {quote(str(arguments.run))} --data FOLDER --output FOLDER    many patients at once"
            )
            return
        check_folder(arguments)
        with loading(framework):
            trained = network(arguments)
        problems = segment_folder(arguments, trained)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed; it comes with: pip install 'glioma-suite[{extra}]'")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"written: {arguments.output}, a picture of every patient in it")
    data, answers = quote(str(arguments.data)), quote(f"network={arguments.output}")
    layout = "" if arguments.layout is None else f" --layout {quote(str(arguments.layout))}"
    scored = f"python -m experiments.score --data {data}{layout} --predictions {answers}"
    print(f"next: {scored}    where the patients have masks: how well they agree")
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        sys.exit(f"error: {len(problems)} of the patients have no answer:\n{listing}")


def check_run(folder: Path) -> None:
    """Raises ValueError where there is nothing, and with the runs of a folder of several, one of which is meant."""
    if not folder.exists():
        raise ValueError(f"{folder}: expected the folder of a run, or an exported model.onnx, found nothing there")
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if inside:
        states = {run: "" if (run / "checkpoints").is_dir() else " (no trained weights)" for run in inside}
        listing = "\n".join(f"  {run}{state}" for run, state in states.items())
        raise ValueError(f"{folder}: expected a run, found a folder of {len(inside)}; name one with --run:\n{listing}")
