"""Every result of reported.toml is reproduced: it stands in the summary.json of exactly one experiment."""

import importlib
import json
import sys
from collections import Counter

import pandas as pd
import pytest

from experiments import mgmt_grid
from experiments.base.results import reported
from tests.experiments.conftest import TINY, write_patient
from tests.experiments.test_compare_frameworks import TINY as FRAMEWORKS
from tests.experiments.test_mgmt import SMALL, options

RESULTS = {f"{experiment}.{name}" for experiment, names in reported().items() for name in names}
SCAN = ("0", "40", "0", "48", "0", "36")  # of the tiny subjects
TABLE = (
    *(word.replace("--model.", "--model.baseline.") for word in TINY),
    *("--model.baseline.epochs", "1", "--model.slices", "8", "28", "--model.crop-slices", "20"),
    *("--model.baseline.extent", *SCAN[1::2]),
    *("--model.further-epochs", "1"),
)


def unet(prefix="--model", *shape):
    settings = {
        "crop": SCAN,
        "extent": SCAN[1::2],
        "shape": shape,
        "levels": ("2",),
        "filters": ("2",),
        "epochs": ("2",),
    }
    words = [word for name, values in settings.items() for word in (f"{prefix}.{name}", *values)]
    return [*words, f"{prefix}.minimum-component-voxels", "1"]


MODELS = {
    "mgmt_backbones": ("resnet10", "vgg16"),
    "mgmt_slice_choice": ("tumour", "central"),
    "mgmt_ensemble": ("flair", "t1w"),
    "mgmt_explain": ("flair", "t1w"),
}
SETTINGS = {
    "table1_baseline": TINY,
    "table1_variations": TABLE,
    "table2_final": (*TINY, "--model.continued-from", "1", "--model.slices", "None"),
    "compare_frameworks": FRAMEWORKS,
    "unet25d": ("--preset", "demo", *unet("--model", "20", "24", "36")),
    "unet3d": ("--preset", "demo", *unet("--model", "16", "16", "16")),
    "mgmt_grid": ("--preset", "demo", *options(["cell"], (*SMALL[:3], "--filters", "2", "--epochs", "1"))),
    **{experiment: ("--preset", "demo", *options(models)) for experiment, models in MODELS.items()},
}


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    """Competition folder of 24 patients whose series hold 17 images, for the grid takes up to 15."""
    folder = tmp_path_factory.mktemp("patients")
    for number in range(24):
        write_patient(folder / "train" / f"{number:05}", methylated=number % 2 == 1, seed=number, images=17)
    rows = [(f"{number:05}", number % 2) for number in range(24)]
    pd.DataFrame(rows, columns=["BraTS21ID", "MGMT_value"]).to_csv(folder / "train_labels.csv", index=False)
    return folder


@pytest.fixture
def summaries(cohort, patients, tmp_path, monkeypatch):
    """Run experiments in this process with tiny settings; returns the lines of their summary.json by experiment."""

    def run(*experiments):
        for name in experiments:
            if name == "cohort":
                words = ["--data", cohort, "--mgmt-data", patients]
            else:
                words = ["--data", patients if name.startswith("mgmt_") else cohort, *SETTINGS[name]]
                words += ["--prepared", tmp_path / "prepared"]
            words += ["--runs", tmp_path / "runs", "--jobs", "1"]
            monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
            importlib.import_module(f"experiments.{name}").main()
        written = {name: sorted((tmp_path / "runs" / name).glob("*/summary.json")) for name in experiments}
        return {
            name: [line for path in paths for line in json.loads(path.read_text())] for name, paths in written.items()
        }

    return run


@pytest.mark.parametrize("experiment", reported())
def test_every_experiment_of_the_report_has_a_module(experiment):
    module = importlib.import_module(f"experiments.{experiment}")
    assert experiment == module.EXPERIMENT
    assert callable(module.main)


@pytest.mark.parametrize("settings", [mgmt_grid.PAPER, mgmt_grid.DEMO])
def test_the_grid_has_the_reports_cells_in_both_presets(settings):
    assert set(settings.cells) == {name.partition("__")[0] for name in reported()["mgmt_grid"] if "__" in name}


def missing(lines, wanted):
    """The results of the report that are not in exactly one experiment's summary, or there without a value."""
    places = Counter(line["key"] for own in lines.values() for line in own)
    values = {line["key"]: line["value"] for own in lines.values() for line in own}
    return {key: (places[key], values.get(key)) for key in wanted if places[key] != 1 or values[key] is None}


def check(lines):
    wanted = {key for key in RESULTS if key.partition(".")[0] in lines}
    assert missing(lines, wanted) == {}
    for experiment, own in lines.items():
        for line in own:
            assert line["key"].startswith(f"{experiment}.")
            name = line["key"].removeprefix(f"{experiment}.")
            said = reported()[experiment].get(name)
            # The same quantity on another part or in another view may stand beside the report's number too.
            assert said is None or line["reported"] == said.value
            assert line["n"] > 0 or isinstance(line["value"], str) or line["value"] is None
            assert not line["synthetic"]


def test_the_cohorts_and_the_unets_reproduce_every_result(summaries):
    pytest.importorskip("tensorflow", reason="needs the extra unet")
    check(summaries("cohort", "unet25d", "unet3d"))


@pytest.mark.slow
def test_every_result_of_the_report_is_in_exactly_one_summary(summaries):
    pytest.importorskip("tensorflow", reason="needs the extra unet")
    pytest.importorskip("monai", reason="needs the extras segresnet and mgmt")
    lines = summaries(*reported())
    check(lines)
    assert {line["key"] for own in lines.values() for line in own} >= RESULTS
