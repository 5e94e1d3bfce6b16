"""Prediction: the way back to the scan's grid, weights that cannot be trusted, the command for one's own patient."""

import json
import sys
from dataclasses import asdict, replace

import h5py
import nibabel as nib
import numpy as np
import pytest

keras = pytest.importorskip("keras")

from common import volumes  # noqa: E402
from common.files import write_json  # noqa: E402
from tests.cohorts import LPS_AFFINE, make_subject  # noqa: E402
from unet_tf.config import Config  # noqa: E402
from unet_tf.data import network_input  # noqa: E402
from unet_tf.inference import (  # noqa: E402
    build,
    ceiling,
    load,
    load_run,
    on_scan,
    predict,
    predict_volume,
    probabilities,
)
from unet_tf.postprocess import clean  # noqa: E402
from unet_tf.predict import main  # noqa: E402

WEIGHTS = "best.weights.h5"


class Pointwise:
    """Looks at one voxel at a time: softmax of sums of the channels, with every class somewhere."""

    def predict_on_batch(self, image):
        weights = np.random.default_rng(0).normal(0, 6, (image.shape[-1], 4))
        scores = np.exp(image @ (weights - weights.mean(0)))
        return (scores / scores.sum(-1, keepdims=True)).astype(np.float32)


def distribution(shape, seed=0):
    """Random probabilities (class, x, y, z)."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), shape)
    return np.moveaxis(drawn, -1, 0).astype(np.float32)


def box(config):
    return tuple(slice(*ends) for ends in config.crop)


def test_probabilities_lie_as_the_grid_does_in_3d(config_3d, entries_of):
    volume = entries_of(config_3d)[0].open()
    found, image = probabilities(Pointwise(), volume, config_3d), network_input(volume, config_3d)
    assert found.shape == (4, 32, 32, 32)
    for x, y, z in ((16, 16, 16), (3, 20, 9), (30, 12, 17)):
        expected = Pointwise().predict_on_batch(image[0, x, y, z][None])[0]
        np.testing.assert_allclose(found[:, x, y, z], expected, atol=1e-6)


def test_probabilities_lie_as_the_grid_does_in_25d(config_25d, entries_of):
    volume = entries_of(config_25d)[0].open()
    found, image = probabilities(Pointwise(), volume, config_25d), network_input(volume, config_25d)
    assert found.shape == (4, 20, 24, 8)
    for x, y, z in ((10, 12, 4), (3, 20, 0), (15, 9, 7)):
        expected = Pointwise().predict_on_batch(image[z, x, y][None])[0]
        np.testing.assert_allclose(found[:, x, y, z], expected, atol=1e-6)


def test_without_resizing_the_decoded_grid_is_placed_at_the_crop(config_3d, entries_of):
    volume, grid = entries_of(config_3d)[0].open(), distribution((32, 32, 32))
    expected = np.zeros((40, 48, 36), np.uint8)
    expected[4:36, 8:40, 2:34] = grid.argmax(0)
    np.testing.assert_array_equal(on_scan(grid, volume, config_3d), expected)


def test_probabilities_are_interpolated_before_they_are_decoded(config_25d, entries_of):
    torch = pytest.importorskip("torch")
    volume, grid = entries_of(config_25d)[0].open(), distribution((20, 24, 8))
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None], size=(40, 48, 8), mode="trilinear", align_corners=False
    )[0].numpy()
    found = on_scan(grid, volume, config_25d, 0.5)
    expected = np.where(fine[1:].sum(0) > 0.5, fine[1:].argmax(0) + 1, 0)
    ranked = np.sort(fine[1:], axis=0)
    clear = (np.abs(fine[1:].sum(0) - 0.5) > 1e-5) & (ranked[-1] - ranked[-2] > 1e-5)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[:, :, 12:20][clear], expected[clear])
    assert not found[:, :, :12].any()
    assert not found[:, :, 20:].any()
    assert (found[:, :, 12:20] != grid.argmax(0).repeat(2, 0).repeat(2, 1)).any()


def test_the_threshold_turns_unsure_voxels_into_background(config_3d, entries_of):
    volume, grid = entries_of(config_3d)[0].open(), distribution((32, 32, 32))
    sure = on_scan(grid, volume, config_3d, 0.6)[box(config_3d)]
    np.testing.assert_array_equal(sure, np.where(grid[1:].sum(0) > 0.6, grid[1:].argmax(0) + 1, 0))
    assert (sure != grid.argmax(0)).any()


@pytest.mark.parametrize(("which", "opening"), [("config_3d", 1), ("config_25d", 0)])
def test_a_volume_is_predicted_with_and_without_postprocessing(which, opening, request, entries_of):
    config = replace(request.getfixturevalue(which), opening_voxels=opening, minimum_component_voxels=5)
    volume = entries_of(config)[2].open()
    grid = probabilities(Pointwise(), volume, config)
    fine = volumes.resize(grid, tuple(stop - first for first, stop in config.crop))
    before, thresholded = np.zeros((2, 40, 48, 36), np.uint8)
    before[box(config)] = fine.argmax(0)
    thresholded[box(config)] = np.where(fine[1:].sum(0) > 0.5, fine[1:].argmax(0) + 1, 0)
    expected = clean(thresholded, opening_voxels=opening, closing_voxels=1, minimum_component_voxels=5)
    found_after, found_before = predict_volume(Pointwise(), volume, config), on_scan(grid, volume, config)
    np.testing.assert_array_equal(found_before, before)
    np.testing.assert_array_equal(found_after, expected)
    assert (found_after != found_before).any()
    assert found_after.any()


def test_every_case_comes_with_its_views(config_3d, entries_of):
    cases = list(predict(Pointwise(), entries_of(config_3d)[:2], config_3d))
    assert [case for case, _, _ in cases] == ["BraTS_000", "BraTS_001"]
    for (_, labels, make_views), entry in zip(cases, entries_of(config_3d), strict=False):
        volume, views = entry.open(), make_views()
        before = on_scan(probabilities(Pointwise(), volume, config_3d), volume, config_3d)
        np.testing.assert_array_equal(labels, predict_volume(Pointwise(), volume, config_3d))
        assert set(views) == {"before_postprocessing", "geometric_ceiling"}
        np.testing.assert_array_equal(views["before_postprocessing"], before)
        np.testing.assert_array_equal(views["geometric_ceiling"], ceiling(entry.open(), config_3d))


def truth_of(entry):
    _, labels = make_subject(int(entry.id[-3:]))
    return np.where(labels == 4, 3, labels)


def test_the_ceiling_of_a_crop_around_the_tumour_is_the_truth(config_3d, entries_of):
    for entry in entries_of(config_3d):
        np.testing.assert_array_equal(ceiling(entry.open(), config_3d), truth_of(entry))


def test_the_ceiling_of_a_crop_through_the_tumour_lacks_what_lies_outside(config_25d, entries_of):
    config = replace(config_25d, shape=(40, 48, 8))
    entry = entries_of(config)[0]
    expected = np.zeros((40, 48, 36), np.uint8)
    expected[:, :, 12:20] = truth_of(entry)[:, :, 12:20]
    np.testing.assert_array_equal(ceiling(entry.open(), config), expected)
    assert (expected != truth_of(entry)).any()


def test_the_ceiling_of_a_coarser_grid_is_near_the_truth_but_not_it(config_25d, entries_of):
    entry = entries_of(config_25d)[0]
    found, truth = ceiling(entry.open(), config_25d)[:, :, 12:20] > 0, truth_of(entry)[:, :, 12:20] > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert 0.9 < dice < 1


@pytest.fixture(scope="module")
def trained(config_3d, tmp_path_factory):
    """Weights' file of a network whose seed the configuration does not name, an image, and what they predict."""
    network = build(replace(config_3d, seed=5))
    path = tmp_path_factory.mktemp("trained") / WEIGHTS
    network.save_weights(path)
    image = np.random.default_rng(0).random((1, 8, 8, 8, 4)).astype(np.float32)
    return path.read_bytes(), image, network.predict_on_batch(image)


@pytest.fixture
def saved(trained, tmp_path):
    """A copy of the weights' file, with the image and its prediction."""
    content, image, expected = trained
    (tmp_path / WEIGHTS).write_bytes(content)
    return tmp_path / WEIGHTS, image, expected


def test_loaded_weights_predict_as_the_saved_ones(config_3d, saved):
    path, image, expected = saved
    np.testing.assert_array_equal(load(config_3d, path).predict_on_batch(image), expected)
    assert np.abs(build(config_3d).predict_on_batch(image) - expected).max() > 0.01


def test_weights_saved_beside_an_optimiser_load_too(config_3d, saved):
    path, image, expected = saved
    network = load(config_3d, path)
    network.compile("adam", "mse", jit_compile=False)
    network.optimizer.build(network.trainable_variables)
    network.save_weights(path)
    np.testing.assert_array_equal(load(config_3d, path).predict_on_batch(image), expected)


KERNEL = "layers/conv3d_1/vars/0"


def external_link(file, folder):
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["kernel"] = file[KERNEL][()]
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "/kernel")


def soft_link(file, folder):
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/layers/conv3d_3/vars/0")


def linked_group(file, folder):
    file["layers/more"] = h5py.SoftLink("/layers")


def strings(file, folder):
    del file[KERNEL]
    file[KERNEL] = np.array([b"cos\nsystem\n"] * 4, dtype=h5py.string_dtype())


def opaque(file, folder):
    del file[KERNEL]
    file[KERNEL] = np.void(b"cos\nsystem\n")


def external_storage(file, folder):
    values = file[KERNEL][()]
    (folder / "elsewhere.bin").write_bytes(values.tobytes())
    del file[KERNEL]
    file.create_dataset(
        KERNEL, values.shape, values.dtype, external=[(folder / "elsewhere.bin", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file, folder):
    values = file[KERNEL][()]
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["kernel"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(folder / "elsewhere.h5", "kernel", values.shape)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def bomb(file, folder):
    del file[KERNEL]
    file.create_dataset(KERNEL, (2**40,), "f4", chunks=(2**16,), compression="gzip")


def empty(file, folder):
    del file["layers"]


def missing(file, folder):
    del file["layers/conv3d_2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (external_link, r"conv3d_1/vars/0 is a link"),
        (soft_link, r"conv3d_1/vars/0 is a link"),
        (linked_group, r"layers/more is a link"),
        (strings, r"conv3d_1/vars/0 holds object, not numbers"),
        (opaque, r"conv3d_1/vars/0 holds \|V11, not numbers"),
        (external_storage, r"conv3d_1/vars/0 lies in another file"),
        (virtual, r"conv3d_1/vars/0 lies in another file"),
        (bomb, r"conv3d_1/vars/0 claims 1099511627776 numbers"),
        (empty, r"found"),
        (missing, r"found"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hdf5_files_that_hold_more_or_less_than_the_weights_are_refused(config_3d, saved, tmp_path, change, said):
    path, _, _ = saved
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    with pytest.raises(ValueError, match=rf"best\.weights\.h5: expected intact weights[\s\S]*{said}"):
        load(config_3d, path)


def test_a_file_that_holds_itself_is_read_once(config_3d, saved):
    path, image, expected = saved
    with h5py.File(path, "r+") as file:
        file["layers/more"] = file["layers"]
    np.testing.assert_array_equal(load(config_3d, path).predict_on_batch(image), expected)


@pytest.mark.parametrize("content", ["half", "nothing", "noise", "no file"])
def test_files_that_are_no_hdf5_are_refused(config_3d, saved, content):
    path, _, _ = saved
    whole = path.read_bytes()
    path.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "nothing": b"",
            "noise": np.random.default_rng(0).bytes(4096),
            "no file": b"",
        }[content]
    )
    if content == "no file":
        path.unlink()
    with pytest.raises(ValueError, match=r"best\.weights\.h5: expected intact weights"):
        load(config_3d, path)


@pytest.mark.parametrize("change", [{"filters": 4}, {"levels": 1}, {"levels": 3}, {"contrasts": ("T1",)}])
def test_weights_of_another_network_are_refused(config_3d, saved, change):
    path, _, _ = saved
    config = replace(config_3d, **change)
    with pytest.raises(ValueError, match=r"best\.weights\.h5: expected intact weights of this configuration's U-Net"):
        load(config, path)


def test_a_whole_model_is_refused_under_either_name_and_its_code_never_runs(config_3d, tmp_path):
    marker = tmp_path / "executed"

    place = str(marker)
    evil = keras.layers.Lambda(lambda x: (open(place, "w").close(), x)[1], output_shape=(4,))
    model = keras.Sequential([keras.Input((4,)), evil, keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    marker.unlink(missing_ok=True)
    keras.models.load_model(tmp_path / "model.keras", safe_mode=False)(np.zeros((1, 4), np.float32))
    assert marker.exists()  # the archive does what it was made for
    marker.unlink()
    (tmp_path / WEIGHTS).write_bytes((tmp_path / "model.keras").read_bytes())
    with pytest.raises(ValueError, match=r"a \.keras file may carry code"):
        load(config_3d, tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"best\.weights\.h5: expected intact weights"):
        load(config_3d, tmp_path / WEIGHTS)
    assert not marker.exists()


def write_run(folder, config):
    """A finished run's folder, with weights that find something."""
    network = build(config)
    *rest, kernel, bias = network.get_weights()
    network.set_weights([*rest, 20 * kernel, bias])
    image = np.random.default_rng(0).uniform(0.2, 0.8, (1, *[16] * config.spatial_dims, config.channels))
    scores = np.log(np.maximum(network.predict_on_batch(image.astype(np.float32)), 1e-30)).reshape(-1, 4)
    network.set_weights([*rest, 20 * kernel, -scores.mean(0)])
    (folder / "checkpoints").mkdir(parents=True)
    network.save_weights(folder / "checkpoints" / f"{config.checkpoint}.weights.h5")
    write_json(folder / "config.json", {"model": asdict(config)})
    return folder


@pytest.mark.parametrize("which", ["config_3d", "config_25d"])
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_configuration_and_weights_survive_the_runs_folder(which, checkpoint, request, tmp_path):
    config = replace(request.getfixturevalue(which), checkpoint=checkpoint)
    network, found = load_run(write_run(tmp_path / "run", config))
    assert found == config
    assert isinstance(found.crop[0], tuple)
    assert hash(found) == hash(config)
    assert not np.array_equal(network.get_weights()[-2], build(config).get_weights()[-2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON, found: Expecting"),
        ("[" * 100_000, "JSON, found: "),
        ("[1]", "a dict in JSON, found a list"),
        ("{}", "settings of unet_tf.config, found: no settings"),
        ('{"model": [1]}', "settings of unet_tf.config, found: no settings"),
        ('{"model": {"filters": "8"}}', "filters to be int, found '8'"),
        ('{"model": {"filters": true}}', "filters to be int, found True"),
        ('{"model": {"learning_rate": 1e999}}', "learning_rate to be float, found inf"),
        ('{"model": {"shape": [16, 16]}}', "shape to be tuple"),
        ('{"model": {"crop": [[0, 16], [0, 16], [[0], 16]]}}', "crop to be tuple"),
        ('{"model": {"loss": ["dice_focal"]}}', "loss to be .*'dice_focal'"),
        ('{"model": {"initial_filters": 16}}', "initial_filters"),
        ('{"model": {"filters": 0}}', "expected filters to be a positive number, received 0"),
    ],
)
def test_a_configuration_of_something_else_is_named(config_3d, tmp_path, content, said):
    (write_run(tmp_path / "run", config_3d) / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json: expected .*{said}"):
        load_run(tmp_path / "run")


def test_a_run_without_weights_is_named(config_3d, tmp_path):
    run = write_run(tmp_path / "run", config_3d)
    (run / "checkpoints" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="has the run finished"):
        load_run(run)
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match="expected the folder of a run"):
        load_run(run)


@pytest.fixture
def patient(tmp_path):
    """Four scans of a patient by the name of their option, and a function that runs the command on some of them."""
    images, _ = make_subject(7)
    affine = LPS_AFFINE.copy()
    affine[:3, 3] = (3, 239, -5)
    files = {name: tmp_path / f"{name}.nii.gz" for name in images}
    for name, data in images.items():
        nib.save(nib.Nifti1Image(data, affine), files[name])

    def command(monkeypatch, run, names):
        output = tmp_path / "out" / "seg.nii.gz"
        given = [part for name in names for part in (f"--{name}", str(files[name]))]
        monkeypatch.setattr(sys, "argv", ["predict", "--run", str(run), *given, "--output", str(output)])
        main()
        return nib.load(output)

    return images, files, affine, command


PLAIN = {"opening_voxels": 0, "closing_voxels": 0, "minimum_component_voxels": 0}
ALL = ("flair", "t1", "t1ce", "t2")


def test_own_patient_gets_a_segmentation_on_the_scans_grid_and_its_volumes(
    config_3d, patient, tmp_path, monkeypatch, capsys
):
    images, _, affine, command = patient
    config = replace(config_3d, **PLAIN)
    run = write_run(tmp_path / "run", config)
    written = command(monkeypatch, run, ALL)
    np.testing.assert_array_equal(written.affine, affine)
    crop = box(config)
    scans = np.stack([images[name][crop] / images[name].max() for name in ALL], axis=-1).astype(np.float32)
    p = load_run(run)[0].predict_on_batch(scans[None])[0]
    expected = np.zeros((40, 48, 36))
    expected[crop] = np.array([0, 1, 2, 4])[np.where(p[..., 1:].sum(-1) > 0.5, p[..., 1:].argmax(-1) + 1, 0)]
    data = np.asarray(written.dataobj)
    assert len(np.unique(data)) > 2
    assert (data != expected).mean() < 1e-3  # 16-bit storage may turn a voxel between two classes
    said = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.endswith(" ml"))
    for name, values in {"NCR": (1,), "ED": (2,), "ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}.items():
        assert float(said[name]) == pytest.approx(np.isin(data, values).sum() / 1000, abs=0.006)


def test_scans_with_other_axes_get_the_same_answer_in_their_own_axes(config_3d, patient, tmp_path, monkeypatch):
    _, files, _, command = patient
    run = write_run(tmp_path / "run", replace(config_3d, **PLAIN))
    expected = np.asarray(nib.as_closest_canonical(command(monkeypatch, run, ALL)).dataobj).copy()
    for file in files.values():
        image = nib.load(file)
        turned = image.as_reoriented(nib.orientations.axcodes2ornt(("A", "R", "I")).astype(int))
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), file)
    assert nib.aff2axcodes(turned.affine) != ("L", "P", "S")
    written = command(monkeypatch, run, ALL)
    np.testing.assert_array_equal(written.affine, turned.affine)
    np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(written).dataobj), expected)
    assert expected.any()


def test_a_network_of_two_contrasts_needs_only_their_scans(config_25d, patient, tmp_path, monkeypatch):
    _, _, _, command = patient
    run = write_run(tmp_path / "run", replace(config_25d, **PLAIN))
    data = np.asarray(command(monkeypatch, run, ("flair", "t1ce")).dataobj)
    assert data.shape == (40, 48, 36)
    assert data[:, :, 12:20].any()
    assert not data[:, :, :12].any()
    assert not data[:, :, 20:].any()


def test_a_missing_contrast_is_named(config_25d, patient, tmp_path, monkeypatch):
    _, _, _, command = patient
    with pytest.raises(SystemExit, match=r"error: expected --flair, --t1ce for this network, received no T1ce"):
        command(monkeypatch, write_run(tmp_path / "run", config_25d), ("flair", "t2"))
    assert not (tmp_path / "out").exists()


def test_a_brain_larger_than_the_grid_is_refused(config_3d, patient, tmp_path, monkeypatch):
    _, _, _, command = patient
    run = write_run(tmp_path / "run", replace(config_3d, crop=((0, 32),) * 3, extent=(32, 40, 36)))
    with pytest.raises(
        SystemExit, match=r"error: .*brain measures 33 x 41 x 31 voxels, which do not fit into the grid of 32 x 40 x 36"
    ):
        command(monkeypatch, run, ALL)


def test_a_folder_that_is_no_run_ends_the_command_with_one_sentence(patient, tmp_path, monkeypatch):
    _, _, _, command = patient
    with pytest.raises(SystemExit, match=r"^error: .*expected the folder of a run, found no config\.json in it$"):
        command(monkeypatch, tmp_path, ALL)


def test_settings_written_as_json_lists_are_tuples_again(tmp_path):
    config = Config(shape=(16, 16, 16), filters=1, crop=((0, 16), (0, 16), (0, 16)))
    write_run(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["crop"] == [[0, 16]] * 3
    assert load_run(tmp_path / "run")[1].crop == ((0, 16), (0, 16), (0, 16))
