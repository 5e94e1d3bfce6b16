"""Networks of several folds as one: out-of-fold predictions, what is decided on them, and the networks' average.

Below the run's folder ``folds/<method><k>/`` holds a training and the probabilities of the patients that it has not
seen; ``out_of_fold/`` and ``test/`` (each with one folder per method) the scores and label maps; the run's own folder
what is put together from them: decision.json, networks.json, scores.csv, comparisons.csv and summary.json.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from common import prepared, splits
from common.augmentation import without_enhancement
from common.files import atomic_path, file_stem, read_json, write_csv, write_json
from common.labels import REGIONS
from common.loading import loading
from common.networks import read_model_config
from common.prepared import Entry
from common.recipe import Volume
from common.regions import Case, Decision, choose
from common.runs import Run
from common.splits import Split
from common.words import p_value
from experiments.base import results
from experiments.base.engines import run
from experiments.base.trainings import given, require
from experiments.segmentation import paired, scores
from experiments.segmentation.study import Study, restored
from segresnet_monai.config import DECISION, NETWORKS, Config
from segresnet_monai.start import KEPT

OWN, BASELINE = "beyond", "baseline"
PARTS = {"out_of_fold": "", "test": "test."}
"""Scored part -> what stands before its results' names."""
PREFIXES = {OWN: "", BASELINE: "baseline__"}
UNENHANCED = "unenhanced"
SMALLEST_ET_ML = 0.5
"""Of one network: its few validation patients are nobody to choose it on, as a small enhancement is hardly among them.
nnU-Net sought its own for BraTS 2020 between 0.025 and 0.75 ml; what others cost here is in docs/LOG.md."""
SHOWN = ("mean_dice", *(f"dice_{name}" for name in ("WT", "TC", "ET", "NCR", "ED")), "hd95_WT", "hd95_TC", "hd95_ET")
COMPARED = SHOWN[:6]


def split_of_folds(study: Study, k: int) -> list[Split]:
    """Every network's split: it trains on ``train``, and ``validation`` is what it has not seen and others have.

    Of one network the study's own; else k folds of the patients that are not tested, by the study's split seed.
    """
    if k == 1:
        return [replace(study.split, test=())]
    used = {*study.split.train, *study.split.validation}
    subjects = [subject for subject in study.subjects if subject.id in used]
    folds = splits.k_folds(subjects, k=k, seed=study.options.split_seed)
    return [
        Split(fold.name, train=tuple(sorted(used - set(fold.test))), validation=fold.test, test=()) for fold in folds
    ]


def folder_of(study: Study, method: str, number: int) -> Path:
    return study.run.folder / "folds" / f"{method}{number}"


def run_folds(study: Study, methods: Mapping[str, Config], folds: Sequence[Split], *, with_start: bool = False) -> None:
    """Train what is not finished, each network in a folder of its own. Raises RunError when one fails.

    with_start: every training keeps the weights that it started from, which predict beside its own.
    """
    trainings = []
    kept = {"with_start": True} if with_start else {}
    alone = {"alone": True} if len(folds) == 1 else {}
    for method, config in methods.items():
        started, further = (study, kept) if method == OWN else (replace(study, start=None), {})
        for number, fold in enumerate(folds, start=1):
            folder = folder_of(study, method, number)
            trainings.append(
                replace(started, split=fold).training("fold", f"{method}{number}", config, folder, **further, **alone)
            )
    require(run(trainings, study.options))


def train(folder: Path) -> None:
    """Train one network as its folder describes it, and keep what it makes of the patients that it has not seen.

    One that is trained alone keeps nothing: no decision is chosen on its validation part.
    """
    with loading("PyTorch"):
        from segresnet_monai.inference import load_together, mean_probabilities
        from segresnet_monai.train import fit

    config = read_model_config(folder, Config)
    with Run(folder) as opened:
        study = restored(opened, config)
        if study.start is not None and given(folder).get("with_start"):
            study.start.keep(folder)
        fit(study.train, study.validation, config, opened, start=study.start)
        networks, _ = load_together([folder])
        scores.draw_curves(study)
        for entry in () if given(folder).get("alone") else study.validation:
            volumes = {"": entry.open()} | ({UNENHANCED: _unenhanced(entry, config)} if _decides(config) else {})
            for kind, volume in volumes.items():
                found = np.rint(mean_probabilities(networks, volume, config) * 255).astype(np.uint8)
                with atomic_path(_probabilities(folder, entry.id, kind)) as temporary, temporary.open("wb") as file:
                    np.savez_compressed(file, probabilities=found)
        last = opened.history.rows()[-1]
        name, n = f"{folder.name}__validation_mean_dice", len(study.validation)
        found = study.result(name, float(last["validation_mean_dice"]), n)
        write_json(folder / "summary.json", results.as_rows([found]))


def _decides(config: Config) -> bool:
    """Whether a decision is chosen for these networks, and patients without enhancement can be made for it."""
    return config.targets == "regions" and {"T1", "T1ce"} <= set(config.contrasts)


def _unenhanced(entry: Entry, config: Config) -> Volume:
    """The patient with a tumour that does not enhance, the same each time."""
    rng = np.random.default_rng(zlib.crc32(entry.id.encode()))
    return without_enhancement(entry.open(), config.contrasts, rng)


def _probabilities(folder: Path, case: str, kind: str = "") -> Path:
    """Whole 255ths (channel, x, y, z) of a patient's box of the network's grid; kind: UNENHANCED, or as scanned."""
    return folder / "probabilities" / kind / f"{file_stem(case)}.npz"


def summarise(study: Study, methods: Mapping[str, Config], folds: Sequence[Split]) -> None:
    """Decide on the out-of-fold predictions, score both parts, compare the methods and, last, write summary.json."""
    folder, several = study.run.folder, len(folds) > 1
    found, frames = [], []
    studies = {method: _on_grid(study, config) for method, config in methods.items()}
    decisions = {method: _decide(studies[method], method, config, folds) for method, config in methods.items()}
    # Without a choice, what the configuration says: so the folder predicts as it was scored.
    plain = Decision(thresholds=(methods[OWN].probability_threshold,) * len(REGIONS))
    write_json(folder / DECISION, decisions[OWN][-1] or plain)
    write_json(folder / NETWORKS, [f"folds/{OWN}{number}" for number, _ in enumerate(folds, start=1)])
    for part, prefix in PARTS.items():
        if not (several if part == "out_of_fold" else study.split.test):
            continue
        for method, config in methods.items():
            name = f"{prefix}{PREFIXES[method]}"
            with Run(folder / part / method) as opened:
                if not opened.is_finished:
                    of_part = replace(studies[method], run=opened, prefix=name)
                    if part == "out_of_fold":
                        made = _out_of_fold(studies[method], method, config, folds, decisions[method])
                        n_cases = sum(len(fold.validation) for fold in folds)
                    else:
                        made = _averaged(studies[method], method, config, folds, decisions[method][-1])
                        n_cases = len(study.test)
                    scores.write_summary(of_part, scores.write_scores(of_part, made, n_cases=n_cases))
            found += results.read_summary(folder / part / method / "summary.json")
            frames.append(results.read_cases(folder / part / method, "scores.csv").assign(part=part, method=method))
        if len(methods) > 1:
            found += _compare(study, part, prefix)
    write_csv(folder / "scores.csv", pd.concat(frames))
    write_json(folder / "summary.json", results.as_rows(found))


def _on_grid(study: Study, config: Config) -> Study:
    """The study with its subjects as a method's network takes them."""
    return replace(
        study, store=prepared.prepare(study.subjects, config.recipe, study.options.prepared, n_jobs=study.options.jobs)
    )


def _decide(study: Study, method: str, config: Config, folds: Sequence[Split]) -> list[Decision | None]:
    """Of every fold what is chosen on the other folds' patients, and, last, what is chosen on all of them."""
    if config.targets != "regions":
        return [None] * (len(folds) + 1)
    if len(folds) == 1:
        thresholds = (config.probability_threshold,) * len(REGIONS)
        return [None, Decision(thresholds=thresholds, smallest_et_ml=SMALLEST_ET_ML)]
    kinds = ("", UNENHANCED) if _decides(config) else ("",)
    cases = [
        [[_case(study, config, method, number, id, kind) for id in fold.validation] for kind in kinds]
        for number, fold in enumerate(folds, start=1)
    ]
    decisions = []
    for own in (*cases, None):
        others = [each for each in cases if each is not own]
        decisions.append(choose(*([case for fold in others for case in fold[kind]] for kind, _ in enumerate(kinds))))
    return decisions


def _case(study: Study, config: Config, method: str, number: int, id: str, kind: str) -> Case:
    probability, volume = _kept(study, method, number, id, kind)
    volume = _unenhanced(study.store.entries[id], config) if kind else volume
    return Case.of(probability, volume.labels(), voxel_ml=volume.voxel_ml)


def _kept(study: Study, method: str, number: int, id: str, kind: str = "") -> tuple[np.ndarray, Volume]:
    """Probabilities float32 (channel, x, y, z) that a fold's network gave a patient, and the patient."""
    with np.load(_probabilities(folder_of(study, method, number), id, kind), allow_pickle=False) as file:
        return file["probabilities"] / np.float32(255), study.store.entries[id].open()


def _out_of_fold(
    study: Study, method: str, config: Config, folds: Sequence[Split], decisions: Sequence[Decision | None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each patient's labels by the network that has not seen them, decided as the other folds' patients say."""
    with loading("PyTorch"):
        from segresnet_monai.inference import decode

    for number, fold in enumerate(folds, start=1):
        for id in fold.validation:
            probability, volume = _kept(study, method, number, id)
            probability, region = volume.on_working_grid(probability, volume.box)
            voxel_ml = volume.placement.voxel_ml
            yield id, volume.to_source(decode(probability, config, decisions[number - 1], voxel_ml=voxel_ml), region)


def _averaged(
    study: Study, method: str, config: Config, folds: Sequence[Split], decision: Decision | None
) -> Iterator[tuple[str, np.ndarray]]:
    with loading("PyTorch"):
        from segresnet_monai.inference import load_together, predict

    networks, _ = load_together([folder_of(study, method, number) for number, _ in enumerate(folds, start=1)])
    return predict(networks, study.test, config, decision)


def _compare(study: Study, part: str, prefix: str) -> list[results.Result]:
    """The recipe minus the baseline on the same cases: differences, intervals and p after Holm; comparisons.csv."""
    folder = study.run.folder / part
    frame = paired.compare(folder / BASELINE, folder / OWN, study.options.empty_masks, COMPARED)
    write_csv(folder / "comparisons.csv", frame)
    found = []
    for row in frame.itertuples():
        name = f"{prefix}minus_baseline__{row.metric}"
        found.append(study.result(name, row.difference, row.n, (row.low, row.high)))
        found.append(study.result(f"{name}_p", row.p_holm, row.n))
    return found


def show(study: Study) -> None:
    """Print the table of both parts beside the baseline, what was decided, and what it was measured on."""
    folder = study.run.folder
    found = {each.key.partition(".")[2]: each for each in results.read_summary(folder / "summary.json")}
    said = results.reported()["table2_final"]
    lines = [("result", "reported", "this run", "95 % interval", "n", "baseline", "difference", "95 % interval", "p")]
    for prefix in PARTS.values():
        for metric in SHOWN:
            if own := found.get(f"{prefix}{metric}"):
                base, gain = found.get(f"{prefix}baseline__{metric}"), found.get(f"{prefix}minus_baseline__{metric}")
                p = found.get(f"{prefix}minus_baseline__{metric}_p")
                reported = said[metric].value if metric in said else None
                lines.append(
                    (
                        (prefix or "out_of_fold.") + metric,
                        *(results.short(reported), results.short(own.value), results.interval(own), str(own.n)),
                        results.short(base.value if base else None),
                        *(results.short(gain.value if gain else None), results.interval(gain) if gain else ""),
                        "-" if p is None or p.value is None else p_value(p.value),
                    )
                )
    texts = [results.aligned(lines), *(f"{name}: {results.HEADLINES[name]}" for name in SHOWN[:4])]
    texts.append("reported: the report's best SegResNet (Table 2), another model on other patients")
    if f"{PREFIXES[BASELINE]}mean_dice" in found or f"{PARTS['test']}{PREFIXES[BASELINE]}mean_dice" in found:
        texts.append(
            "baseline: Table 1's recipe, its last weights, on the same folds; p: Wilcoxon's test, after Holm per part"
        )
    several = len(read_json(folder / NETWORKS, list)) > 1
    if several:
        texts.append(
            "out_of_fold: every patient by the one network that has not seen them, thresholds from the other folds"
        )
        if study.split.test:
            texts.append("test: the networks' average")
    if all((folder / name / KEPT).exists() for name in read_json(folder / NETWORKS, list)):
        texts.append("every probability is by a third that of the network that a training started from")
    judges = (
        "decided on out-of-fold predictions" if several else "set beforehand, as one network leaves nobody to choose on"
    )
    texts.append(f"{judges}: {_words(Decision(**read_json(folder / DECISION, dict)))}")
    if several:
        texts.append("smallest ET: chosen on these patients as they are and with their tumours' enhancement removed")
    study.end(*texts)


def _words(decision: Decision) -> str:
    et, tc, wt = decision.thresholds
    return (
        f"ET above {et:g}, TC above {tc:g}, WT above {wt:g}; no ET below {decision.smallest_et_ml:g} ml, "
        f"no part of the tumour below {decision.smallest_part_ml:g} ml"
    )
