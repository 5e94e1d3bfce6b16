"""A trained SegResNet as MONAI's bundle: configuration, weights, and scripts that need nothing of the suite."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

import common
from common.exported import Agreement
from common.files import plain, write_json
from common.flips import averaged_flips
from common.labels import CONVENTIONS
from common.patient import Trained, answer_for
from common.regions import Decision
from common.runs import RunError
from common.subject import Subject
from segresnet_monai import bundle_transforms
from segresnet_monai.config import Config
from segresnet_monai.export import Together, channels, definition, together
from segresnet_monai.export import agrees as compare
from segresnet_monai.inference import predict_volume

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PACKAGES = ("nibabel", "scipy", "pandas", "isal")
LEAST_EQUAL = 0.9999
"""Share of a segmentation's tumour voxels that must be the same in the bundle's and in ours."""


def write(
    networks: Sequence[torch.nn.Module],
    config: Config,
    decision: Decision | None,
    folder: Path,
    about: Mapping[str, Any],
    *,
    intended_use: str,
) -> None:
    """Write configs, models and scripts into an empty folder."""
    write_json(folder / "configs" / "metadata.json", _metadata(config, about, len(networks), intended_use))
    write_json(folder / "configs" / "inference.json", _inference(config, decision, len(networks)))
    (folder / "models").mkdir()
    torch.save(together(networks, config).state_dict(), folder / "models" / "model.pt")
    _write_scripts(folder / "scripts")


def _inference(config: Config, decision: Decision | None, n: int) -> dict[str, Any]:
    compose = {"_target_": "Compose"}
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": "$numpy.uint8",
        "resample": False,
        "separate_folder": False,
        "print_log": False,
    }
    decide = {
        "_target_": "scripts.Decide",
        "decision": plain(decision),
        "threshold": config.label_threshold if config.targets == "classes" else config.probability_threshold,
        "regions": config.targets == "regions",
        "labels": "@labels",
    }
    return {
        "imports": ["$import numpy", "$import torch", "$import scripts"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "labels": "brats2018",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "contrasts": list(config.contrasts),
        "datalist": "$scripts.cases(@dataset_dir, @contrasts)",
        "network_def": {"_target_": "scripts.Together", "networks": [definition(config)] * n},
        "network": "$@network_def.to(@device)",
        "preprocessing": compose | {"transforms": [{"_target_": "scripts.Prepare", "recipe": plain(config.recipe)}]},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "scripts.Windows",
            "size": list(config.crop_voxels),
            "overlap": config.window_overlap,
            "weights": config.window_weights,
            "flips": plain(averaged_flips(config)),
            "softmax": config.softmax,
        },
        "postprocessing": compose | {"transforms": [decide, save]},
        # MONAI knows the bundle's scripts when it runs, not when it initializes.
        "run": [
            "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', @device, weights_only=True))",
            "$@network.eval()",
            "$scripts.run(@dataset, @network, @inferer, @postprocessing)",
        ],
    }


def _metadata(config: Config, about: Mapping[str, Any], n: int, intended_use: str) -> dict[str, Any]:
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(config.contrasts),
        "spatial_shape": list(config.crop_voxels),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(place): contrast for place, contrast in enumerate(config.contrasts)},
    }
    outputs = [f"{number}: {name}" if n > 1 else name for number in range(1, n + 1) for name in about["outputs"]]
    logits = image | {
        "format": "segmentation",
        "num_channels": n * channels(config),
        "channel_def": {str(place): name for place, name in enumerate(outputs)},
    }
    logits.pop("modality")
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported from {about['run']}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": importlib.metadata.version("torch").partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: importlib.metadata.version(name) for name in PACKAGES},
        "name": about["run"],
        "task": "Segmentation of glioma (NCR, ED, ET) on multi-contrast MRI",
        "description": f"{n} {config.network} of MONAI on {', '.join(config.contrasts)}: see docs/README.md",
        "authors": "see docs/README.md",
        "copyright": "see docs/README.md",
        "data_type": "nibabel",
        "image_classes": ", ".join(config.contrasts),
        "label_classes": "1 NCR, 2 ED, 4 ET",
        "pred_classes": "1 NCR, 2 ED, 4 ET",
        "intended_use": intended_use,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": logits}},
        "glioma_suite": plain(about),
    }


def _write_scripts(folder: Path) -> None:
    """The transforms, and what of ``common`` they need, as one package that imports itself only."""
    own = Path(common.__file__).parent
    wanted, done = ["__init__"], set()
    texts = {"__init__": Path(bundle_transforms.__file__).read_text(encoding="utf-8")}
    (folder / "common").mkdir(parents=True)
    while wanted:
        name = wanted.pop()
        text = texts.get(name) or (own / f"{name}.py").read_text(encoding="utf-8")
        done.add(name)
        for line in re.findall(r"^ *from common import ([\w, ]+)$", text, re.MULTILINE):
            wanted += [each.strip() for each in line.split(",")]
        wanted += re.findall(r"^ *from common\.(\w+) import", text, re.MULTILINE)
        wanted = [each for each in wanted if each not in done]
        here = ".common" if name == "__init__" else "."
        text = re.sub(r"^( *)from common import", rf"\1from {here} import", text, flags=re.MULTILINE)
        text = re.sub(r"^( *)from common\.", rf"\1from {here.rstrip('.')}.", text, flags=re.MULTILINE)
        target = folder / "__init__.py" if name == "__init__" else folder / "common" / f"{name}.py"
        target.write_text(text, encoding="utf-8")
    (folder / "common" / "__init__.py").write_text('"""Modules of the suite, as they are."""\n', encoding="utf-8")


RUN = "from monai.bundle import run; run(bundle_root={0!r}, config_file={1!r}, dataset_dir={2!r}, output_dir={3!r})"


def agrees(networks: Sequence[torch.nn.Module], config: Config, decision: Decision | None, folder: Path) -> Agreement:
    """Whether the bundle, run by MONAI without the suite, segments an invented patient as the networks do here, and how
    near its weights' probabilities come to theirs.

    Raises RunError when it does not run, or its segmentation is another.
    """
    own, exported = list(together(networks, config).networks), _network(folder)
    with tempfile.TemporaryDirectory() as temporary:
        subject = _patient(config, Path(temporary) / "scans" / "patient")
        found = segment(folder, Path(temporary) / "scans", Path(temporary)) / "patient_seg.nii.gz"
        labels = CONVENTIONS["brats2018"].to_classes(np.asarray(nib.load(found).dataobj))
        trained = Trained(config.recipe, lambda volume: predict_volume(own, volume, config, decision))
        expected = answer_for(subject, trained).labels
    tumour = (labels != 0) | (expected != 0)
    equal = float((labels == expected)[tumour].mean()) if tumour.any() else 1.0
    if equal < LEAST_EQUAL:
        raise RunError(
            f"{folder.name}: expected the run's own segmentation of a patient, found {equal:.2%} of it equal"
        )
    return compare(networks, config, exported, folder)


def segment(folder: Path, scans: Path, out: Path) -> Path:
    """Let MONAI run a bundle in a process without the suite's modules; returns ``out``.

    Raises RunError when it fails.
    """
    root = str(folder.resolve())
    code = RUN.format(root, f"{root}/configs/inference.json", str(scans.resolve()), str(out.resolve()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if re.match(r"\w+(\.\w+)*(Error|Exception)\b", line)]
        raise RunError(
            f"{folder.name}: expected a bundle that MONAI runs, found: {said[0] if said else done.returncode}"
        )
    return out


def _network(folder: Path) -> torch.nn.Module:
    """The bundle's network, from its own files alone."""
    definitions = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))["network_def"][
        "networks"
    ]
    network = Together([ConfigParser({"one": each}).get_parsed_content("one") for each in definitions])
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    return network.eval()


def _patient(config: Config, folder: Path) -> Subject:
    """Scans that pass for a brain: noise in a ball with brighter balls inside, a little larger than a window."""
    folder.mkdir(parents=True)
    spacing = config.spacing_mm or 1.0
    side = min(176, round(1.25 * max(config.crop_voxels) * spacing))
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    images = {}
    for number, contrast in enumerate(config.contrasts):
        values = rng.normal(500, 30, radius.shape) * (1 + (number + 1) * (radius < 0.3 + 0.1 * number))
        path = folder / f"patient_{contrast.lower()}.nii.gz"
        nib.save(nib.Nifti1Image((values * (radius < 0.9)).astype(np.int16), np.diag([1.0, -1.0, 1.0, 1.0])), path)
        images[contrast] = path
    return Subject("patient", images)
