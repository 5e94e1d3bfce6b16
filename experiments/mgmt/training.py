"""One MGMT model from its patients' prepared slices to its predictions, in this process."""

from pathlib import Path

import pandas as pd

from common.dicom.mgmt_cohort import find_patients
from common.files import write_csv
from common.loading import loading
from common.networks import read_model_config
from common.runs import Run, RunError
from common.splits import PARTS
from experiments.base.options import options_in
from experiments.base.trainings import given
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.pooled import site_entries
from experiments.mgmt.study import PREDICTIONS


def train(folder: Path) -> None:
    """Train the model that a folder describes, search its threshold, and predict validation and test patients.

    Writes predictions.csv last of all. Raises RunError when a patient cannot be prepared any more.
    """
    with loading("PyTorch"):
        from mgmt_classifier import data
        from mgmt_classifier.config import Config
        from mgmt_classifier.inference import predict
        from mgmt_classifier.train import fit

    config, options = read_model_config(folder, Config), options_in(folder, MgmtOptions)
    described = given(folder, "data", labels=dict)
    split = given(folder, "split", **dict.fromkeys(PARTS, list))
    labels, used = described["labels"], {id for part in PARTS for id in split[part]}
    with Run(folder) as run:
        run.note_start()
        entries, copies = {}, options.local_copy
        if (place := described.get("folder")) is not None:
            patients = [patient for patient in find_patients(place, options.labels).patients if patient.id in used]
            store = data.prepare(patients, config.recipe, options.prepared, n_jobs=options.jobs, local_copy=copies)
            entries |= store.entries
        if sites := described.get("sites"):
            entries |= site_entries(sites, config, used, options.prepared, jobs=options.jobs, local_copy=copies)
        if lost := sorted(used - set(entries)):
            raise RunError(f"{place or 'sites'}: expected the patients that {folder} was made for, lost: {lost}")
        parts = {part: [(entries[id], labels[id]) for id in split[part]] for part in PARTS}
        fit(config, parts["train"], parts["validation"], run)
        rows = [
            (part, id, labels[id], probability)
            for part in ("validation", "test")
            for id, probability in predict(folder, [entry for entry, _ in parts[part]])
        ]
        write_csv(folder / PREDICTIONS, pd.DataFrame(rows, columns=["part", "id", "label", "probability"]))
