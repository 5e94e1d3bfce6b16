"""One's own patient: some scans in, one segmentation and its volumes in ml out; the same for every network."""

import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from common import background, geometry, nifti
from common.arguments import PatientArguments
from common.exchanged import exchanged
from common.exported import SUFFIX, Exported
from common.files import plain, read_json
from common.grid import bring
from common.identity import contents
from common.labels import CONVENTIONS
from common.metrics import volume_ml
from common.picture import draw_answer
from common.recipe import Recipe, Volume, misfit, transform
from common.scoring import MEMBERS
from common.subject import Subject, examine_arrays

SEEN_NOTE = "the network was trained or validated on these scans, so its answer does not say how good it is"
SYNTHETIC_MARK = "this network has seen synthetic phantoms only; what it makes of a patient is no result"


@dataclass(frozen=True)
class Trained:
    """A trained network as it answers.

    predict: classes uint8 (x, y, z) on the scan's own grid, from what the recipe makes of it.
    """

    recipe: Recipe
    predict: Callable[[Volume], np.ndarray]


@dataclass(frozen=True)
class Answer:
    """What a network says of one patient.

    labels: classes uint8 (x, y, z) on the scans' grid. volumes_ml: of each label and region. notes: what is odd in the
    scans; exchanged: those of them that say which contrasts look exchanged. scans: by contrast, for a look at both.
    """

    labels: np.ndarray
    volumes_ml: dict[str, float]
    notes: tuple[str, ...]
    exchanged: tuple[str, ...]
    scans: Mapping[str, nifti.Scan]

    @property
    def scan(self) -> nifti.Scan:
        """The first contrast's, whose header the answer takes."""
        return next(iter(self.scans.values()))


def check_files(arguments: PatientArguments) -> None:
    """Before any work: scans are different files, and the output can be written and is none of them, nor a folder.

    Files are told apart by what they are on the disk, so links and other spellings of a path count as the same. Raises
    ValueError, or OSError for an output that cannot be written.
    """
    output = arguments.output
    nifti.check_name(output)
    for (one, first), (other, second) in combinations(arguments.scans.items(), 2):
        if _same(first, second):
            raise ValueError(f"{second}: expected a scan of its own for {other}, found the one given for {one}")
    for name, file in arguments.scans.items():
        if _same(file, output):
            raise ValueError(f"{output}: expected another file to write to, this one is the {name} scan")
    check_output(output)


def check_output(output: Path) -> None:
    """That a file can be written, or replaced. Raises ValueError or OSError as :func:`check_files`."""
    if output.is_dir():
        raise ValueError(f"{output}: expected the name of a file to write, found a folder")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output}: expected a file that can be replaced, found a device or a pipe")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{output}: cannot be written, {folder}: {error.strerror or error}") from error


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or (one.exists() and other.exists() and one.samefile(other))


def check_grid(run: Path, recipe: Recipe) -> str | None:
    """A note where a run does not say on which grid its network was trained, as older ones do not; None where it does.

    Raises ValueError when it was trained on another one than this recipe's.
    """
    trained = _said(run, "config.json").get("grid")
    if trained is None:
        return f"{run}: does not say on which grid its network was trained, {recipe.grid.axes} axes are taken"
    if trained != (wanted := plain(asdict(recipe.grid))):
        raise ValueError(f"{run}: expected a network trained on the grid {wanted}, found {trained}")
    return None


def synthetic_mark(run: Path) -> str:
    """What every answer of a network that was trained on phantoms bears; empty of another's."""
    return SYNTHETIC_MARK if _said(run, "data.json").get("synthetic") else ""


def seen_scans(run: Path) -> frozenset[str]:
    """Content digests (`common.identity`) of the scans that a run's networks were trained or validated on.

    Those of all its trainings, and of the runs that it started from; none of an exported file or an older run, which do
    not say so.
    """
    digests: set[str] = set()
    for path in [] if run.is_file() else run.rglob("split.json"):
        split, data = (_said(path.parent, name) for name in (path.name, "data.json"))
        known = data.get("contents", {})
        own = [known.get(id, {}) for part in ("train", "validation") for id in split.get(part, ())]
        for each in (*own, *(before["contents"] for before in data.get("seen", ()))):
            digests.update(each.values())
    return frozenset(digests)


def seen_note(seen: Collection[str], scans: Mapping[str, nifti.Scan]) -> tuple[str, ...]:
    """That a network has seen a patient's scans. seen: as :func:`seen_scans` tells."""
    return (SEEN_NOTE,) if seen and not set(contents(scans).values()).isdisjoint(seen) else ()


def _said(run: Path, name: str) -> dict[str, Any]:
    """What a run's folder says of itself in a file of this name, if it says anything; an exported file says all."""
    if run.suffix == SUFFIX:
        return Exported(run).about
    path = run / name
    return read_json(path, dict) if path.exists() else {}


def segment(
    arguments: PatientArguments, recipe: Recipe, predict: Callable[[Volume], np.ndarray], *, picture: Path | None = None
) -> dict[str, float]:
    """Write the segmentation and return the volume of each label and region in ml; notes go to standard error.

    predict: classes uint8 (x, y, z) on the scan's own grid, from what the recipe makes of it. picture: PNG to write,
    with every contrast under its name. Raises ValueError when a scan that the recipe needs is not given, cannot be
    trusted, or is not as the network expects it.
    """
    check_files(arguments)
    if missing := [name for name in recipe.contrasts if name not in arguments.scans]:
        options = ", ".join(f"--{name.lower()}" for name in recipe.contrasts)
        raise ValueError(f"expected {options} for this network, received no {', '.join(missing)}")
    about = run_notes(arguments.run, recipe)
    images = {name: arguments.scans[name] for name in recipe.contrasts}
    for name, file in images.items():
        if not file.exists():
            raise ValueError(f"{file}: expected the {name} scan, found no such file")
    answer = answer_for(Subject(id="patient", images=images), Trained(recipe, predict))
    for note in (*about, *answer.notes, *seen_note(seen_scans(arguments.run), answer.scans)):
        print(f"note: {note}", file=sys.stderr)
    if picture is not None:
        marks = (synthetic_mark(arguments.run), *answer.exchanged)
        draw_answer(picture, answer.scans, answer.labels, title=in_words(answer.volumes_ml), marks=marks)
    nifti.write(arguments.output, CONVENTIONS[arguments.labels].from_classes(answer.labels), like=answer.scan)
    return answer.volumes_ml


def run_notes(run: Path, recipe: Recipe) -> tuple[str, ...]:
    """What is to be known of a run before its network answers. Raises ValueError as :func:`check_grid`."""
    mark = synthetic_mark(run)
    return tuple(filter(None, [check_grid(run, recipe), mark and f"{run}: {mark}"]))


def answer_for(subject: Subject, trained: Trained) -> Answer:
    """One patient's scans through a network.

    Raises ValueError when a scan cannot be trusted, or is not as the network expects it.
    """
    recipe = trained.recipe
    scans, _ = subject.read(recipe.contrasts)
    found = examine_arrays(subject, scans, None)
    if found.problems:
        raise ValueError("; ".join(map(str, found.problems)))
    notes: list[str | None] = [*map(str, found.copies)]
    scan = scans[recipe.contrasts[0]]
    try:
        brought = bring(scans, None, recipe.grid)
    except nifti.ScanError as error:
        raise nifti.ScanError(f"{subject.images[recipe.contrasts[0]]}: {error}") from error
    for name in recipe.contrasts:
        file = subject.images[name]
        if reason := misfit(brought.scans, replace(recipe, contrasts=(name,))):
            raise ValueError(f"{file}: {reason}")
        data, spacing = scans[name].data, scans[name].spacing_mm
        odd = [*geometry.notes(scans[name]), *background.notes(data), background.brain_note(data, spacing_mm=spacing)]
        notes += [f"{name}: {note}" for note in odd if note]
    images = {name: one.data for name, one in scans.items()}
    doubts = exchanged(images)
    notes += [background.coverage_note(images), *doubts]
    notes.append(str(brought.placement) and f"the scans were {brought.placement}; the answer lies on their own grid")
    labels = trained.predict(transform(subject.id, brought, recipe))
    volumes_ml = {
        name: volume_ml(np.isin(labels, values), spacing_mm=scan.spacing_mm) for name, values in MEMBERS.items()
    }
    shown = {name: scans[name] for name in recipe.contrasts}
    return Answer(labels, volumes_ml, tuple(filter(None, notes)), doubts, shown)


def in_words(volumes_ml: Mapping[str, float]) -> str:
    """The regions' volumes as a picture's title."""
    return ", ".join(f"{name} {volumes_ml[name]:.1f} ml" for name in ("WT", "TC", "ET"))


def report(volumes_ml: dict[str, float], *written: Path) -> None:
    """Print the volumes and what was written."""
    for name, millilitres in volumes_ml.items():
        print(f"{name:>4}  {millilitres:8.2f} ml")
    for path in written:
        print(f"written: {path}")
