"""experiments.beyond: who is predicted by whom, what is decided on whom, and that the networks' average is tested."""

import json
import zlib

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from common import nifti  # noqa: E402
from common.augmentation import without_enhancement  # noqa: E402
from common.files import read_json  # noqa: E402
from common.regions import Case, Decision, choose, decode_regions  # noqa: E402
from common.runs import RunError  # noqa: E402
from common.subject import CONTRASTS  # noqa: E402
from experiments import beyond  # noqa: E402
from experiments.segmentation import finished, out_of_fold  # noqa: E402
from segresnet_monai.inference import load_run, load_runs, predict_volume, probabilities  # noqa: E402
from tests.cohorts import write_cohort, write_subject  # noqa: E402
from tests.experiments.conftest import here  # noqa: E402

NETWORK = (
    *("spacing-mm", "None", "crop-voxels", "32", "32", "32", "encoder-blocks", "1", "1", "1"),
    *("decoder-blocks", "1", "1", "supervised-levels", "2", "initial-filters", "8", "crops-per-epoch", "4"),
    *("epochs", "6", "validate-every", "6", "window-overlap", "0.0"),
)
BASELINE = (
    "spacing-mm",
    "None",
    "window-overlap",
    "0.0",
    "crop-voxels",
    "32",
    "32",
    "32",
    "encoder-blocks",
    "1",
    "1",
    "decoder-blocks",
    "1",
)


def settings(prefix, words):
    return [f"--model.{prefix}.{word}" if word[0].isalpha() and word != "None" else word for word in words]


ARGUMENTS = [
    *("--preset", "demo", "--jobs", "2", "--model.folds", "3"),
    *settings("network", NETWORK),
    *settings("baseline", (*BASELINE, "epochs", "1", "crops-per-epoch", "2", "validate-every", "1")),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("beyond") / "cohort", 8)


def call(folder, monkeypatch, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["beyond", *map(str, arguments)])
    monkeypatch.setattr(out_of_fold, "run", here(out_of_fold.train))
    beyond.main()
    return max((folder / "runs" / "beyond").iterdir(), key=lambda run: run.stat().st_mtime)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return call(folder, monkeypatch, "--data", cohort, *ARGUMENTS)


def opened(run, number):
    """Networks of a fold, its configuration, and its split."""
    network, config, _ = load_runs(run / "folds" / f"beyond{number}")
    return network[0], config, read_json(run / "folds" / f"beyond{number}" / "split.json", dict)


def entries(cohort, config, folder):
    from common import prepared
    from common.cohort import find_subjects

    found = find_subjects(cohort)
    return {s.id: s for s in found.subjects}, prepared.prepare(found.subjects, config.recipe, folder, n_jobs=1).entries


def test_every_patient_that_is_not_tested_is_predicted_once_by_a_network_that_has_not_seen_them(run, cohort, tmp_path):
    whole = read_json(run / "split.json", dict)
    used = {*whole["train"], *whole["validation"]}
    folds = [opened(run, number)[2] for number in (1, 2, 3)]
    assert sorted(id for fold in folds for id in fold["validation"]) == sorted(used)
    assert all({*fold["train"]} == used - {*fold["validation"]} and not fold["test"] for fold in folds)
    scored = pd.read_csv(run / "out_of_fold/beyond/cases.csv", dtype={"case": str})
    assert sorted(scored["case"]) == sorted(used)

    # By hand: probabilities of the fold's network, decided as the other folds' patients say.
    _, config, _ = opened(run, 1)
    subjects, prepared = entries(cohort, config, tmp_path)
    cases = {}
    for number, fold in enumerate(folds, start=1):
        network, _, _ = opened(run, number)
        for id in fold["validation"]:
            volume = prepared[id].open()
            plain = without_enhancement(volume, config.contrasts, np.random.default_rng(zlib.crc32(id.encode())))
            both = [
                Case.of(probabilities(network, each, config).numpy(), each.labels(), voxel_ml=each.voxel_ml)
                for each in (volume, plain)
            ]
            cases[id] = number, both, probabilities(network, volume, config).numpy(), volume
    id, (number, _, probability, volume) = next(iter(cases.items()))
    others = [both for other, both, *_ in cases.values() if other != number]
    decision = choose(*zip(*others, strict=True))
    kept = np.rint(probability * 255) / np.float32(255)
    expected = np.zeros(volume.source_shape, np.uint8)
    expected[volume.box] = decode_regions(kept.astype(np.float32), decision, voxel_ml=volume.voxel_ml)
    written = nifti.read(run / "out_of_fold/beyond/predictions" / f"{id}.nii.gz").data
    np.testing.assert_array_equal(subjects[id].convention.to_classes(written), expected)
    final = choose(*zip(*(both for _, both, *_ in cases.values()), strict=True))
    assert read_json(run / "decision.json", dict) == json.loads(json.dumps(vars(final)))


def test_the_tested_are_predicted_by_the_average_of_all(run, cohort, tmp_path):
    networks, config, decision = load_runs(run)
    assert len(networks) == 3
    assert isinstance(decision, Decision)
    subjects, prepared = entries(cohort, config, tmp_path)
    (id,) = read_json(run / "split.json", dict)["test"][:1]
    labels = predict_volume(networks, prepared[id].open(), config, decision)
    written = nifti.read(run / "test/beyond/predictions" / f"{id}.nii.gz").data
    np.testing.assert_array_equal(subjects[id].convention.to_classes(written), labels)


def test_other_commands_read_it_as_the_networks_that_predict_together(run, cohort, tmp_path):
    read = finished.read_run(run)
    networks, config, decision = load_runs(run)
    _, prepared = entries(cohort, config, tmp_path)
    id = read.split["test"][0]
    labels = finished.load(read).volume(prepared[id].open())
    np.testing.assert_array_equal(labels, predict_volume(networks, prepared[id].open(), config, decision))
    assert (read.kind, read.recipe) == ("segresnet", config.recipe)
    assert set(read.cases()["case"]) == set(read.split["test"])


def test_the_table_has_both_methods_and_their_differences(run):
    found = {line["key"].removeprefix("beyond."): line for line in read_json(run / "summary.json", list)}
    for part, prefix in (("out_of_fold", ""), ("test", "test.")):
        means = {}
        for method, name in (("beyond", ""), ("baseline", "baseline__")):
            cases = pd.read_csv(run / part / method / "cases.csv").fillna({"dice_WT": 1.0})
            means[method] = cases["dice_WT"].mean()
            assert found[f"{prefix}{name}dice_WT"]["value"] == pytest.approx(means[method])
        difference = found[f"{prefix}minus_baseline__dice_WT"]
        assert difference["value"] == pytest.approx(means["beyond"] - means["baseline"])
        assert difference["n"] == len(cases)


def test_the_command_again_shows_the_table_and_changes_nothing(run, cohort, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    assert call(run.parents[2], monkeypatch, "--data", cohort, *ARGUMENTS) == run
    assert before == {path: path.stat().st_mtime_ns for path in before}
    shown = capsys.readouterr().out
    assert "out_of_fold.dice_WT" in shown
    assert "test.mean_dice" in shown
    assert "decided on out-of-fold predictions" in shown


def test_all_patients_in_folds_leave_none_to_test(cohort, tmp_path, monkeypatch, capsys):
    folder = call(tmp_path, monkeypatch, "--data", cohort, *ARGUMENTS, "--folds", "3", "--model.no-with-baseline")
    assert len(read_json(folder / "split.json", dict)["train"]) == 8
    assert len(pd.read_csv(folder / "out_of_fold/beyond/cases.csv")) == 8
    assert not (folder / "test").exists()
    assert "\ntest." not in capsys.readouterr().out


def test_one_network_has_nobody_to_choose_its_decision_on(cohort, tmp_path, monkeypatch, capsys):
    folder = call(tmp_path, monkeypatch, "--data", cohort, *ARGUMENTS, "--model.folds", "1", "--model.no-with-baseline")
    networks, config, decision = load_runs(folder)
    assert decision == Decision(thresholds=(0.5, 0.5, 0.5), smallest_et_ml=0.5)
    assert not list(folder.rglob("probabilities"))
    split = read_json(folder / "split.json", dict)
    assert len(pd.read_csv(folder / "test/beyond/cases.csv")) == len(split["test"])
    assert not (folder / "out_of_fold").exists()
    assert "set beforehand, as one network leaves nobody to choose on: ET above 0.5" in capsys.readouterr().out
    read = finished.read_run(folder)
    _, prepared = entries(cohort, config, tmp_path)
    volume = prepared[split["test"][0]].open()
    np.testing.assert_array_equal(
        finished.load(read).volume(volume), predict_volume(networks, volume, config, decision)
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model.folds", "2"), "folds to be 1"),
        (("--model.network.checkpoint", "best"), "checkpoint last"),
        (("--folds", "4", "--fold", "1"), "no --fold"),
    ],
)
def test_what_would_fool_its_user_is_refused(words, said, cohort, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        call(tmp_path, monkeypatch, "--data", cohort, *ARGUMENTS, *words)
    assert said in " ".join(f"{ended.value} {capsys.readouterr().err}".replace("│", " ").split())
    assert not (tmp_path / "runs").exists()


def test_pretraining_is_a_run_of_phantoms_made_once_from_whose_weights_the_network_starts(
    cohort, tmp_path, monkeypatch, capsys
):
    for seed in range(3):
        write_subject(tmp_path / "few", f"phantom{seed}", 50 + seed)
    monkeypatch.setattr("experiments.segmentation.patients.phantom_cohort", lambda *_, **__: tmp_path / "few")
    monkeypatch.setattr(beyond, "PRETRAINING_EPOCHS", 2)
    monkeypatch.setattr(beyond, "PRETRAINING_RANDOMISED", 0)  # one of them takes seconds to make and to learn
    words = ("--data", cohort, *ARGUMENTS, "--model.folds", "1", "--model.no-with-baseline", "--pretrain")
    call(tmp_path, monkeypatch, *words)
    runs = {read_json(each / "data.json", dict)["synthetic"]: each for each in (tmp_path / "runs/beyond").iterdir()}
    phantoms, patients = runs[True], runs[False]
    assert len(read_json(phantoms / "split.json", dict)["train"]) == 1
    of_phantoms, described = (read_json(each / "config.json", dict) for each in (phantoms, patients))
    networks = [each["model"]["network"] for each in (of_phantoms, described)]
    augmentation = networks[1]["augmentation"] | {"dropout_probability": 0.0, "core_changed_probability": 0.0}
    assert networks[1]["augmentation"] != augmentation
    assert networks[0] == networks[1] | {"epochs": 2, "augmentation": augmentation}
    assert of_phantoms["model"]["folds"] == 1
    assert "network.epochs=2" in of_phantoms["options"]["changed"]
    start = read_json(patients / "folds/beyond1/config.json", dict)["start"]
    assert start["run"] == str(phantoms / "folds/beyond1")
    said = " ".join(capsys.readouterr().out.split())
    assert f"{phantoms / 'folds/beyond1'}, a network of synthetic phantoms" in said

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert trained
    call(tmp_path, monkeypatch, *words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == trained


@pytest.mark.parametrize(
    ("words", "said"), [(("--pretrain",), "--data beside --pretrain"), (("--pretrain", "--from", "x"), "received both")]
)
def test_pretraining_that_could_not_be_meant_is_refused(words, said, cohort, tmp_path, monkeypatch, capsys):
    data = ("--data", cohort) if "--from" in words else ()
    with pytest.raises(SystemExit) as ended:
        call(tmp_path, monkeypatch, *data, *ARGUMENTS, *words)
    assert said in " ".join(f"{ended.value} {capsys.readouterr().err}".replace("│", " ").split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("wrong", ["damaged", "unlabelled", "few", "other"])
def test_what_is_wrong_with_the_patients_is_said_before_a_network_is_trained_on_phantoms(
    wrong, tmp_path, monkeypatch, capsys
):
    data, words = write_cohort(tmp_path / "cohort", 2 if wrong == "few" else 6), ()
    if wrong == "damaged":
        (data / "BraTS_001/BraTS_001_t1.nii.gz").write_bytes(b"nothing")
    if wrong == "unlabelled":
        (data / "BraTS_001/BraTS_001_seg.nii.gz").unlink()
    if wrong == "other":
        words = ("--test-data", tmp_path / "nowhere")
    with pytest.raises(SystemExit) as ended:
        call(tmp_path, monkeypatch, "--data", data, *ARGUMENTS, "--pretrain", *words)
    said = {"damaged": "BraTS_001_t1.nii.gz", "unlabelled": "BraTS_001", "few": "at least", "other": "nowhere"}
    assert said[wrong] in str(ended.value)
    assert "pretraining on phantoms" not in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "phantoms").exists()


def test_pretraining_sees_randomised_phantoms_too_and_nothing_of_the_patients(monkeypatch):
    seen = []
    monkeypatch.setattr(beyond, "find_patients", lambda *_, **__: None)
    monkeypatch.setattr(beyond, "run", lambda *given, shown: seen.append(given) or beyond.Path("run"))
    options = beyond.BeyondOptions(data=beyond.Path("d"), subjects=beyond.Path("s"), pretrain=True, fresh=True, jobs=3)
    assert beyond.pretrained(options, beyond.CPU) == beyond.Path("run/folds/beyond1")
    [(of_phantoms, config)] = seen
    assert (of_phantoms.synthetic, of_phantoms.jobs, of_phantoms.fresh) == (beyond.PRETRAINING_RANDOMISED, 3, False)
    assert {of_phantoms.data, of_phantoms.subjects, of_phantoms.start_from} == {None}
    assert config.network.epochs == beyond.PRETRAINING_EPOCHS


def test_presets_are_the_recipe_at_other_sizes():
    for preset in (beyond.GPU, beyond.GPU24, beyond.CPU, beyond.DEMO):
        assert (preset.network.targets, preset.network.checkpoint, preset.baseline.checkpoint) == (
            "regions",
            "last",
            "last",
        )
        assert preset.network.contrasts == CONTRASTS


def test_with_start_every_probability_is_by_a_third_that_of_the_start(cohort, tmp_path, monkeypatch, capsys):
    """By hand: the trained network's and its start's, out of fold, on the test part, and as other commands read it."""
    for seed in range(3):
        write_subject(tmp_path / "few", f"phantom{seed}", 50 + seed)
    monkeypatch.setattr("experiments.segmentation.patients.phantom_cohort", lambda *_, **__: tmp_path / "few")
    monkeypatch.setattr(beyond, "PRETRAINING_EPOCHS", 2)
    monkeypatch.setattr(beyond, "PRETRAINING_RANDOMISED", 0)
    words = ("--data", cohort, *ARGUMENTS, "--model.no-with-baseline", "--pretrain", "--model.with-start")
    words = (*words, "--model.network.epochs", "2", "--model.network.validate-every", "2")
    call(tmp_path, monkeypatch, *words)
    said = capsys.readouterr().out
    assert "by a third that of the network that a training started from" in said
    runs = {read_json(each / "data.json", dict)["synthetic"]: each for each in (tmp_path / "runs/beyond").iterdir()}
    phantoms, patients = runs[True], runs[False]
    assert not read_json(phantoms / "config.json", dict)["model"]["with_start"]
    assert not list(phantoms.rglob("start.pt"))
    start, config = load_run(phantoms / "folds/beyond1")
    subjects, prepared = entries(cohort, config, tmp_path)
    for fold in (1, 2, 3):
        folder = patients / "folds" / f"beyond{fold}"
        own, _ = load_run(folder)
        for id in read_json(folder / "split.json", dict)["validation"]:
            volume = prepared[id].open()
            both = [probabilities(network, volume, config).numpy() for network in (own, start)]
            assert not np.array_equal(*both)
            with np.load(folder / "probabilities" / f"{id}.npz") as file:
                np.testing.assert_array_equal(file["probabilities"], np.rint((2 * both[0] + both[1]) / 3 * 255))

    networks, _, decision = load_runs(patients)
    assert [sum(network is other for other in networks) for network in networks] == [2, 2, 2, 2, 2, 2, 3, 3, 3]
    id = read_json(patients / "split.json", dict)["test"][0]
    volume = prepared[id].open()
    trained = [load_run(patients / "folds" / f"beyond{fold}")[0] for fold in (1, 2, 3)]
    each = [probabilities(network, volume, config).numpy() for network in (*trained, start)]
    mean = (2 * (each[0] + each[1] + each[2]) / 3 + each[3]) / 3
    expected = np.zeros(volume.source_shape, np.uint8)
    expected[volume.box] = decode_regions(mean, decision, voxel_ml=volume.voxel_ml)
    written = nifti.read(patients / "test/beyond/predictions" / f"{id}.nii.gz").data
    assert np.mean(subjects[id].convention.to_classes(written) != expected) < 1e-4  # 0.5 may fall either way

    (patients / "folds/beyond2/checkpoints/start.pt").unlink()
    with pytest.raises(RunError, match="found it in 2 of 3"):
        load_runs(patients)
    (patients / "networks.json").write_text("[]")
    with pytest.raises(RunError, match=r"networks\.json: expected the folders of networks, found none"):
        load_runs(patients)


def test_a_start_that_is_not_there_or_answers_for_something_else_is_refused(cohort, run, tmp_path, monkeypatch, capsys):
    words = ("--data", cohort, *ARGUMENTS, "--model.with-start")
    with pytest.raises(SystemExit, match="expected --pretrain or --from beside"):
        call(tmp_path, monkeypatch, *words)
    other = ("--from", run / "folds/beyond1", "--model.network.spacing-mm", "2.5")
    with pytest.raises(
        SystemExit, match=r"probabilities can be averaged with this one's, found: recipe .*spacing_mm=2\.5"
    ):
        call(tmp_path, monkeypatch, *words, *other)
    assert not (tmp_path / "runs").exists()
