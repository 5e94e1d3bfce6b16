"""Where the final models look: saliency on validation patients, its shares, and what is pictured of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy  # its parts when they are first used: stats alone takes half a second

from common.dicom.series import look
from common.files import atomic_path, write_csv
from common.loading import loading
from common.runs import Run
from common.statistics import bootstrap_interval
from experiments.base.results import Result
from experiments.mgmt.study import MgmtStudy
from mgmt_classifier.config import Config

SALIENCY = "saliency.npz"
BRIGHT_PERCENTILE = 95
"""Of the non-zero pixels of a patient's chosen images."""


def explain(study: MgmtStudy, ensemble: Run, models: dict[str, Config], *, shown: int) -> None:
    """Saliency of both models on every validation patient: shares as a table, some patients as a picture.

    saliency.npz holds what is pictured, as arrays by contrast, one item per patient: FLAIR_id, FLAIR_label,
    FLAIR_image and FLAIR_saliency (patient, rows, columns), FLAIR_position (in the series, from 0), FLAIR_orientation
    (ImageOrientationPatient) and FLAIR_extent_mm (of the rows and of the columns together); T1w_id and so on.
    """
    with loading("PyTorch"):
        from mgmt_classifier.data import network_input
        from mgmt_classifier.explain import Panel, draw, saliency
        from mgmt_classifier.inference import build, load_run

    rows, found, panels, pictures = [], [], [], defaultdict(list)
    patients = {patient.id: patient for patient in study.cohort.patients}
    for contrast, config in models.items():
        network, _ = load_run(ensemble.folder / contrast)
        device = next(network.parameters()).device
        untrained = build(replace(config, seed=config.seed + 1)).eval().to(device)
        entries = study.stores[config.recipe].entries
        pictured = alternating(study.split.validation, study.labels)[:shown]
        for id in study.split.validation:
            image = network_input(entries[id].open(), entries[id].geometry, intensity=config.intensity)
            heat = saliency(network, image)
            rows.append({"id": id, "contrast": contrast, **shares(image[0], heat, saliency(untrained, image))})
            if id in pictured:
                title = f"{contrast} of {id}, {'methylated' if study.labels[id] else 'not methylated'}"
                positions = entries[id].geometry["indices"]
                panel = Panel(title=title, image=entries[id].open(), saliency=heat, positions=positions)
                panels.append(panel)
                first = look(patients[id].folders[contrast]).images[0]
                picture = {
                    "id": id,
                    "label": study.labels[id],
                    "image": panel.image[panel.shown],
                    "saliency": heat[panel.shown],
                    "position": positions[panel.shown],
                    "orientation": first.orientation,
                    "extent_mm": np.multiply(first.shape, first.spacing_mm),
                }
                for name, value in picture.items():
                    pictures[f"{contrast}_{name}"].append(value)
        own = pd.DataFrame(rows)[lambda table, name=contrast: table["contrast"] == name]
        found += summarised(study, contrast, own)
    write_csv(study.run.folder / "saliency.csv", pd.DataFrame(rows))
    with atomic_path(study.run.folder / SALIENCY) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **pictures)
    mark = " (synthetic phantoms)" if study.synthetic else ""
    draw(study.run.figures / "saliency.png", panels, title=f"What speaks for MGMT methylation{mark}")
    study.finish(found, ["Saliency shows where a model looks, not whether it is right: for that see mgmt_ensemble."])


def alternating(ids: Sequence[str], labels: Mapping[str, int]) -> list[str]:
    """Methylated, not, methylated, ... as long as there are both, then the rest."""
    by_class = {label: [id for id in ids if labels[id] == label] for label in (1, 0)}
    return sorted(ids, key=lambda id: (by_class[labels[id]].index(id), -labels[id]))


def shares(image: np.ndarray, heat: np.ndarray, untrained: np.ndarray) -> dict[str, float]:
    """Shares of a saliency on the brain (non-zero pixels) and on its brightest pixels, and its rank correlation with
    that of an untrained network. All arrays (images, rows, columns). nan where nothing is salient."""
    brain = image != 0
    bright = image >= np.percentile(image[brain], BRIGHT_PERCENTILE)
    total = heat.sum()
    if total == 0:
        return dict.fromkeys(("brain", "bright", "brain_expected", "bright_expected", "untrained"), float("nan"))
    both = heat[brain], untrained[brain]
    alike = scipy.stats.spearmanr(*both).statistic if all(np.ptp(values) > 0 for values in both) else float("nan")
    return {
        "brain": float(heat[brain].sum() / total),
        "brain_expected": float(brain.mean()),  # of a saliency that is the same everywhere
        "bright": float(heat[bright & brain].sum() / total),
        "bright_expected": float((bright & brain).mean()),
        "untrained": float(alike),
    }


def summarised(study: MgmtStudy, contrast: str, table: pd.DataFrame) -> list[Result]:
    """Means over patients with intervals, and the sentence that stands beside the report's."""
    found = []
    known = table.dropna(subset="brain")
    for name in ("brain", "brain_expected", "bright", "bright_expected", "untrained"):
        values = known[name].dropna().to_numpy()
        interval = bootstrap_interval(values, seed=study.options.split_seed)
        mean = float(values.mean()) if len(values) else float("nan")
        found.append(study.result(f"{contrast}__saliency_{name}", mean, len(values), interval))
    if known.empty:
        sentence = "nothing speaks for methylation in any patient"
    else:
        brain, bright = (known[name].mean() / known[f"{name}_expected"].mean() for name in ("brain", "bright"))
        sentence = (
            f"{brain:.1f} x the even share on the brain, {bright:.1f} x on its brightest {100 - BRIGHT_PERCENTILE} %"
        )
    return [study.result(f"{contrast}__attention", sentence, len(known)), *found]
