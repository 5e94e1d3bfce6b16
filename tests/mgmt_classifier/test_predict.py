"""Prediction: damaged and foreign files, the order of patients, and the command for one's own patient."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.files import write_json  # noqa: E402
from mgmt_classifier.data import network_input, prepare  # noqa: E402
from mgmt_classifier.inference import build, load, load_run, logits, predict, probability  # noqa: E402
from mgmt_classifier.patient import NOTICE, SYNTHETIC_NOTE, predict_patient, report  # noqa: E402
from mgmt_classifier.train import save_weights  # noqa: E402

ROOT = Path(__file__).parents[2]


def write_run(folder, config, *, threshold=0.5):
    """A model's run folder with weights of the configuration's seed; batch normalisation as after some training."""
    network = build(config)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 1, config.images, *config.image_size, generator=torch.Generator().manual_seed(1)))
    save_weights(folder / "checkpoints" / f"{config.keep}.pt", network)
    write_json(folder / "config.json", {"model": asdict(config)})
    write_json(folder / "threshold.json", {"threshold": threshold, "validation": []})
    return network.eval()


@pytest.fixture
def run(tiny, tmp_path):
    write_run(tmp_path / "run", tiny)
    return tmp_path / "run"


def test_probabilities_come_in_the_patients_order_one_by_one_or_in_batches(run, labelled, tiny):
    entries = [entry for entry, _ in labelled]
    found = dict(predict(run, entries))
    assert list(found) == [entry.id for entry in entries]
    network, config = load_run(run)
    assert config == tiny
    for entry in entries:
        image = torch.from_numpy(network_input(entry.open(), entry.geometry, intensity="zscore"))[None]
        with torch.inference_mode():
            assert found[entry.id] == pytest.approx(float(torch.sigmoid(network(image))), rel=1e-4)
    assert len(set(found.values())) == len(entries)
    assert dict(predict(run, entries[::-1])) == pytest.approx(found, rel=1e-4)
    assert list(predict(run, [])) == []
    assert logits(network, entries, replace(config, batch_size=14)).shape == (14,)


def test_equal_logits_give_equal_probabilities_and_sure_ones_do_not_tie():
    values = torch.linspace(-4, 4, 81).repeat(9)
    assert len(np.unique(probability(values))) == 81
    assert len(np.unique(probability(torch.tensor([20.0, 21.0])))) == 2
    np.testing.assert_allclose(probability(torch.tensor([0.0, np.log(3)])), [0.5, 0.75])


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_here"),))


@pytest.mark.parametrize("damage", ["truncated", "code", "another network", "text"])
def test_damaged_and_foreign_weights_are_named(run, tiny, damage, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = run / "checkpoints" / "best.pt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "code":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    elif damage == "text":
        path.write_text("weights")
    else:
        save_weights(path, build(replace(tiny, filters=8)))
    with pytest.raises(ValueError, match=r"best\.pt: expected intact weights of this configuration's resnet10"):
        load(tiny, path)
    assert not (tmp_path / "was_here").exists()


def test_a_run_that_is_none_is_named(run):
    (run / "checkpoints" / "best.pt").unlink()
    with pytest.raises(ValueError, match="has the run finished"):
        load_run(run)
    write_json(run / "config.json", {"model": {"filters": -1}})
    with pytest.raises(ValueError, match=r"expected settings of mgmt_classifier\.config"):
        load_run(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: expected JSON, found: Expecting"):
        load_run(run)
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"expected the folder of a run, found no config\.json"):
        load_run(run)


@pytest.fixture
def ensemble(tiny, tmp_path):
    """The folder of an ensemble's run, with another network and choice of images for each contrast."""
    folder = tmp_path / "ensemble"
    write_run(folder / "FLAIR", replace(tiny, slices="tumour", seed=1), threshold=0.4)
    write_run(folder / "T1w", replace(tiny, contrast="T1w", images=3, seed=2), threshold=0.6)
    write_json(folder / "ensemble.json", {"weights": {"FLAIR": 0.75, "T1w": 0.25}, "threshold": 0.5})
    return folder


def test_one_patient_gets_what_the_models_give_the_cohort(ensemble, patients, tmp_path, capsys):
    patient = patients[3]
    folder = patient.folders["FLAIR"].parent
    result = predict_patient(ensemble, folder, tmp_path / "out")
    parts = {}
    for contrast in ("FLAIR", "T1w"):
        _, config = load_run(ensemble / contrast)
        store = prepare([patient], config.recipe, tmp_path / "store", n_jobs=1)
        ((_, parts[contrast]),) = predict(ensemble / contrast, list(store.entries.values()))
        assert result["models"][contrast]["probability"] == pytest.approx(parts[contrast], rel=1e-5)
        indices = store.entries[patient.id].geometry["indices"]
        assert result["models"][contrast]["images"] == [index + 1 for index in indices]
    assert parts["FLAIR"] != parts["T1w"]
    assert result["probability"] == pytest.approx(0.75 * parts["FLAIR"] + 0.25 * parts["T1w"], rel=1e-5)
    assert result["called_methylated"] == (result["probability"] >= 0.5)
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert written["probability"] == result["probability"]
    assert written["models"]["FLAIR"]["threshold"] == 0.4
    assert written["notice"] == NOTICE
    assert (tmp_path / "out" / "saliency.png").read_bytes()[:4] == b"\x89PNG"
    report(result)
    text = capsys.readouterr().out
    assert f"probability of MGMT methylation {result['probability']:.3f}" in text
    assert "not for clinical use" in text
    assert SYNTHETIC_NOTE not in text
    write_json(ensemble / "data.json", {"synthetic": True})
    report(predict_patient(ensemble, folder, tmp_path / "out"))
    assert SYNTHETIC_NOTE in capsys.readouterr().out


def test_one_patient_is_predicted_in_the_models_precision(tiny, patients, tmp_path):
    patient, found = patients[3], {}
    for precision in (None, "bfloat16"):
        config = replace(tiny, precision=precision)
        folder = tmp_path / str(precision)
        write_run(folder / "FLAIR", config)
        write_json(folder / "ensemble.json", {"weights": {"FLAIR": 1.0}, "threshold": 0.5})
        found[precision] = predict_patient(folder, patient.folders["FLAIR"].parent, tmp_path / "out")["probability"]
        store = prepare([patient], config.recipe, tmp_path / "store", n_jobs=1)
        assert dict(predict(folder / "FLAIR", list(store.entries.values()))) == {patient.id: found[precision]}
    assert found["bfloat16"] != found[None]


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mgmt_classifier.predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_the_command(ensemble, patients, tmp_path):
    folder = patients[2].folders["FLAIR"].parent
    done = command(ensemble, folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert NOTICE in done.stdout
    assert sorted(path.name for path in (tmp_path / f"mgmt_{folder.name}").iterdir()) == ["result.json", "saliency.png"]
    missing = tmp_path / "patient"
    shutil.copytree(folder / "FLAIR", missing / "FLAIR")
    refused = command(ensemble, missing, "--out", tmp_path / "out", cwd=tmp_path)
    assert refused.returncode == 1
    assert "error: patient: expected a series T1w, found FLAIR" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "out").exists()


def test_an_ensemble_that_is_none_is_named(ensemble, patients, tmp_path):
    folder = patients[2].folders["FLAIR"].parent
    with pytest.raises(ValueError, match=r"expected the folder of an ensemble's run, found no ensemble\.json"):
        predict_patient(tmp_path, folder, tmp_path / "out")
    shutil.rmtree(ensemble / "T1w")
    shutil.copytree(ensemble / "FLAIR", ensemble / "T1w")
    with pytest.raises(ValueError, match="expected a model of T1w, found one of FLAIR"):
        predict_patient(ensemble, folder, tmp_path / "out")
    write_json(ensemble / "ensemble.json", {"weights": [1]})
    with pytest.raises(ValueError, match=r"expected weights and a threshold in ensemble\.json"):
        predict_patient(ensemble, folder, tmp_path / "out")
    write_json(ensemble / "ensemble.json", [1])
    with pytest.raises(ValueError, match=r"ensemble\.json: expected a dict in JSON, found a list"):
        predict_patient(ensemble, folder, tmp_path / "out")


def test_bad_images_are_refused_with_the_reason(ensemble, patients, tmp_path):
    shutil.copytree(patients[2].folders["FLAIR"].parent, tmp_path / "patient")
    (file, *_) = sorted((tmp_path / "patient" / "T1w").iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"patient: .*truncated pixel data"):
        predict_patient(ensemble, tmp_path / "patient", tmp_path / "out")
