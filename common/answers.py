"""A folder of patients through a trained network: a segmentation and a picture each, resumed where it was stopped."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from common import nifti
from common.arguments import PatientArguments
from common.cohort import find_subjects
from common.files import file_stem, read_json, write_csv, write_json
from common.labels import CONVENTIONS
from common.patient import Trained, answer_for, in_words, run_notes, seen_note, seen_scans, synthetic_mark
from common.picture import draw_answer
from common.progress import counted
from common.subject import Problem
from common.words import by_note

RECORD = "predictions.json"
VOLUMES = "volumes.csv"
MOST_NOTES = 20
"""So many are printed; all stand in RECORD."""


def check_folder(arguments: PatientArguments) -> Path:
    """The folder of --data, checked before any work.

    Raises ValueError when single scans are given too, or the answers would mix with others.

    Answers of another network or in other labels are never mixed with these, nor is the folder of scans written to.
    """
    data, output = arguments.data, arguments.output
    if arguments.scans:
        raise ValueError("expected --data or one patient's scans, received both")
    for option, value in (("--brain-mask", arguments.brain_mask), ("--steps", arguments.steps)):
        if value is not None:
            raise ValueError(f"expected --dicom beside {option} {value}, received --data")
    if data is None or not data.is_dir():
        raise ValueError(f"{data}: expected a folder of scans, found no folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: expected a folder for the answers of --data, found a file")
    inside = output.resolve()
    if inside == data.resolve() or data.resolve() in inside.parents:
        raise ValueError(f"{output}: expected a folder outside {data}, whose scans would be mixed with the answers")
    if (output / RECORD).exists():
        found = read_json(output / RECORD, dict)
        wanted = {"network": _fingerprint(arguments.run), "labels": arguments.labels}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise ValueError(
                f"{output}: holds answers of {found.get('run')} in labels of {found.get('labels')}; expected a new "
                "folder, or the same network and labels"
            )
    elif any(output.glob("*.nii.gz")):
        raise ValueError(
            f"{output}: expected a new folder, or one with answers of this command, found other .nii.gz files"
        )
    return data


def segment_folder(arguments: PatientArguments, trained: Trained) -> tuple[Problem, ...]:
    """Answer every patient of --data that has none yet in --output; returns what kept others from theirs.

    Written there after each: ID.nii.gz, ID.png, volumes.csv (ml of each label and region) and predictions.json (the
    network, the scans' content and the notes). A patient whose scans have changed since is answered anew.
    """
    data, output = check_folder(arguments), arguments.output
    cohort = find_subjects(data, layout=arguments.layout, contrasts=trained.recipe.contrasts, masks=False)
    for note in (*run_notes(arguments.run, trained.recipe), *cohort.notes):
        print(f"note: {note}", file=sys.stderr)
    mark, seen = synthetic_mark(arguments.run), seen_scans(arguments.run)
    record = {
        "run": str(arguments.run.resolve()),
        "network": _fingerprint(arguments.run),
        "labels": arguments.labels,
        "synthetic": bool(mark),
        "cases": read_json(output / RECORD, dict)["cases"] if (output / RECORD).exists() else {},
    }
    problems = list(cohort.incomplete)
    for subject in counted(cohort.subjects, "segmenting", total=len(cohort.subjects), unit="patient"):
        file = output / f"{file_stem(subject.id)}.nii.gz"
        picture = output / f"{file_stem(subject.id)}.png"
        try:
            content = subject.fingerprint()
            if file.exists() and record["cases"].get(subject.id, {}).get("scans") == content:
                continue
            answer = answer_for(subject, trained)
        except (ValueError, OSError) as error:
            problems.append(Problem(subject.id, None, str(error)))
            if record["cases"].pop(subject.id, None):  # of scans that are no more
                _write(output, record)
                file.unlink(missing_ok=True)
                picture.unlink(missing_ok=True)
            continue
        title = f"{subject.id}: {in_words(answer.volumes_ml)}"
        draw_answer(picture, answer.scans, answer.labels, title=title, marks=(mark, *answer.exchanged))
        nifti.write(file, CONVENTIONS[arguments.labels].from_classes(answer.labels), like=answer.scan)
        notes = (*answer.notes, *seen_note(seen, answer.scans))
        record["cases"][subject.id] = {"scans": content, "volumes_ml": answer.volumes_ml, "notes": notes}
        _write(output, record)
    said = by_note({subject: each["notes"] for subject, each in record["cases"].items()}, "patient")
    for note in said[:MOST_NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if len(said) > MOST_NOTES:
        print(f"note: {len(said) - MOST_NOTES} more in {output / RECORD}", file=sys.stderr)
    return tuple(problems)


def _write(output: Path, record: Mapping[str, Any]) -> None:
    """The table first: a patient who stands in the record is not looked at again."""
    volumes = {case: each["volumes_ml"] for case, each in sorted(record["cases"].items())}
    table = pd.DataFrame.from_dict(volumes, orient="index").add_suffix("_ml").round(3)
    write_csv(output / VOLUMES, table.rename_axis("id").reset_index())
    write_json(output / RECORD, record)


def _fingerprint(run: Path) -> str:
    """Of a trained network: hexadecimal digest of its weights and of how they are used; of a file, of that."""
    kept = ("config.json", "networks.json", "decision.json")
    files = [run] if run.is_file() else [
        file for file in sorted(run.rglob("*")) if file.name in kept or file.parent.name == "checkpoints"
    ]  # fmt: skip
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(run)).encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
