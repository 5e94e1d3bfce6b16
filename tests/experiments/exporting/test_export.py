"""Exports: the same answer outside the suite, bad input refused, nothing half-written, trackers that change nothing."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from common.cohort import find_subjects  # noqa: E402
from common.exported import Agreement, Exported  # noqa: E402
from common.files import write_csv, write_json  # noqa: E402
from common.networks import read_model_config  # noqa: E402
from common.recipe import Recipe  # noqa: E402
from common.regions import Decision  # noqa: E402
from common.runs import Run, RunError, RunInUseError  # noqa: E402
from experiments.base.options import Refused  # noqa: E402
from experiments.base.results import Result  # noqa: E402
from experiments.export import Arguments, export  # noqa: E402
from experiments.exporting import card, files, source, trackers  # noqa: E402
from experiments.exporting import cohort as nnunet  # noqa: E402
from segresnet_monai import bundle  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.export import load_onnx  # noqa: E402
from segresnet_monai.inference import build, load_runs, predict_volume  # noqa: E402
from segresnet_monai.predict import main  # noqa: E402
from segresnet_monai.train import save_weights  # noqa: E402

TINY = Config(
    crop_voxels=(16, 16, 16), initial_filters=8, encoder_blocks=(1, 1), decoder_blocks=(1,), average_flips=True
)
REGIONS = replace(
    TINY,
    network="segresnet_ds",
    dropout=0.0,
    targets="regions",
    window_weights="gaussian",
    flip_probabilities=(0.5, 0.0, 0.0),
)
DECISION = Decision(thresholds=(0.52, 0.5, 0.47), smallest_et_ml=0.01, smallest_part_ml=0.05)


def write_run(folder, config, *, subjects=(), summary=True):
    """A finished run's folder with weights of the configuration's seed, and last biases that label about a half."""
    network = build(config)
    save_weights(folder / "checkpoints" / f"{config.checkpoint}.pt", network)
    settings = {"experiment": "table1_baseline", "options": {"empty_masks": "brats", "data": "x"}}
    write_json(folder / "config.json", settings | {"model": asdict(config), "grid": asdict(config.recipe.grid)})
    fingerprints = {subject.id: subject.fingerprint() for subject in subjects}
    names = sorted(fingerprints)
    write_json(folder / "data.json", {"folder": "gone", "subjects": fingerprints, "synthetic": False, "layout": "L"})
    write_json(folder / "split.json", {"name": "s", "train": names[:2], "validation": names[2:3], "test": names[3:]})
    if summary:
        row = {"key": "table1_baseline.dice_WT", "reported": None, "value": 0.8125, "low": 0.75, "high": 0.875, "n": 4}
        write_json(folder / "summary.json", [row | {"synthetic": False}])
    return folder


@pytest.fixture(scope="module")
def subjects(cohort):
    return find_subjects(cohort).subjects


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """Two networks of nested regions that predict as one."""
    folder = write_run(tmp_path_factory.mktemp("ensemble") / "run", REGIONS)
    for seed in (1, 2):
        write_run(folder / "folds" / f"beyond{seed}", replace(REGIONS, seed=5))
        save_weights(folder / f"folds/beyond{seed}/checkpoints/best.pt", build(replace(REGIONS, seed=seed)))
    write_json(folder / "networks.json", ["folds/beyond1", "folds/beyond2"])
    write_json(folder / "decision.json", DECISION)
    return folder


@pytest.fixture(scope="module")
def exported(ensemble, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    files.write(ensemble, "onnx", out)
    return out / "model.onnx"


def arguments(subject, run, output):
    scans = [word for name, file in subject.images.items() for word in (f"--{name.lower()}", str(file))]
    return ["predict", "--run", str(run), *scans, "--output", str(output)]


def test_two_networks_are_one_file_that_predict_takes_and_that_segments_as_they_do(
    ensemble, exported, subjects, tmp_path, monkeypatch, capsys
):
    for run, name in ((ensemble, "run.nii.gz"), (exported, "file.nii.gz")):
        monkeypatch.setattr(sys, "argv", arguments(subjects[0], run, tmp_path / name))
        main()
    run, file = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("run.nii.gz", "file.nii.gz"))
    assert np.count_nonzero(run) > 100
    assert (run == file).mean() > 0.9999
    assert "does not say on which grid" not in capsys.readouterr().err
    (network,), config, decision = load_onnx(exported)
    assert (config.targets, decision) == ("regions", DECISION)
    with pytest.raises(RunError, match=r"found an exported network: name its file, .*model\.onnx"):
        read_model_config(exported.parent, Config)
    assert network.count == 2
    card = (exported.parent / "README.md").read_text()
    assert "| dice_WT | 0.812 | 0.750 to 0.875 | 4 | test |" in card
    assert "- input `image`: float32 (1, 4, " in card
    assert "- outputs are logits of ET, TC, WT: the sigmoid of each is its probability" in card
    assert "Not a medical device" in card
    assert [path.name for path in exported.parents[1].iterdir()] == ["out"]


def test_the_card_of_a_network_of_phantoms_says_that_it_is_of_no_use_on_patients(ensemble):
    own = source.read(ensemble)
    phantoms = replace(own, about=own.about | {"synthetic": True})
    agreement = Agreement(difference=1e-6, difference_from_run=1e-6, seconds=1.0, seconds_of_run=1.0)
    text = card.text(phantoms, "onnx", agreement)
    for part in ("# table1_baseline", "## Intended use", "## Limits"):
        assert (
            "seen synthetic phantoms only and is of no use on patients" in text.partition(part)[2].partition("\n## ")[0]
        )
    assert "Trained on adults" not in text
    assert "Trained on adults" in card.text(own, "onnx", agreement)


def test_the_card_says_first_how_a_network_did_on_patients_that_chose_nothing(ensemble):
    agreement = Agreement(difference=1e-6, difference_from_run=1e-6, seconds=1.0, seconds_of_run=1.0)

    def scores(experiment, **values):
        found = tuple(
            Result.of(experiment, name.replace("test_", "test."), value, 10, synthetic=False)
            for name, value in values.items()
        )
        text = card.text(replace(source.read(ensemble), results=found), "onnx", agreement)
        return [line for line in text.partition("## Scores")[2].partition("\n## ")[0].splitlines() if line][2:]

    assert scores("table2_final", mean_dice=0.9, test_mean_dice=0.6) == [
        "| mean_dice | 0.600 |  | 10 | test |",
        "| mean_dice | 0.900 |  | 10 | validation, which chose its weights |",
    ]
    others = {"baseline__mean_dice": 0.4, "minus_baseline__mean_dice": 0.3, "test_baseline__mean_dice": 0.5}
    assert scores("beyond", mean_dice=0.8, **others, test_mean_dice=0.7) == [
        "| mean_dice | 0.700 |  | 10 | test |",
        "| mean_dice | 0.800 |  | 10 | out of fold |",
    ]
    assert scores("table1_variations", gwdl__dice_WT=0.8) == ["| gwdl__dice_WT | 0.800 |  | 10 | test |"]
    none = card.text(
        replace(source.read(ensemble), results=(Result.of("x", "y", 1.0, 1, synthetic=False),)), "onnx", agreement
    )
    assert "no score of these networks" in none


@pytest.mark.parametrize("to", ["onnx", "nnunet-dataset"])
def test_what_is_no_run_of_a_network_is_named_with_what_can_be_exported(tmp_path, to):
    def refused(folder, said):
        with pytest.raises(RunError, match=said):
            export(Arguments(run=folder, to=to, output=tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "gone", "gone: expected the run of a network, found no run$")
    write_json(tmp_path / "score" / "config.json", {"experiment": "score", "options": {}})
    refused(tmp_path / "score", "found one of score, which keeps none; mlflow and wandb take such a run too")
    write_run(tmp_path / "table" / "rows" / "one", TINY)
    refused(tmp_path / "table", "found no run; networks lie below it, in rows/one$")
    write_json(tmp_path / "table" / "config.json", {"experiment": "t", "options": {}, "model": {"baseline": {}}})
    refused(
        tmp_path / "table", "expected the settings of a SegResNet .* found others; networks lie below it, in rows/one"
    )


def test_other_programs_read_an_onnx_files_settings(exported):
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    held = {entry.key: entry.value for entry in model.metadata_props}
    about = json.loads(held["glioma_suite"])
    assert about["contrasts"] == ["FLAIR", "T1", "T1ce", "T2"]
    assert about["outputs"] == ["ET", "TC", "WT"]
    assert about["decision"]["thresholds"] == [0.52, 0.5, 0.47]
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 6, 16, 16, 16]


@pytest.mark.parametrize(("limit", "threads"), [("", 0), ("4,2", 4), (" 3 ", 3), ("many", 0), ("2", 2), (None, 0)])
def test_a_file_opens_with_any_limit_of_threads(exported, monkeypatch, limit, threads):
    import onnxruntime

    def session(content, options, **_):
        assert options.intra_op_num_threads == threads
        raise ValueError("opened")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(RunError, match="found: opened"):
        Exported(exported)


def test_a_damaged_or_foreign_file_is_refused_in_one_sentence(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bit.onnx").write_bytes(content)
    with pytest.raises(RunError, match="other bytes than were written"):
        load_onnx(tmp_path / "bit.onnx")
    (tmp_path / "cut.onnx").write_bytes(content[:-1])
    with pytest.raises(RunError, match="no digest at its end"):
        load_onnx(tmp_path / "cut.onnx")
    with pytest.raises(RunError, match="expected an exported unet, found one of kind segresnet"):
        Exported(exported, kind="unet")


@pytest.mark.parametrize("to", ["onnx", "torchscript", "monai-bundle"])
def test_a_run_that_has_not_ended_is_refused_and_leaves_nothing(tmp_path, to):
    run = write_run(tmp_path / "run", TINY, summary=False)
    with pytest.raises(RunError, match=r"no summary.json: has the training ended\?"):
        export(Arguments(run=run, to=to, output=tmp_path / "exports" / "x"))
    assert not (tmp_path / "exports").exists()


def test_an_export_that_differs_from_its_networks_is_no_export(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", TINY)
    other = build(replace(TINY, seed=9))
    monkeypatch.setattr("segresnet_monai.export.weights", lambda network: other.state_dict())
    with pytest.raises(RunError, match=r"expected probabilities within 0\.0001 of the networks'"):
        files.write(run, "torchscript", tmp_path / "exports" / "x")
    assert not list((tmp_path / "exports").iterdir())


def test_only_an_earlier_export_is_replaced(tmp_path):
    run = write_run(tmp_path / "run", TINY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(Refused, match="expected a new folder or an earlier export"):
        files.write(run, "torchscript", tmp_path / "mine")
    for _ in range(2):
        files.write(run, "torchscript", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "export.json", "model.ts"]
    other = write_run(tmp_path / "elsewhere" / "run", TINY)
    with pytest.raises(Refused, match=f"earlier export of {other}, found one of {run}; --output names another"):
        files.write(other, "torchscript", tmp_path / "out")
    (tmp_path / "out" / "export.json").write_text("[]")
    with pytest.raises(Refused, match=r"export.json: expected a dict in JSON, found a list; --output"):
        files.write(run, "torchscript", tmp_path / "out")


def test_what_a_killed_export_has_left_is_put_back_and_removed(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "exports" / "out"

    def exported(text):
        with files.new_folder(out, run) as made:
            (made / "text").write_text(text)
            write_json(made / "export.json", {"folder": run})

    def killed_at(number):
        """Ended at the first or second of the two renames, with no chance to clean up."""
        count, real = [], Path.rename

        def rename(*given):
            count.append(given)
            if len(count) == number:
                raise KeyboardInterrupt
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            patch.setattr(files, "_put_back", lambda *_: None)
            patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(KeyboardInterrupt):
                exported("lost")

    exported("first")
    for rename in (1, 2):
        killed_at(rename)
        assert len(list((tmp_path / "exports").iterdir())) == 3 - rename
        with pytest.raises(ZeroDivisionError), files.new_folder(out, run):
            raise ZeroDivisionError
        assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]
        assert (out / "text").read_text() == "first"
    with pytest.raises(RunInUseError), files.new_folder(out, run):
        exported("meanwhile")
    killed_at(2)
    exported("second")
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]
    assert (out / "text").read_text() == "second"


@pytest.mark.parametrize(
    ("missing", "said"), [("onnxscript", r"\[onnx\]"), ("torchfoo", "^torchfoo is not installed$")]
)
def test_a_module_that_lacks_is_said_to_come_with_what_brings_it(tmp_path, monkeypatch, missing, said):
    def lacking(*_):
        raise ModuleNotFoundError(name=missing)

    monkeypatch.setattr(files, "_export", lacking)
    with pytest.raises(Refused, match=said):
        files.write(tmp_path, "onnx", tmp_path / "out")


SCHEMA = {
    "type": "object",
    "required": [
        *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
        *("description", "authors", "copyright", "network_data_format", "schema", "changelog"),
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "channel_def"],
                    "properties": {"num_channels": {"type": "integer"}, "spatial_shape": {"type": "array"}},
                },
            },
        },
    },
}
"""What MONAI's bundle specification asks of metadata.json; the published schema lies on a server."""


def test_a_bundle_passes_monais_own_checks(ensemble, tmp_path):
    from monai.bundle import verify_metadata, verify_net_in_out

    networks, config, decision = load_runs(ensemble, device="cpu")
    bundle.write(networks, config, decision, tmp_path, source.read(ensemble).about, intended_use="research")
    (tmp_path / "schema").write_text(json.dumps(SCHEMA))
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    write_json(tmp_path / "here.json", metadata | {"schema": (tmp_path / "schema").as_uri()})
    digest = hashlib.sha256((tmp_path / "schema").read_bytes()).hexdigest()
    stored = str(tmp_path / "schema.json")
    verify_metadata(str(tmp_path / "here.json"), filepath=stored, hash_val=digest, hash_type="sha256")
    config_file = json.loads((tmp_path / "configs" / "inference.json").read_text())
    config_file["network_def"]["_target_"] = "segresnet_monai.bundle_transforms.Together"
    write_json(tmp_path / "network.json", {"network_def": config_file["network_def"]})
    verify_net_in_out(
        "network_def", str(tmp_path / "configs/metadata.json"), str(tmp_path / "network.json"), device="cpu"
    )
    scripts = [path.read_text() for path in (tmp_path / "scripts").rglob("*.py")]
    assert len(scripts) > 10
    assert not any(
        line.lstrip().startswith(("from common", "import common")) for s in scripts for line in s.splitlines()
    )


@pytest.mark.slow
def test_monai_runs_a_bundle_without_the_suite_to_the_same_segmentation(ensemble, real_data, tmp_path):
    fine = tmp_path / "run"
    shutil.copytree(ensemble, fine)
    for name in ("", "folds/beyond1", "folds/beyond2"):
        settings = json.loads((fine / name / "config.json").read_text())
        settings["model"]["spacing_mm"] = 4.0
        write_json(fine / name / "config.json", settings | {"grid": asdict(Recipe(spacing_mm=4.0).grid)})
    files.write(fine, "monai-bundle", tmp_path / "bundle")  # compares one invented patient
    (subject,) = find_subjects(real_data / "brats", max_subjects=1).subjects
    scans = tmp_path / "scans" / subject.id
    scans.mkdir(parents=True)
    for file in subject.images.values():
        (scans / file.name).symlink_to(file)
    bundle.segment(tmp_path / "bundle", tmp_path / "scans", tmp_path)
    found = np.asarray(nib.load(tmp_path / f"{subject.id}_seg.nii.gz").dataobj)
    from common.patient import Trained, answer_for

    networks, config, decision = load_runs(fine, device="cpu")
    config = replace(config, precision=None, mixed_precision=False)
    trained = Trained(config.recipe, lambda volume: predict_volume(networks, volume, config, decision))
    expected = np.array([0, 1, 2, 4], np.uint8)[answer_for(subject, trained).labels]
    assert np.count_nonzero(expected) > 1000
    assert (found == expected).mean() > 0.9999


def test_a_cohort_for_nnunet_is_read_back_as_it_was_with_the_runs_split(cohort, subjects, tmp_path):
    run = write_run(tmp_path / "run", TINY, subjects=subjects)
    nnunet.write(run, cohort, tmp_path / "out")
    again = find_subjects(tmp_path / "out")
    assert (again.layout, [s.id for s in again.subjects]) == ("nnU-Net", [s.id for s in subjects[:3]])
    for before, after in zip(subjects, again.subjects, strict=False):
        np.testing.assert_array_equal(before.load_labels(), after.load_labels())
        np.testing.assert_array_equal(before.load_images()[0], after.load_images()[0])
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": 3}
    # nnU-Net writes the value of each region over those before it, wherever the region is.
    truth = np.asarray(nib.load(tmp_path / "out/labelsTr" / f"{subjects[0].id}.nii.gz").dataobj)
    written = np.zeros_like(truth)
    for values, value in zip([[1, 2, 3], [2, 3], [3]], described["regions_class_order"], strict=True):
        written[np.isin(truth, values)] = value
    np.testing.assert_array_equal(written, truth)
    (fold,) = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    assert fold == {"train": [s.id for s in subjects[:2]], "val": [subjects[2].id]}
    assert len(list((tmp_path / "out" / "imagesTs").iterdir())) == 4 * 3


def test_a_cohort_that_is_not_the_runs_is_refused(cohort, subjects, tmp_path):
    run = write_run(tmp_path / "run", TINY, subjects=subjects)
    data = json.loads((run / "data.json").read_text())
    data["subjects"][subjects[1].id] = "other"
    write_json(run / "data.json", data)
    with pytest.raises(Refused, match=rf"1 are others: .'{subjects[1].id}'"):
        nnunet.write(run, cohort, tmp_path / "out")
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match=r"no summary.json: has the training ended\?"):
        nnunet.write(run, cohort, tmp_path / "out")
    write_json(tmp_path / "mgmt" / "config.json", {"experiment": "mgmt_grid", "model": {"backbone": "x"}})
    with pytest.raises(Refused, match="mgmt: expected the run of a segmentation network, found one that classifies"):
        nnunet.write(tmp_path / "mgmt", cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def history(run, epochs, *, scale=1, seconds=2.0):
    import pandas as pd

    rows = [{"epoch": epoch, "loss": scale / epoch, "seconds": seconds} for epoch in range(1, epochs + 1)]
    write_csv(run / "history.csv", pd.DataFrame(rows))


def test_mlflow_takes_a_running_run_then_what_has_come_and_then_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = write_run(tmp_path / "run", TINY, summary=False)
    history(run, 2)
    trackers.to_mlflow(run, tmp_path / "store")
    history(run, 5)
    write_json(run / "summary.json", json.loads((write_run(tmp_path / "o", TINY) / "summary.json").read_text()))
    for _ in range(2):
        trackers.to_mlflow(run, tmp_path / "store")
    assert "nothing new" in capsys.readouterr().out.splitlines()[-1]
    client = MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("table1_baseline")
    (logged,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(logged.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses) == [(epoch, 1 / epoch) for epoch in range(1, 6)]
    assert logged.data.metrics["score/dice_WT_high"] == 0.875
    assert logged.data.params["model.initial_filters"] == "8"
    assert logged.info.status == "FINISHED"


def test_mlflow_goes_on_after_a_kill_and_takes_no_points_of_another_training(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = write_run(tmp_path / "run", TINY, summary=False)
    history(run, 2)

    def killed(*_, **__):
        raise KeyboardInterrupt

    def logged():
        experiment = client.get_experiment_by_name("table1_baseline")
        (one,) = client.search_runs([experiment.experiment_id])
        return one

    client = MlflowClient((tmp_path / "store").as_uri())
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            trackers.to_mlflow(run, tmp_path / "store")
    with Run(run):
        trackers.to_mlflow(run, tmp_path / "store")
    assert logged().data.params["model.initial_filters"] == "8"
    assert logged().info.status == "RUNNING"
    trackers.to_mlflow(run, tmp_path / "store")
    assert logged().info.status == "KILLED"
    history(run, 3, scale=2)
    with pytest.raises(Refused, match=r"another loss at epoch 1 than its 1: trained anew\?"):
        trackers.to_mlflow(run, tmp_path / "store")
    for epochs in (1, 3):  # as a training that a kill has set back by an epoch
        history(run, epochs, seconds=5.0)
        trackers.to_mlflow(run, tmp_path / "store")
    losses = client.get_metric_history(logged().info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses) == [(1, 1), (2, 1 / 2), (3, 1 / 3)]


@pytest.mark.slow
def test_wandb_keeps_one_offline_copy_of_a_run(tmp_path, capsys):
    pytest.importorskip("wandb")
    run = write_run(tmp_path / "run", TINY)
    history(run, 3)
    for _ in range(2):
        trackers.to_wandb(run, tmp_path / "store")
    assert "nothing new" in capsys.readouterr().out.splitlines()[-1]
    history(run, 4)
    trackers.to_wandb(run, tmp_path / "store")
    (kept,) = (tmp_path / "store" / "wandb").glob("offline-run-*")
    assert list(kept.glob("*.wandb"))
    assert (kept / "files" / "config.json").read_bytes() == (run / "config.json").read_bytes()
    assert not (Path("wandb")).exists()
