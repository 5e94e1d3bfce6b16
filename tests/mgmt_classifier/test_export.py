"""An exported ensemble: the same probabilities without PyTorch's networks."""

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from dataclasses import replace  # noqa: E402

from common.files import write_json  # noqa: E402
from experiments.exporting import files  # noqa: E402
from mgmt_classifier import predict  # noqa: E402
from mgmt_classifier.export import FromOnnx, examples, to_onnx  # noqa: E402
from mgmt_classifier.inference import build  # noqa: E402
from mgmt_classifier.patient import predict_patient  # noqa: E402
from tests.mgmt_classifier.test_predict import write_run  # noqa: E402


def test_an_exported_ensemble_answers_as_its_run_does(tiny, patients, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    for contrast, threshold in (("FLAIR", 0.4), ("T1w", 0.6)):
        write_run(run / contrast, replace(tiny, contrast=contrast, seed=len(contrast)), threshold=threshold)
        (run / contrast / "predictions.csv").touch()
    write_json(run / "ensemble.json", {"weights": {"FLAIR": 0.75, "T1w": 0.25}, "threshold": 0.5})
    write_json(run / "config.json", {"experiment": "mgmt_ensemble", "model": {}})
    write_json(run / "data.json", {"synthetic": True})
    write_json(run / "split.json", {"train": ["a", "b"], "validation": ["c"], "test": []})
    files.write(run, "onnx", tmp_path / "out")
    before = predict_patient(run, patients[1].folders["FLAIR"].parent, tmp_path / "before")
    command = ["predict", tmp_path / "out" / "model.onnx", patients[1].folders["FLAIR"].parent, "--out", tmp_path / "a"]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    predict.main()
    after = json.loads((tmp_path / "a" / "result.json").read_text())
    assert after["probability"] == pytest.approx(before["probability"], abs=1e-6)
    assert after["models"]["T1w"]["threshold"] == 0.6
    assert after["synthetic"]
    assert not (tmp_path / "a" / "saliency.png").exists()
    assert "invented" in capsys.readouterr().out
    assert "1 validation" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_vgg16s_averages_over_overlapping_parts_are_exported(tiny, tmp_path):
    config = replace(tiny, backbone="vgg16", image_size=(96, 80))  # 3 x 2 positions to 7 x 7
    network = build(config).eval()
    to_onnx({"FLAIR": (network, config)}, tmp_path / "m.onnx", {"kind": "mgmt", "models": {}})
    file = FromOnnx(tmp_path / "m.onnx")
    image = examples({"FLAIR": (network, config)}, seed=3)["FLAIR"]
    with torch.inference_mode():
        expected = float(network(image))
    np.testing.assert_allclose(file.file(FLAIR=image.numpy())["logit_FLAIR"], expected, atol=1e-5)
