"""A finished run as a training would leave it, without any training."""

from dataclasses import asdict

import numpy as np

from common import nifti
from common.cohort import find_subjects
from common.files import write_csv, write_json
from common.runs import describe
from common.scoring import score_cases
from experiments.table1_baseline import DEMO


def predicted(truth, shift):
    return np.roll(truth, shift, 0)


def write_run(folder, data, cases, shift):
    """A run that has tested the cases, each label map a shifted truth."""
    subjects = {subject.id: subject for subject in find_subjects(data).subjects}
    rows = []
    for case in cases:
        truth = subjects[case].load_labels()
        labels = subjects[case].convention.from_classes(predicted(truth, shift))
        nifti.write(folder / "predictions" / f"{case}.nii.gz", labels, like=nifti.read_header(subjects[case].label))
        rows.append((case, predicted(truth, shift), truth, (1.0, 1.0, 1.0)))
    write_csv(folder / "cases.csv", score_cases(rows).cases.assign(view=""))
    describe(
        folder,
        config={"experiment": "table1_baseline", "options": {"empty_masks": "brats"}, "model": asdict(DEMO)},
        data={"folder": data, "subjects": {id: subject.fingerprint() for id, subject in subjects.items()}},
        split={"train": sorted(set(subjects) - set(cases)), "validation": [], "test": list(cases)},
    )
    write_json(folder / "summary.json", [])
    return folder
