"""Prediction: decoding, the way back to the scan's grid, sliding windows, and the command for one's own patient."""

import json
import pickle
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from monai.inferers import sliding_window_inference  # noqa: E402

from common import nifti, volumes  # noqa: E402
from common.cohort import find_subjects  # noqa: E402
from common.files import typed, write_json  # noqa: E402
from common.patient import segment  # noqa: E402
from common.prepared import prepare  # noqa: E402
from common.recipe import Recipe  # noqa: E402
from common.regions import Decision, decode_regions  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.inference import (  # noqa: E402
    build,
    decode_labels,
    load,
    load_run,
    load_runs,
    predict_volume,
    probabilities,
)
from segresnet_monai.model import build_segresnet  # noqa: E402
from segresnet_monai.predict import Arguments  # noqa: E402
from segresnet_monai.train import save_weights  # noqa: E402
from tests.cohorts import make_subject  # noqa: E402

CONFIG = Config(crop_voxels=(24, 24, 24), initial_filters=8, encoder_blocks=(1, 1), decoder_blocks=(1,))


class Pointwise(torch.nn.Module):
    """Looks at one voxel at a time, so that windows and boxes cannot change what it says."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1], [-1, 0, 2, 0]]))

    def forward(self, x):
        return torch.einsum("oc,ncxyz->noxyz", self.weight, x) - 1


def test_decoding_takes_the_most_probable_label_above_the_threshold():
    probability = np.array([[0.9, 0.6, 0.2, 0.5, 0.1], [0.3, 0.7, 0.3, 0.1, 0.1], [0.1, 0.1, 0.4, 0.1, 0.51]])
    np.testing.assert_array_equal(decode_labels(probability, 0.5), [1, 2, 0, 0, 3])
    np.testing.assert_array_equal(decode_labels(probability, 0.35), [1, 2, 3, 1, 3])


def test_decoding_a_softmax_is_the_argmax_of_four_classes():
    rng = np.random.default_rng(0)
    all_four = rng.dirichlet(np.ones(4), (5, 6, 7)).transpose(3, 0, 1, 2)
    labels = decode_labels(all_four[1:], None)
    np.testing.assert_array_equal(labels, all_four.argmax(0))
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_a_softmax_networks_labels_are_the_argmax_of_its_logits(tiny_entries):
    class FourClasses(Pointwise):
        def forward(self, x):
            return torch.cat([x[:, 3:] / 2, super().forward(x)], dim=1)

    volume, network = tiny_entries[0].open(), FourClasses()
    with torch.inference_mode():
        expected = network(torch.from_numpy(volume.image())[None])[0].argmax(0).numpy()
    labels = predict_volume(network, volume, replace(CONFIG, loss="gwdl"))
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(labels[volume.box], expected)


@pytest.mark.parametrize("changes", [{"loss": "gwdl"}, {"vae": True, "recompute_activations": True}])
def test_every_kind_of_network_slides_over_a_volume(tiny_entries, tmp_path, changes):
    config = replace(CONFIG, **changes)
    save_weights(tmp_path / "best.pt", build(config))
    volume = tiny_entries[0].open()
    probability = probabilities(load(config, tmp_path / "best.pt"), volume, config)
    assert probability.shape == (3, *volume.box_shape)
    assert probability.isfinite().all()


def test_the_box_gives_what_the_full_grid_gives(tiny_entries):
    volume, network = tiny_entries[0].open(), Pointwise()
    image = np.zeros((4, *volume.grid_shape), np.float32)
    box = tuple(slice(b, b + n) for b, n in zip(volume.box_start, volume.box_shape, strict=True))
    image[:, *box] = volume.image()
    with torch.inference_mode():
        logits = sliding_window_inference(torch.from_numpy(image)[None], (24, 24, 24), 1, network, overlap=0.5)
    expected = decode_labels(logits[0].sigmoid().numpy(), 0.5)
    labels = predict_volume(network, volume, CONFIG)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(labels[box], expected[box])
    labels[box] = 0
    assert not labels.any()


def test_flips_are_averaged_along_the_axes_of_training(tiny_entries):
    config = replace(CONFIG, average_flips=True, flip_probabilities=(0.5, 0.0, 0.2), crop_voxels=(40, 48, 40))
    network, volume = build(config).eval(), tiny_entries[0].open()
    image = torch.from_numpy(volume.image())[None]
    expected = 0
    with torch.inference_mode():
        for axes in ([], [2], [4], [2, 4]):
            logits = sliding_window_inference(image.flip(axes), config.crop_voxels, 1, network, 0.5)
            expected = expected + logits.flip(axes).sigmoid()[0] / 4
    found = probabilities(network, volume, config)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, probabilities(network, volume, replace(config, average_flips=False)), atol=1e-4)


def test_windows_count_less_towards_their_border(tiny_entries):
    config = replace(CONFIG, window_weights="gaussian")
    network, volume = build(config).eval(), tiny_entries[0].open()
    image = torch.from_numpy(volume.image())[None]
    with torch.inference_mode():
        expected = sliding_window_inference(image, config.crop_voxels, 1, network, 0.5, mode="gaussian").sigmoid()[0]
    assert torch.allclose(probabilities(network, volume, config), expected, atol=1e-6)


@pytest.mark.parametrize("network", ["segresnet_ds", "pocket"])
def test_other_networks_predict_one_output_and_train_on_several(network):
    config = Config(
        network=network,
        crop_voxels=(16, 16, 16),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1),
        initial_filters=8,
        dropout=0,
        supervised_levels=2,
        initial_probability=0.02,
    )
    built = build(config)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 16, 16, 16)).astype(np.float32))
    outputs = built(image)
    assert [output.shape[:2] for output in outputs] == [(2, 3), (2, 3)]
    assert outputs[0].shape[2:] == image.shape[2:]
    assert all(0.005 < output.sigmoid().mean() < 0.08 for output in outputs)
    assert built.eval()(image).shape == (2, 3, 16, 16, 16)
    assert not torch.equal(outputs[0], build(replace(config, seed=1))(image)[0])


def run_of(folder, config):
    write_json(folder / "config.json", {"model": asdict(config), "grid": asdict(config.recipe.grid)})
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_weights(folder / "checkpoints" / f"{config.checkpoint}.pt", build(config))


def test_networks_of_a_folder_predict_as_one(tiny_entries, tmp_path):
    config = replace(CONFIG, targets="regions", initial_probability=0.3)
    for seed in (0, 1):
        run_of(tmp_path / f"folds/{seed}", replace(config, seed=0))
        save_weights(tmp_path / f"folds/{seed}/checkpoints/best.pt", build(replace(config, seed=seed)))
    write_json(tmp_path / "networks.json", ["folds/0", "folds/1"])
    decision = Decision(thresholds=(0.32, 0.31, 0.29), smallest_part_ml=0.1)
    write_json(tmp_path / "decision.json", asdict(decision))
    networks, read, decided = load_runs(tmp_path)
    assert (read, decided) == (config, decision)
    volume = tiny_entries[0].open()
    mean = sum(probabilities(build(replace(config, seed=s)).eval(), volume, config).numpy() for s in (0, 1)) / 2
    expected = decode_regions(mean, decision, voxel_ml=0.001)
    inside = predict_volume(networks, volume, config, decided)[volume.box]
    np.testing.assert_array_equal(inside, expected)
    assert set(np.unique(inside)) > {0}

    run_of(tmp_path / "folds/1", replace(config, window_overlap=0.25))
    with pytest.raises(ValueError, match="one configuration"):
        load_runs(tmp_path)
    (tmp_path / "decision.json").write_text('{"thresholds": [0.5, 0.5]}')
    write_json(tmp_path / "networks.json", ["folds/0"])
    with pytest.raises(ValueError, match=r"decision\.json"):
        load_runs(tmp_path)


def test_windows_larger_than_the_brain_reach_into_background(tiny_entries):
    volume = tiny_entries[0].open()
    probability = probabilities(Pointwise(), volume, replace(CONFIG, crop_voxels=(64, 64, 64)))
    expected = probabilities(Pointwise(), volume, CONFIG)
    assert probability.shape == (3, *volume.box_shape)
    torch.testing.assert_close(probability, expected)


def test_coarse_probabilities_come_back_on_the_scans_grid(tiny_cohort, tmp_path):
    subject = find_subjects(tiny_cohort).subjects[0]
    config = replace(CONFIG, spacing_mm=2.0)
    volume = prepare([subject], config.recipe, tmp_path).entries[subject.id].open()
    assert volume.grid_shape == (20, 24, 18)
    labels = predict_volume(Pointwise(), volume, config)
    grid = np.zeros((3, *volume.grid_shape), np.float32)
    box = tuple(slice(b, b + n) for b, n in zip(volume.box_start, volume.box_shape, strict=True))
    grid[:, *box] = probabilities(Pointwise(), volume, config)
    assert labels.shape == (40, 48, 36)
    np.testing.assert_array_equal(labels, decode_labels(volumes.resize(grid, (40, 48, 36)), 0.5))
    # Probabilities must be interpolated, not labels: a label map has no voxel between two of the coarse grid's.
    coarse = decode_labels(grid, 0.5).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert (labels != coarse).any()


@pytest.mark.parametrize("content", ["truncated", "pickle", "other network"])
def test_weights_that_cannot_be_trusted_are_refused_and_nothing_runs(tmp_path, content):
    path, marker = tmp_path / "best.pt", tmp_path / "executed"
    save_weights(path, build(CONFIG))
    assert load(CONFIG, path)

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("ran",))

    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif content == "pickle":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        torch.save(build_segresnet(initial_filters=16).state_dict(), path)
    with pytest.raises(ValueError, match=r"best\.pt: expected intact weights"):
        load(CONFIG, path)
    assert not marker.exists()


def segment_with_run(arguments):
    """What the command does between its arguments and its report."""
    network, config = load_run(arguments.run)
    return segment(arguments, config.recipe, lambda volume: predict_volume(network, volume, config))


@pytest.fixture
def patient(tmp_path):
    """A finished run's folder and four scans of a patient, with the arguments that name them."""
    run = tmp_path / "run"
    torch.manual_seed(0)
    network = build(CONFIG)
    # The initial network says "none" almost everywhere; larger last weights make it say something.
    with torch.no_grad():
        list(network.parameters())[-2].mul_(30)
    save_weights(run / "checkpoints" / "best.pt", network)
    write_json(run / "config.json", {"model": asdict(CONFIG)})
    images, _ = make_subject(7)
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = (3, 239, -5)
    for name, data in images.items():
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    files = {name: tmp_path / f"{name}.nii.gz" for name in images}
    return Arguments(run=run, output=tmp_path / "out" / "seg.nii.gz", **files), images, affine


def test_own_patient_gets_a_segmentation_on_the_scans_grid_and_its_volumes(patient):
    arguments, images, affine = patient
    volumes_ml = segment_with_run(arguments)
    written = nib.load(arguments.output)
    data = np.asarray(written.dataobj)
    np.testing.assert_array_equal(written.affine, affine)
    assert data.shape == images["flair"].shape
    assert set(np.unique(data)) <= {0, 1, 2, 4}
    assert len(np.unique(data)) > 2
    for name, values in {"NCR": (1,), "ED": (2,), "ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}.items():
        assert volumes_ml[name] == pytest.approx(np.isin(data, values).sum() / 1000)


def test_scans_with_other_axes_get_the_same_answer_in_their_own_axes(patient):
    arguments, _, _ = patient
    segment_with_run(arguments)
    expected = nib.as_closest_canonical(nib.load(arguments.output))
    for name in ("flair", "t1", "t1ce", "t2"):
        file = getattr(arguments, name)
        image = nib.load(file)
        turned = image.as_reoriented(nib.orientations.axcodes2ornt(("A", "R", "I")).astype(int))
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), file)
    assert nib.aff2axcodes(nib.load(file).affine) != ("L", "P", "S")
    segment_with_run(arguments)
    written = nib.load(arguments.output)
    np.testing.assert_array_equal(written.affine, nib.load(file).affine)
    np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(written).dataobj), np.asarray(expected.dataobj))


def test_scans_that_the_network_cannot_take_are_refused(patient, tmp_path):
    arguments, images, affine = patient
    nib.save(nib.Nifti1Image(images["t1"], affine @ np.diag([2.0, 1, 1, 1])), arguments.t1)
    with pytest.raises(ValueError, match=r"affine places voxels up to .* mm from.*t1\.nii\.gz"):
        segment_with_run(arguments)
    for name, data in images.items():
        nib.save(nib.Nifti1Image(data, affine @ np.diag([1e3, 1e3, 1e3, 1])), getattr(arguments, name))
    with pytest.raises(ValueError, match=r"expected voxels of 0\.1 to 20 mm, found 1000 x 1000 x 1000 mm"):
        segment_with_run(arguments)
    arguments.flair.write_bytes(arguments.flair.read_bytes()[:-20])
    with pytest.raises(nifti.ScanError, match=r"flair\.nii\.gz"):
        segment_with_run(arguments)
    assert not arguments.output.exists()


def test_a_run_without_weights_is_named(patient):
    arguments, _, _ = patient
    (arguments.run / "checkpoints" / "best.pt").unlink()
    with pytest.raises(ValueError, match="has the run finished"):
        segment_with_run(arguments)
    (arguments.run / "config.json").unlink()
    with pytest.raises(ValueError, match="expected the folder of a run"):
        segment_with_run(arguments)


def test_configuration_survives_the_runs_folder(tmp_path):
    write_json(tmp_path / "config.json", {"model": asdict(Config(spacing_mm=3.0))})
    settings = json.loads((tmp_path / "config.json").read_text())["model"]
    assert typed(Config, settings) == Config(spacing_mm=3.0)


def test_real_subject_by_box_and_by_full_grid_agree(real_data, tmp_path):
    """Windows at other places than on the full grid, so a little difference is right; Dice against it stays high."""
    subject = find_subjects(real_data / "brats").subjects[0]
    config = replace(CONFIG, spacing_mm=3.0, crop_voxels=(48, 64, 48))
    volume = prepare([subject], config.recipe, tmp_path).entries[subject.id].open()
    assert volume.grid_shape == (80, 80, 52)
    np.testing.assert_array_equal(
        predict_volume(Pointwise(), volume, config),
        predict_volume(Pointwise(), volume, replace(config, crop_voxels=(80, 80, 56))),
    )
    assert Recipe(spacing_mm=3.0) == config.recipe
