"""An exported U-Net says what Keras says, in 2.5D and in 3D, of classes and of regions, and predict takes it."""

import sys
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")

from common.cohort import find_subjects  # noqa: E402
from common.files import write_json  # noqa: E402
from experiments.exporting import files  # noqa: E402
from tests.cohorts import write_cohort  # noqa: E402
from unet_tf import predict  # noqa: E402
from unet_tf.config import Config  # noqa: E402
from unet_tf.export import example, load_onnx, to_onnx  # noqa: E402
from unet_tf.inference import build  # noqa: E402

SMALL = Config(
    filters=2, levels=1, extent=(48, 48, 48), crop=((0, 48), (0, 48), (0, 40)), shape=(24, 24, 16), opening_voxels=0
)
CONFIGS = {
    "3D": SMALL,
    "2.5D": replace(SMALL, spatial_dims=2, context=1, shape=(24, 24, 5)),
    "normalised": replace(SMALL, normalisation="instance"),
    "2.5D, normalised": replace(SMALL, spatial_dims=2, context=1, shape=(24, 24, 5), normalisation="instance"),
    "regions": replace(
        SMALL, targets="regions", loss="batch_dice_bce", crop_voxels=(16, 16, 8), patience=None, window_overlap=0.25
    ),
}


def drawn(config):
    """A network with biases too, which are 0 at first."""
    network, rng = build(config), np.random.default_rng(3)
    network.set_weights([w + rng.normal(0, 0.1, w.shape).astype(np.float32) for w in network.get_weights()])
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_the_graph_says_what_keras_says(name, tmp_path):
    config = CONFIGS[name]
    network = drawn(config)
    to_onnx(network, config, tmp_path / "m.onnx", {"kind": "unet", "model": asdict(config)})
    exported, read = load_onnx(tmp_path / "m.onnx")
    assert read == config
    seen = example(config, seed=2)
    expected = np.asarray(network.predict_on_batch(seen))
    assert expected.std() > 0.01
    np.testing.assert_allclose(exported.predict_on_batch(seen), expected, atol=1e-5)


def test_predict_takes_the_file(tmp_path, monkeypatch):
    config, run = replace(CONFIGS["2.5D"], minimum_component_voxels=0, probability_threshold=0.7), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    drawn(config).save_weights(run / "checkpoints" / "best.weights.h5")
    settings = {"experiment": "unet25d", "options": {"empty_masks": "brats"}, "model": asdict(config)}
    write_json(run / "config.json", settings | {"grid": asdict(config.recipe.grid)})
    write_json(run / "data.json", {"folder": "x", "subjects": {}})
    write_json(run / "split.json", {"train": [], "validation": [], "test": []})
    write_json(run / "summary.json", [])
    files.write(run, "onnx", tmp_path / "out")
    (subject,) = find_subjects(write_cohort(tmp_path / "cohort", 1)).subjects
    scans = [word for contrast, file in subject.images.items() for word in (f"--{contrast.lower()}", str(file))]
    for each, name in ((run, "run.nii.gz"), (tmp_path / "out" / "model.onnx", "file.nii.gz")):
        monkeypatch.setattr(sys, "argv", ["predict", "--run", str(each), *scans, "--output", str(tmp_path / name)])
        predict.main()
    before, after = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("run.nii.gz", "file.nii.gz"))
    assert np.count_nonzero(before) > 100
    assert (before == after).mean() > 0.9999
