"""What a run was made from, in sentences: its data, whose weights it started from, and the preset behind its table."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.words import by_note, listed, plural
from experiments.base import runs
from experiments.page.settings import Difference


@dataclass(frozen=True)
class Environment:
    """One start of a run, as environment.json has it."""

    experiment: str
    command: str
    started: str
    commit: str
    machine: str
    versions: str


def basis(found: runs.Found, config: Mapping, apart: Sequence[Difference] | None, *, n: int) -> str:
    """What stands behind a finished run's numbers, in a line; empty of a run without a preset.

    apart: settings that are not those of the report's preset; None where it is not known. n: patients that the
    experiment's headline is of; other results have other numbers, as of epochs.
    """
    options = config.get("options", {})
    if not found.results or options.get("preset") is None:
        return ""
    kind = "synthetic patient" if any(result.synthetic for result in found.results) else "patient"
    changed = ", ".join(runs.changed(found.folder)) or ("none" if "changed" in options else "not known")
    said = f"Preset {options['preset']}, {plural(n, kind)}; settings other than the preset's: {changed}"
    return said if apart is None else f"{said}; other than the report's preset's: {len(apart)}"


def taking_no_part(n: int) -> str:
    """Why patients whom a method's training has seen are not compared."""
    return f"{plural(n, 'patient takes', 'patients take')} no part, for a network compared here has seen them"


def fine_tuned(config: Mapping) -> str:
    """Whose weights a training started from, as its config.json says."""
    start = config.get("start")
    return "" if start is None else f"{start['run']} (weights {start['digest']})"


def data(config: Mapping, described: Mapping, parts: tuple[int, ...], noted: Iterable[str] = ()) -> tuple[str, ...]:
    """Sentences: which data, how it was split, who was left out, what is odd. noted: by an audit."""
    options = config.get("options", {})
    said = []
    if "folder" in described:
        synthetic = described.get("synthetic", False)
        kind = "embedded synthetic patients" if synthetic else "real patients"
        effect = f", planted effect {options['effect']:g}" if synthetic and "effect" in options else ""
        layout = f" ({described['layout']})" if "layout" in described else ""
        preset = f"; preset {options['preset']}" if options.get("preset") else ""
        said.append(f"Data: {kind} in {described['folder']}{layout}{effect}{preset}.")
    elif "data" in options:  # folds pooled
        said.append(f"Data: {'embedded synthetic patients' if options['data'] is None else options['data']}.")
    if described.get("mgmt_folder"):
        said.append(f"MGMT data: {described['mgmt_folder']}.")
    if "ensemble" in described:
        said.append(f"Data and models: those of the run {described['ensemble']}.")
    methods = described.get("methods", {})
    said += [f"{method}: {each['training']}." for method, each in methods.items() if "training" in each]
    said += [f"{method} lacks {listed(each['missing'])}." for method, each in methods.items() if each.get("missing")]
    if seen := described.get("seen") if methods else ():
        said.append(f"{taking_no_part(len(seen))}: {', '.join(seen)}.")
    if methods and parts:
        said.append(f"Cases compared: {described.get('about', parts[2])}.")
    elif parts:
        said.append(f"Split: {parts[0]} training, {parts[1]} validation, {parts[2]} test patients.")
    for what, ids in (
        ("left out because they cannot be used", described.get("left_out", ())),
        ("left out as doubtful", described.get("left_out_doubtful", ())),
        ("with a label but no images", described.get("without_images", ())),
        ("with images but no label", described.get("without_label", ())),
        ("in no part, having no row in the file of the split", described.get("without_part", ())),
    ):
        if ids:
            said.append(f"{len(ids)} {what}: {'; '.join(ids)}.")
    doubts = [described.get(name, {}) for name in ("exchanged", "mismatch")]
    ids = dict.fromkeys(id for each in (described.get("subjects", {}), *doubts) for id in each)
    doubted = {id: [note for each in doubts for note in each.get(id, ())] for id in ids}
    of_methods = described.get("notes", ()) if methods else ()
    said += [f"Note: {note}." for note in (*by_note(doubted), *of_methods, *noted)]
    if parts and not methods and not described.get("left_out") and not described.get("without_part"):
        said.append("Nobody was left out.")
    if minimum := described.get("excluded", {}).get("minimum_mask_fraction"):
        excluded = described["excluded"]["labelled_fraction"]
        who = f": {', '.join(excluded)}" if excluded else ""
        said.append(f"{len(excluded)} excluded before the split with less than {100 * minimum:g} % labelled{who}.")
    if "empty_masks" in options:
        said.append(f"Empty masks are scored by the policy “{options['empty_masks']}”.")
    return tuple(said)


def command(start: Mapping) -> str:
    """As it was typed, of one start in environment.json."""
    program, *arguments = start.get("command", ["unknown"])
    return shlex.join(["python", "-m", f"experiments.{Path(program).stem}", *arguments])


def environment(name: str, start: Mapping) -> Environment:
    """One start of an experiment, as environment.json has it."""
    gpus = start.get("gpus") or ["no GPU"]
    machine = (
        f"{start.get('processor', 'unknown processor')}, {start.get('cores', '?')} cores, "
        f"{start.get('memory_gib', '?')} GiB of memory, {', '.join(gpus)}; {start.get('system', 'unknown system')}"
    )
    versions = {"python": start.get("python", "?"), **start.get("packages", {})}
    return Environment(
        experiment=name,
        command=command(start),
        started=str(start.get("started", "unknown"))[:16].replace("T", " "),
        commit=start.get("git_commit") or "not known",
        machine=machine,
        versions=", ".join(f"{package} {version}" for package, version in versions.items()),
    )
