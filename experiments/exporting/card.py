"""The model card of an exported network: what it is, what it learned from, how good it is, and its limits."""

import itertools
from collections.abc import Sequence

from common.exported import LARGEST_DIFFERENCE, Agreement
from common.files import read_json
from common.labels import CLASSES
from experiments.base import results
from experiments.exporting.source import MGMT, PARTS, SEGRESNET, Source, environment

NAME = "README.md"
INTENDED_USE = "Research on glioma MRI. Not a medical device: no diagnosis, no decision about a patient."
PHANTOMS = "It has seen synthetic phantoms only and is of no use on patients, not even in research."
SHOWN = ("mean_dice", "dice_", "hd95_", "auc", "accuracy")
"""How the names of the scores begin that a card shows."""
TEST = "test."
WITHOUT_TEST = {"table2_final": "validation, which chose its weights", "beyond": "out of fold"}
"""Experiment -> of whom the scores are whose names do not begin with TEST; of other experiments the test part."""
OTHERS = ("baseline__", "minus_baseline__")
"""How the names of scores begin that are another network's, or a difference from it."""
LIMITS = {
    SEGRESNET: (
        "Scans must be as in BraTS: four co-registered contrasts of one visit, skull-stripped, background exactly 0. "
        "Other scans are refused or segmented wrongly.",
        "Trained on adults with glioma before treatment, unless its data say otherwise: resection cavities, "
        "metastases, children and healthy brains were not among them.",
        "Scores hold for patients such as those of the test part. Other hospitals and scanners cost accuracy: "
        "experiments.external and experiments.robustness measure how much.",
    ),
    MGMT: (
        "Whether MRI tells MGMT methylation is an open question; re-analyses of the public data set found no usable "
        "link. A probability near the threshold, or any other, may be chance: see the interval of the AUC.",
        "The DICOM series are read and sliced as the settings say; other slices or contrasts make it meaningless.",
    ),
}
USE = {
    "onnx": "`python -m {package}.predict {run}model.onnx …` predicts with it; any ONNX runtime opens it. The file's "
    "metadata (`glioma_suite`, JSON) hold the settings that are listed below.",
    "torchscript": "`torch.jit.load('model.ts')` opens it; its extra file `about.json` holds the settings that are "
    "listed below. It is the network alone: windows, decision and grid are up to the caller.",
    "monai-bundle": "`python -m monai.bundle run --bundle_root . --config_file configs/inference.json "
    "--dataset_dir SCANS --output_dir OUT` segments every patient below SCANS, a folder each, whose files are named as "
    "in BraTS: `SCANS/P1/P1_flair.nii.gz`, `P1_t1.nii.gz`, `P1_t1ce.nii.gz`, `P1_t2.nii.gz`. It needs MONAI, nibabel, "
    "SciPy, pandas, isal and, for this command line, fire; nothing of the suite.",
}


def text(source: Source, to: str, agreement: Agreement, tensors: Sequence[str] = ()) -> str:
    """The card in Markdown. tensors: what the file takes and gives, a line each."""
    about, lines = source.about, []
    package = {SEGRESNET: "segresnet_monai", MGMT: "mgmt_classifier"}.get(source.kind, "unet_tf")
    lines += [f"# {about['run']}", "", _what(source), ""]
    if about["synthetic"]:
        lines += [f"**{PHANTOMS}**", ""]
    lines += ["## Use", "", USE[to].format(package=package, run="" if source.kind == MGMT else "--run "), ""]
    lines += ["## Intended use", "", intended_use(source), ""]
    lines += ["## Data", "", *_data(source), ""]
    lines += ["## Scores", "", *_scores(source), ""]
    lines += ["## How it predicts", "", *(f"- {line}" for line in tensors), *_settings(source), ""]
    limits = LIMITS[MGMT if source.kind == MGMT else SEGRESNET]
    if about["synthetic"]:  # the others speak of patients
        limits = (f"{PHANTOMS} Its scores are of phantoms too and say nothing about patients.",)
    lines += ["## Limits", "", *(f"- {limit}" for limit in limits), ""]
    lines += [
        "## This file",
        "",
        f"Compared when it was written, on one input: probabilities within {agreement.difference:.1g} of the "
        f"framework's networks ({LARGEST_DIFFERENCE:g} allowed) and {agreement.difference_from_run:.1g} of the run's "
        f"own as it predicts; {agreement.seconds:.2f} s where that took {agreement.seconds_of_run:.2f} s. All in "
        f"float32 on a CPU. Version {about['version']}"
        + "".join(f", {name} {number}" for name, number in environment(source.folder).get("packages", {}).items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def activation(source: Source) -> str:
    """What makes probabilities of the outputs of a file."""
    if source.kind == MGMT:
        return "logits: the sigmoid is the probability of methylation"
    outputs = ", ".join(source.about["outputs"])
    if len(source.about["outputs"]) < len(CLASSES):  # regions, or classes without the background
        return f"logits of {outputs}: the sigmoid of each is its probability"
    if source.kind == SEGRESNET:
        return f"logits of {outputs}: their softmax over the channels is the probabilities"
    return f"probabilities of {outputs}"


def intended_use(source: Source) -> str:
    return f"To try the suite and what reads its files. {PHANTOMS}" if source.about["synthetic"] else INTENDED_USE


def _what(source: Source) -> str:
    if source.kind == MGMT:
        return f"MGMT promoter methylation from MRI slices: {', '.join(source.about['models'])}, one model each."
    n = source.about["networks"]
    network = source.about["model"].get("network", f"unet{source.about['model'].get('spatial_dims')}d")
    many = "" if n == 1 else f"{n} networks, whose probabilities are averaged, each a "
    return f"Segmentation of glioma (NCR, ED, ET) on MRI ({', '.join(source.about['contrasts'])}): {many}{network}."


def _data(source: Source) -> list[str]:
    counts = source.about["subjects"]
    kind = "synthetic phantoms" if source.about["synthetic"] else "patients' scans"
    lines = [f"- {kind}: " + ", ".join(f"{counts[part]} {part}" for part in PARTS)]
    data = read_json(source.folder / "data.json", dict)
    if "fingerprint" in data:
        lines.append(f"- layout {data.get('layout', 'unknown')}, fingerprint of all files {data['fingerprint']}")
    randomised = data.get("randomised", {}).get("subjects", {})
    if randomised:
        lines.append(f"- {len(randomised)} randomised synthetic patients beside them in training, none tested")
    split = read_json(source.folder / "split.json", dict)
    lines.append(f"- split {split.get('name', '')} by patient, hash {split.get('hash', 'unknown')}")
    return lines


def _scores(source: Source) -> list[str]:
    if not source.results:
        return ["None: the run's folder holds no summary."]
    rows: dict[str, list[str]] = {"test": []}
    for result in source.results:
        experiment, _, name = result.key.partition(".")
        part = "test" if name.startswith(TEST) else WITHOUT_TEST.get(experiment, "test")
        name = name.removeprefix(TEST)
        if name.rpartition("__")[2].startswith(SHOWN) and not name.startswith(OTHERS):
            interval = "" if result.low is None else f"{results.short(result.low)} to {results.short(result.high)}"
            cells = (name, results.short(result.value), interval, result.n, part)
            rows.setdefault(part, []).append(f"| {' | '.join(map(str, cells))} |")
    if not any(rows.values()):
        return ["None: the run's summary holds no score of these networks."]
    return [
        "| score | value | 95 % interval | n | patients |",
        "|---|---|---|---|---|",
        *itertools.chain(*rows.values()),
    ]


def _settings(source: Source) -> list[str]:
    about = source.about
    if source.kind == MGMT:
        return [
            f"- {contrast}: {m['model']['images']} images ({m['model']['slices']}) of {m['model']['image_size']} "
            f"pixels, {m['model']['intensity']}; weight {m['weight']:g}, own threshold {m['threshold']:.3f}"
            for contrast, m in about["models"].items()
        ] + [f"- methylated where the weighted mean of the probabilities reaches {about['threshold']:.3f}"]
    model, grid = about["model"], about["grid"]
    spacing = about["recipe"]["spacing_mm"] or grid["spacing_mm"]
    flips = ", ".join("".join("xyz"[axis] for axis in flip) or "none" for flip in about["averaged_flips"])
    lines = [
        f"- contrasts, in this order: {', '.join(about['contrasts'])}",
        f"- grid: axes {grid['axes']}, {spacing} mm, extent {grid['extent'] or 'of the scan'}; shape "
        f"{about['recipe']['shape'] or 'of the scan'}, crop {about['recipe']['crop'] or 'none'}",
        f"- intensities: {about['recipe']['intensity']} of the voxels that are not 0; background stays 0",
        f"- outputs: {', '.join(about['outputs'])} ({model['targets']}), window of {about['window_voxels']} voxels",
        f"- windows overlap by {model['window_overlap']:g}, weighted {model['window_weights']}; averaged over flips: "
        f"{flips}",
    ]
    decision = about.get("decision")
    lines.append(f"- decided by {decision}" if decision else f"- threshold {model['probability_threshold']:g}")
    if source.kind != SEGRESNET:
        names = ("opening_voxels", "closing_voxels", "minimum_component_voxels")
        lines.append("- cleaned: " + ", ".join(f"{name} {model[name]}" for name in names))
    return lines
