import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import costs
from common.costs import Convolution, gflop
from common.runs import Run

ROOT = Path(__file__).parents[2]
TOUCH = """
import numpy as np, psutil
from common.costs import peak_memory_mib
resident, before = psutil.Process().memory_info().rss / 2**20, peak_memory_mib()
array = np.ones(100 * 2**20, np.uint8)
during = peak_memory_mib()
del array
print(resident, before, during, peak_memory_mib())
"""


def test_a_convolution_counts_each_multiplication_and_addition():
    # 4 x 5 x 6 places, at each 3 x 3 x 1 weights for each of 2 x 7 pairs of channels, a product and a sum each
    layer = Convolution(positions=120, kernel=(3, 3, 1), in_channels=2, out_channels=7)
    assert layer.flop == 2 * 120 * 9 * 14
    assert gflop([layer] * 1000) == pytest.approx(1000 * 2 * 120 * 9 * 14 / 1e9)
    assert gflop([]) == 0


def test_operations_are_those_of_a_convolution_written_out():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(2, 6, 5)), rng.normal(size=(3, 2, 3, 2))  # channel, x, y; out, in, x, y
    products, result = 0, np.zeros((3, 4, 4))
    for out, x, y in np.ndindex(result.shape):
        for channel, i, j in np.ndindex(kernel.shape[1:]):
            result[out, x, y] += kernel[out, channel, i, j] * image[channel, x + i, y + j]
            products += 1
    assert Convolution(positions=16, kernel=(3, 2), in_channels=2, out_channels=3).flop == 2 * products


def test_recorded_costs_are_merged_and_the_later_one_counts(tmp_path):
    with Run(tmp_path) as run:
        costs.record(run, parameters=5, seconds_per_step=0.5)
        costs.record(run, seconds_per_case=2.0, seconds_per_step=0.25)
        costs.record(run, gpu_peak_memory_mib=None)
    assert json.loads((tmp_path / "costs.json").read_text()) == {
        "parameters": 5, "seconds_per_step": 0.25, "seconds_per_case": 2.0, "gpu_peak_memory_mib": None,
    }  # fmt: skip


def test_training_costs_are_medians_over_the_epochs_of_the_history(tmp_path):
    with Run(tmp_path) as run:
        # seconds per step: 3, 1, 4, 1.5; the first epoch is slow and must not decide
        for epoch, (steps, seconds) in enumerate([(10, 30.0), (10, 10.0), (2, 8.0), (10, 15.0)], 1):
            run.history.append({"epoch": epoch, "loss": 0.5, "steps": steps, "seconds": seconds})
        layer = Convolution(positions=10**6, kernel=(3, 3, 3), in_channels=4, out_channels=16)
        costs.record_training(run, parameters=1728, convolutions=[layer, layer], gpu_peak_mib=None)
        found = json.loads((tmp_path / "costs.json").read_text())
        assert found["seconds_per_step"] == (1.5 + 3) / 2
        assert found["seconds_per_epoch"] == (10 + 15) / 2
        assert (found["parameters"], found["gpu_peak_memory_mib"]) == (1728, None)
        assert found["gflop_per_sample"] == pytest.approx(2 * 2 * 1e6 * 27 * 64 / 1e9, abs=0.0005)
        assert 20 < found["peak_memory_mib"] < 10**6
        costs.record_training(run, parameters=1, convolutions=[], gpu_peak_mib=1234.5678)
    assert json.loads((tmp_path / "costs.json").read_text())["gpu_peak_memory_mib"] == 1235


def test_peak_memory_grows_by_an_array_that_is_touched_and_stays():
    ballast = np.ones(300 * 2**20, np.uint8)  # of this process, which must not count for the one it starts
    done = subprocess.run([sys.executable, "-c", TOUCH], cwd=ROOT, capture_output=True, text=True, check=True)
    resident, before, during, after = map(float, done.stdout.split())
    assert ballast[-1] == 1
    assert resident - 1 <= before < resident + 50
    assert 95 <= during - before <= 110
    assert after == pytest.approx(during, abs=1)


def test_epochs_that_another_process_trained_do_not_count(tmp_path):
    with Run(tmp_path) as run:
        for epoch, seconds in enumerate([30.0, 30.0, 30.0, 10.0, 12.0], 1):
            run.history.append({"epoch": epoch, "steps": 10, "seconds": seconds})
        costs.record_training(run, parameters=1, convolutions=[], gpu_peak_mib=None, first_epoch=4)
        assert json.loads((tmp_path / "costs.json").read_text())["seconds_per_epoch"] == 11.0
        costs.record_training(run, parameters=1, convolutions=[], gpu_peak_mib=None, first_epoch=None)
        assert json.loads((tmp_path / "costs.json").read_text())["seconds_per_epoch"] == 11.0
        (tmp_path / "costs.json").unlink()
        costs.record_training(run, parameters=1, convolutions=[], gpu_peak_mib=None, first_epoch=None)
        assert json.loads((tmp_path / "costs.json").read_text())["seconds_per_epoch"] == 30.0
