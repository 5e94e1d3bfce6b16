"""Command lines: options and the chosen preset's settings, and what is said where they cannot be followed."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from common.cohort import CohortError
from common.command_line import parse
from common.files import typed
from common.loading import not_installed
from common.nifti import ScanError
from common.phantom.folder import embedded_cohort
from common.runs import RunError, gpus
from common.signals import until_unread
from common.subject import Problem, lines
from common.words import plural
from experiments.base import engines
from experiments.base.progress import duration
from experiments.base.reading import Reading
from experiments.base.results import aligned
from experiments.base.trainings import given

Options = TypeVar("Options")
Made = TypeVar("Made")

SECONDS_PER_SAMPLE = (10, 30)
"""Of a step on one or two cores of an AMD EPYC, at the report's settings: an MGMT patient, a SegResNet's crop of 128
voxels (docs/LOG.md); the U-Nets lie between."""


@dataclass(frozen=True, kw_only=True)
class FromPreset:
    """Part of the options of every command whose settings are a preset's."""

    changed: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Settings that are not the preset's, as ``epochs=6``; found by :func:`command_line`."""


@dataclass(frozen=True, kw_only=True)
class BothTasks(Reading):
    """What commands that know both tasks are told on their command lines."""

    data: Path | None = None
    """Folder of scans. Without it and without --mgmt-data the embedded phantoms of both tasks are used."""
    mgmt_data: Path | None = None
    """Folder of the MGMT cohort (DICOM). With data of one task only, the other's are not used."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded segmentation cohort."""
    phantoms_mgmt: Path = Path("phantoms_mgmt")
    """Folder of the embedded MGMT cohorts."""
    jobs: int = -1
    """Threads, for DICOM processes, that read, prepare, score or write; -1 takes every core."""

    def __post_init__(self) -> None:
        at_least(1, jobs=None if self.jobs == -1 else self.jobs)


class Refused(Exception):
    """The experiment cannot run as asked; the message is for the user and says what to do."""


@contextmanager
def refusals() -> Iterator[None]:
    """What the user can mend ends the program with a message and exit status 1."""
    try:
        with until_unread():
            yield
    except (Refused, CohortError, ScanError, RunError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error if error.filename is None else f'{error.filename}: {error.strerror}'}")
    except ModuleNotFoundError as error:
        if (said := not_installed(error)) is None:
            raise
        sys.exit(f"error: {said}")


def gathered(makers: Iterable[Callable[[], Made]]) -> tuple[list[Made], list[str]]:
    """What each of them makes, and what the others say that refuse: for users to mend in one go."""
    made, refused = [], []
    for make in makers:
        try:
            made.append(make())
        except (Refused, RunError) as error:
            refused.append(str(error))
    return made, refused


def leave_out(problems: Iterable[Problem], place: object, *, allowed: bool, who: str, of: str = "") -> tuple[str, ...]:
    """Ids, sorted, of those that have problems, with which they are named on the terminal.

    place: where they lie; who: what each of them is; of: ``of 24 ``, where it is said how many there are.
    Raises Refused unless --leave-out-bad is given.
    """
    ids = tuple(sorted({problem.subject for problem in problems}))
    listing = "\n".join(f"  {line}" for line in lines(problems))
    named = f"{len(ids)} {of}{who}s" if of else plural(len(ids), who)
    if ids and not allowed:
        raise Refused(
            f"{place}: {named} cannot be used:\n{listing}\nmend them, or go on without them with --leave-out-bad"
        )
    if ids:
        print(f"left out {plural(len(ids), who)}:\n{listing}", file=sys.stderr)
    return ids


def refuse_phantoms(data: Path, patient: Path) -> None:
    """Raises Refused when what --data names is an embedded cohort, whose results would not be marked as synthetic.

    patient: a file or folder of one of its patients.
    """
    if (folder := embedded_cohort(patient)) is not None:
        raise Refused(f"{data}: expected scans of patients, found the synthetic ones of {folder}; leave the option out")


def options_in(folder: Path, kind: type[Options]) -> Options:
    """Options of an experiment as a training's folder describes them; others that stand there are its command's own.

    Raises RunError when they are damaged.
    """
    written, wanted = given(folder, options=dict)["options"], get_type_hints(kind)
    # A preset has been applied to the training's settings, and commands have presets of their own.
    values = {name: written[name] for name in wanted if name in written and name != "preset"}
    for name, value in values.items():
        if isinstance(value, str) and wanted[name] in (Path, Path | None):
            values[name] = Path(value)
    try:
        return typed(kind, values)
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'}: expected the options of an experiment, found: {error}") from None


def absolute(path: Path | None) -> Path | None:
    """The same place from whatever folder a command is called in. Links are left to the machine that follows them."""
    return None if path is None else path.absolute()


def at_least(least: int, **options: int | None) -> None:
    """Raises ValueError when an option, where it is given, is smaller."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"expected --{name.replace('_', '-')} of {least} or more, received {value}")


def command_line(
    experiment: str, presets: Mapping[str, Any], description: str, *, options_type: type
) -> tuple[Any, Any]:
    """Options and model configuration; ``--model.*`` changes single fields of the chosen preset.

    Without --preset: the first of the presets where --data is given, else the last.
    """

    @dataclass(frozen=True)
    class Choice:
        data: Path | None = None
        preset: str | None = None

    choice, _ = tyro.cli(Choice, return_unknown_args=True, add_help=False)
    if choice.preset is not None and choice.preset not in presets:
        print(f"error: expected --preset {' or '.join(presets)}, received {choice.preset}", file=sys.stderr)
        sys.exit(2)
    preset = choice.preset or list(presets)[0 if choice.data else -1]
    config = presets[preset]

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        options: Annotated[options_type, tyro.conf.arg(name="")]
        model: type(config)

    try:
        arguments = parse(
            Arguments,
            prog=f"python -m experiments.{experiment}",
            description=wrapped("\n\n".join([description.strip(), *presets_table(presets, preset)])),
            default=Arguments(options=options_type(preset=preset), model=config),
        )
    except ValueError as error:  # tyro words what a model refuses, not what options without a name of their own do
        sys.exit(f"error: {error}")
    with refusals():
        engines.check(arguments.options)
    if preset == next(iter(presets)) and len(presets) > 1 and arguments.options.on == "local" and not gpus():
        print(without_gpu(presets, arguments.options, arguments.model), file=sys.stderr)
    return replace(arguments.options, changed=differences(config, arguments.model)), arguments.model


def without_gpu(presets: Mapping[str, Any], options: Any, model: Any) -> str:
    """What the first of the presets takes on processors, and how to run less."""
    settings = settings_in(asdict(model))
    named = {name: value for name, value in settings.items() if name.rpartition(".")[2] == "epochs"}
    epochs = max(named, key=named.get)
    crops, continued = (
        settings.get(epochs.removesuffix("epochs") + name) for name in ("crops_per_epoch", "continued_from")
    )
    low, high = (duration(seconds * named[epochs] * (crops or 100)) for seconds in SECONDS_PER_SAMPLE)
    whose = "" if crops else " for every 100 patients that it trains on"
    fewer = "--max-patients" if hasattr(options, "max_patients") else "--max-subjects"
    first, *_, last = presets
    cut = f"--model.{epochs} 5"
    if continued is not None:
        cut += f" --model.{epochs.removesuffix('epochs')}continued-from None"
    return (
        f"note: no GPU is found here, and preset {first} is made for one\n"
        f"      a training of {named[epochs]} epochs takes {low} to {high} here{whose}; stopped, it goes on\n"
        f"      for less: --preset {last}, which takes minutes, or {fewer} 10 {cut.replace('_', '-')}"
    )


def presets_table(presets: Mapping[str, Any], chosen: str) -> list[str]:
    """What the presets differ in, as paragraphs of a help text; none where there is one preset."""
    values = {name: settings_in(asdict(config)) for name, config in presets.items()}
    settings = dict.fromkeys(name for each in values.values() for name in each)
    differ = [name for name in settings if len({repr(each.get(name)) for each in values.values()}) > 1]
    if not differ:
        return []
    rows = [("--model.*", *presets), *((name, *(str(each.get(name)) for each in values.values())) for name in differ)]
    table = "\n".join(f"    {line}" for line in aligned(rows).splitlines())
    return [f"Presets; the defaults below are those of {chosen}:", table]


def wrapped(text: str) -> str:
    """A help text with its paragraphs as wide as the terminal; lines that are indented, as commands are, stay."""
    width = shutil.get_terminal_size().columns - 1
    paragraphs = []
    for paragraph in text.split("\n\n"):
        free = not any(line.startswith(" ") for line in paragraph.splitlines())
        # tyro would join lines that begin with a letter.
        lines = textwrap.wrap(paragraph, width, initial_indent=" ", subsequent_indent=" ") if free else [paragraph]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def differences(of: Any, given: Any) -> tuple[str, ...]:
    """Settings of a dataclass that differ from another's, as ``network.epochs=6``."""
    before, after = settings_in(asdict(of)), settings_in(asdict(given))
    return tuple(f"{name}={value}" for name, value in after.items() if name not in before or before[name] != value)


def settings_in(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by name; of settings within settings with a dot."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= settings_in(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
