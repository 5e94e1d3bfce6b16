"""The comparison of frameworks: the same cases for every model, processes that say why they failed, honest words."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from scipy import stats

from common.splits import Split
from experiments import table1_variations, unet3d, unet25d
from experiments.base.results import reported
from experiments.compare_frameworks import DEMO, PAPER, FrameworkOptions, main
from experiments.comparison import BACKENDS, EXPERIMENT, MODELS, backends, processes, summary, table
from experiments.comparison.models import COMPARED, compare, read_cases
from experiments.comparison.summary import claims, label
from experiments.segmentation.study import Options, Refused, study
from tests.cohorts import write_cohort, write_subject
from tests.experiments.conftest import ROOT

MODULE = "experiments.compare_frameworks"
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "monai", "lightning"}
RANGES = ("8", "32", "12", "36", "6", "30")
UNET = ("--crop", *RANGES, "--extent", "40", "48", "36", "--levels", "2", "--filters", "2", "--epochs", "2")
SEGRESNET = (
    *("--spacing-mm", "None", "--crop-voxels", "24", "24", "24", "--encoder-blocks", "1", "1", "--decoder-blocks", "1"),
    *("--epochs", "2", "--continued-from", "1", "--slices", "None", "--crops-per-epoch", "2", "--validate-every", "1"),
)


def of_model(name, arguments):
    return [each.replace("--", f"--model.{name}.") for each in arguments]


TINY = (
    *("--preset", "demo", "--jobs", "2"),
    *of_model("segresnet", SEGRESNET),
    *of_model("unet3d", (*UNET, "--shape", "16", "16", "16")),
    *of_model("unet25d", (*UNET, "--shape", "16", "16", "10")),
)
TINY_UNET = {"crop": ((8, 32), (12, 36), (6, 30)), "extent": (40, 48, 36), "levels": 2, "filters": 2, "epochs": 2}
TINY_UNET3D = replace(DEMO.unet3d, shape=(16, 16, 16), **TINY_UNET)
TINY_UNET25D = replace(DEMO.unet25d, shape=(16, 16, 10), **TINY_UNET)


# Settings -------------------------------------------------------------------------------------------------------------


def test_the_models_are_those_of_their_own_experiments():
    assert PAPER.segresnet == table1_variations.PAPER.variations()["dice_ce_extended"].config
    for ours, own in ((PAPER, "PAPER"), (DEMO, "DEMO")):
        assert ours.unet25d == getattr(unet25d, own)
        theirs = getattr(unet3d, own)
        names = [field.name for field in fields(theirs)]
        differing = [name for name in names if getattr(theirs, name) != getattr(ours.unet3d, name)]
        assert differing == ["minimum_mask_fraction"]


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("unet3d", {"minimum_mask_fraction": 0.01}, "unet3d.minimum_mask_fraction to be 0, so that .* received 0.01"),
        (
            "unet25d",
            {"spatial_dims": 3, "context": 0, "shape": (64, 64, 32)},
            "unet25d.spatial_dims to be 2, received 3",
        ),
    ],
)
def test_settings_that_would_not_compare_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        replace(DEMO, **{model: replace(getattr(DEMO, model), **change)})


def test_interpreters_are_this_one_unless_named():
    found = FrameworkOptions(python=("segresnet=a/bin/python", "jax=b=c")).interpreters()
    assert found == dict.fromkeys((*MODELS, *BACKENDS), Path(sys.executable)) | {
        "segresnet": Path("a/bin/python"),
        "jax": Path("b=c"),
    }


@pytest.mark.parametrize("given", ["unet=python", "segresnet", "segresnet="])
def test_what_names_no_interpreter_is_refused(given):
    with pytest.raises(Refused, match=f"expected --python NAME=PATH .*segresnet.*jax, received '{given}'"):
        FrameworkOptions(python=(given,)).interpreters()


def test_importing_it_and_its_parts_loads_no_framework():
    modules = "models", "summary", "table", "picture", "backends", "processes"
    program = (
        "import sys; from experiments import compare_frameworks;"
        f"from experiments.comparison import {', '.join(modules)};"
        f"print({FRAMEWORKS} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Processes ------------------------------------------------------------------------------------------------------------

FUNCTIONS = """
import os, signal, sys, time

def works(folder):
    (folder / "result").write_text(f"{os.environ['KERAS_BACKEND']} {'tensorflow' in sys.modules}")

def fails(folder):
    raise KeyError("no such thing")

def is_killed(folder):
    os.kill(os.getpid(), signal.SIGKILL)

def leaves(folder):
    sys.exit(3)

def waits(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run one of FUNCTIONS in a process of its own; returns what its failure file says, None without one."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")

    def run(name, *, python=sys.executable, packages=(), backend="torch"):
        failure = tmp_path / "failure.txt"
        function = f"functions:{name}"
        processes.run(Path(python), function, tmp_path, packages=packages, backend=backend, failure=failure)
        return failure.read_text() if failure.exists() else None

    return run


@pytest.mark.parametrize(("backend", "kept_out"), [("tensorflow", False), ("torch", True), ("jax", True)])
def test_only_tensorflows_processes_may_import_it(start, tmp_path, backend, kept_out):
    assert start("works", backend=backend, packages=("numpy",)) is None
    assert (tmp_path / "result").read_text() == f"{backend} {kept_out}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "KeyError: 'no such thing'"),
        ("is_killed", "the process was killed, as the system does for want of memory"),
        ("leaves", "the process ended with exit status 3"),
        ("missing", "AttributeError: module 'functions' has no attribute 'missing'"),
    ],
)
def test_a_failed_process_says_why_and_the_next_one_begins_anew(start, name, said):
    assert start(name).splitlines()[-1] == said
    assert start("works") is None


def test_what_an_interpreter_lacks_is_named(start, tmp_path):
    assert start("works", packages=("numpy", "no_such_package", "nor_this")) == (
        f"not installed: no_such_package, nor_this (for {sys.executable})\n"
    )
    nowhere = tmp_path / "bin" / "python"
    assert start("works", python=nowhere).startswith(f"{nowhere}: expected a Python interpreter, found: ")
    assert not (tmp_path / "result").exists()


def alive(pid):
    """Whether a process runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks up processes in /proc")
def test_the_process_ends_with_the_command_even_when_that_is_killed(start, tmp_path):
    program = (
        "import sys; from pathlib import Path; from experiments.comparison import processes;"
        "folder = Path(sys.argv[1]);"
        "options = dict(packages=(), backend='torch', failure=folder / 'failure.txt');"
        "processes.run(Path(sys.executable), 'functions:waits', folder, **options)"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path]) as parent:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = int((tmp_path / "pid").read_text())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Comparing ------------------------------------------------------------------------------------------------------------


def random_scores(n_cases, models=tuple(MODELS)):
    """(model, case) -> metrics; every model in an order of cases of its own."""
    rng = np.random.default_rng(n_cases)
    frames = []
    for model in models:
        frame = pd.DataFrame(rng.random((n_cases, len(COMPARED))), columns=COMPARED)
        frames.append(
            frame.assign(model=model, case=[f"case{i}" for i in range(n_cases)]).sample(frac=1, random_state=1)
        )
    return pd.concat(frames).set_index(["model", "case"])


def test_pairs_are_compared_case_by_case_and_corrected_together():
    scores = random_scores(8)
    scores.loc[("unet3d", "case3"), "hd_TC"] = np.nan  # no score under the policy
    found = compare(scores)
    expected = [(*pair, metric) for pair, metric in product(combinations(MODELS, 2), COMPARED)]
    assert list(found[["model", "against", "metric"]].itertuples(index=False, name=None)) == expected
    p_values = []
    for row in found.itertuples():
        difference = np.array(
            [
                scores.loc[(row.model, f"case{i}"), row.metric] - scores.loc[(row.against, f"case{i}"), row.metric]
                for i in range(8)
            ]
        )
        difference = difference[~np.isnan(difference)]
        assert row.n == difference.size == (7 if row.metric == "hd_TC" and "unet3d" in (row.model, row.against) else 8)
        assert row.difference == pytest.approx(difference.mean())
        assert row.low < row.difference < row.high
        p_values.append(stats.wilcoxon(difference).pvalue)
        assert row.p == pytest.approx(p_values[-1])
        assert row.higher_is_better == row.metric.startswith(("dice", "mean"))
    # Holm by its definition: the smallest level at which the step-down procedure would reject.
    adjusted = []
    for p in p_values:
        ranked = sorted(p_values)
        adjusted.append(min(1, max((len(ranked) - k) * other for k, other in enumerate(ranked) if other <= p)))
    assert found["p_holm"].to_numpy() == pytest.approx(adjusted)


@pytest.mark.parametrize(("n_cases", "tested"), [(1, False), (2, False), (3, True)])
def test_few_cases_have_differences_but_no_test(n_cases, tested):
    found = compare(random_scores(n_cases))
    assert found["difference"].notna().all()
    for column in ("low", "high", "p", "p_holm"):
        assert found[column].notna().all() == tested
        assert found[column].notna().any() == tested


def test_a_model_without_scores_is_in_no_pair():
    found = compare(random_scores(4, ("segresnet", "unet25d")))
    assert set(found[["model", "against"]].itertuples(index=False, name=None)) == {("segresnet", "unet25d")}
    assert compare(random_scores(4, ("unet3d",))).empty


@dataclass
class Opened:
    folder: Path


@dataclass
class Finished:
    """As much of a study as reading its models' cases needs."""

    run: Opened
    split: Split


@pytest.fixture
def scored(tmp_path):
    """A study whose models have scored the cases given."""

    def write(**cases):
        for model, names in cases.items():
            folder = tmp_path / "models" / model
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text("[]")
            views = [{"case": name, "dice_NCR": 0.5, "view": view} for name in names for view in ("", "inside_crop")]
            pd.DataFrame(views).to_csv(folder / "cases.csv", index=False)
        return Finished(Opened(tmp_path), Split("split", ("000",), ("001",), ("002", "003")))

    return write


def test_cases_of_all_models_are_put_together(scored):
    found = read_cases(scored(segresnet=("002", "003"), unet25d=("003", "002")))
    assert list(found.columns[:2]) == ["model", "case"]
    labels = found[found["view"] == ""]
    assert labels[["model", "case"]].to_numpy().tolist() == [
        ["segresnet", "002"],
        ["segresnet", "003"],
        ["unet25d", "003"],
        ["unet25d", "002"],
    ]


@pytest.mark.parametrize("cases", [("002",), ("002", "004"), ("002", "003", "004"), ("002", "003", "003")])
def test_a_model_scored_on_other_cases_is_an_error(scored, cases):
    with pytest.raises(Refused, match=r"unet3d/cases.csv: expected one row of each test case, \['002', '003'\], found"):
        read_cases(scored(segresnet=("002", "003"), unet3d=cases))


# Words ----------------------------------------------------------------------------------------------------------------


def comparisons_of(differences, p_holm, n=8):
    """comparisons.csv of SegResNet and the 3D U-Net. differences, p_holm: one number for all metrics, or by metric."""

    def of(values, metric):
        return values.get(metric, 0.0) if isinstance(values, dict) else values

    rows = [
        {"model": "segresnet", "against": "unet3d", "metric": metric, "difference": of(differences, metric), "n": n,
         "p_holm": of(p_holm, metric), "higher_is_better": not metric.startswith("hd")}
        for metric in COMPARED
    ]  # fmt: skip
    return pd.DataFrame(rows)


def costs_of(seconds=(9.0, 4.0, 2.0), memory=(5.0, 4.0, 3.0), states=("finished",) * 3):
    frame = pd.DataFrame({"model": list(MODELS), "state": states, "epochs": (35, 45, 30)})
    return frame.assign(seconds_per_epoch=seconds, peak_memory_mib=memory)


def test_a_metric_without_a_case_that_both_have_a_score_for_is_not_called_better():
    """Under the policy ``ignore``: a difference that is not defined is neither above nor below 0."""
    comparisons = comparisons_of(float("nan"), float("nan"), n=0)
    found = claims(costs_of(), comparisons)
    assert found["segresnet_against_unet3d"] == found["segresnet_better_on"]
    assert found["segresnet_better_on"] == ("not compared: no case that both have a score for", 0)
    some = comparisons_of({"dice_ED": 0.1, "hd_TC": float("nan")}, 0.01)
    some.loc[some["metric"] == "hd_TC", "n"] = 0
    assert claims(costs_of(), some)["segresnet_better_on"] == ("Dice ED; told apart: Dice ED", 8)


@pytest.mark.parametrize(
    ("difference", "p", "n", "words"),
    [
        (0.021, 0.3, 8, "0.021 higher mean Dice (p = 0.3): not told apart"),
        (-0.1, 0.0123, 80, "0.100 lower mean Dice (p = 0.012): worse"),
        (0.1, 0.049, 80, "0.100 higher mean Dice (p = 0.049): better"),
        (0.1, float("nan"), 1, "0.100 higher mean Dice; no test with 1 test case"),
        (0.1, float("nan"), 2, "0.100 higher mean Dice; no test with 2 test cases"),
    ],
)
def test_segresnet_against_unet3d_in_words(difference, p, n, words):
    comparisons = comparisons_of({"mean_dice": difference}, p, n)
    assert claims(costs_of(), comparisons)["segresnet_against_unet3d"] == (words, n)


@pytest.mark.parametrize(
    ("differences", "p", "words"),
    [
        ({"dice_NCR": 0.1, "dice_ED": -0.1, "hd_TC": -3.0, "hd_WT": 2.0}, 0.2, "Dice NCR and HD TC; told apart: none"),
        (
            {"dice_NCR": 0.1, "dice_ET": 0.2, "hd_TC": -3.0, "hd_WT": -1.0},
            {"dice_NCR": 0.2, "dice_ED": 0.01, "dice_ET": 0.01, "hd_TC": 0.04, "hd_WT": 1.0},
            "Dice NCR, Dice ET, HD TC and HD WT; told apart: Dice ET and HD TC",
        ),
        ({"hd_WT": -1.0}, float("nan"), "HD WT; no test with 8 test cases"),
        ({"dice_NCR": -0.1, "hd_TC": 4.0}, 0.001, "none of the five"),
    ],
)
def test_segresnet_better_on_in_words(differences, p, words):
    assert claims(costs_of(), comparisons_of(differences, p))["segresnet_better_on"] == (words, 8)


@pytest.mark.parametrize(
    ("seconds", "memory", "words"),
    [
        ((4.0, 2.0), (8.0, 6.0), "faster (0.50 times the seconds per epoch), with less memory (0.75 times the peak)"),
        (
            (2.0, 3.0),
            (8.0, 7.9),
            "slower (1.50 times the seconds per epoch), with as much memory (0.99 times the peak)",
        ),
    ],
)
def test_unet25d_against_unet3d_in_words(seconds, memory, words):
    costs = costs_of((9.0, *seconds), (9.0, *memory))
    assert claims(costs, comparisons_of(0.0, 1.0))["unet25d_against_unet3d"] == (words, 30)


def test_a_claim_about_a_failed_model_says_so():
    costs = costs_of(states=("finished", "failed: out of memory", "not run"))
    found = claims(costs, compare(random_scores(3, ("segresnet",))))
    assert found["segresnet_against_unet3d"] == ("not compared: 3D U-Net failed: out of memory", 0)
    assert found["unet25d_against_unet3d"][0] == "not compared: 2.5D U-Net not run; 3D U-Net failed: out of memory"
    assert set(found) == set(reported()[EXPERIMENT])


def test_metrics_are_named_as_the_report_names_them():
    assert [label(metric) for metric in ("mean_dice", "dice_NCR", "hd_TC", "hd95_WT")] == [
        *("mean Dice", "Dice NCR", "HD TC", "HD95 WT")
    ]


# Backends -------------------------------------------------------------------------------------------------------------


def test_differences_of_probabilities_by_hand():
    reference = np.zeros((1, 4, 1, 1, 5), np.float32)
    reference[0, 0] = 0.7
    reference[0, 1] = 0.3
    other = reference.copy()
    other[0, :2, 0, 0, 4] = 0.45, 0.55  # one voxel of five takes another label, by 0.25
    found = backends.difference(reference, other)
    assert found == {"largest_difference": pytest.approx(0.25), "equal_labels": pytest.approx(0.8)}


@pytest.fixture
def compared(cohort, tmp_path):
    """An open comparison of the tiny cohort."""
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    options = FrameworkOptions(data=cohort, preset="demo", jobs=1, **folders)
    frameworks = replace(DEMO, unet3d=TINY_UNET3D, unet25d=TINY_UNET25D)
    with study(EXPERIMENT, options, frameworks, further_recipes=frameworks.further_recipes) as opened:
        yield opened, frameworks, tmp_path


def test_a_comparison_of_which_no_model_finished_says_why(compared, capsys):
    opened, frameworks, _ = compared
    for model in MODELS:
        folder = opened.run.folder / "models" / model
        folder.mkdir(parents=True)
        (folder / "failure.txt").write_text("not installed: a_package\n")
    summary.summarise(opened, frameworks, backends.read(opened))
    table.show(opened)
    assert capsys.readouterr().out.count("failed: not installed: a_package") >= len(MODELS)
    assert (opened.run.folder / "summary.json").exists()


def test_backends_begin_with_one_file_of_weights_and_are_compared_with_the_first(compared, monkeypatch):
    """Every process is played by this one, so that the second finds the first one's numbers, bit for bit."""
    opened, frameworks, _ = compared
    called = []

    def run(python, function, folder, *, packages, backend, failure):
        called.append((folder.parent.name, backend, packages[-1], str(python)))
        if backend == "jax":
            failure.write_text("not installed: jax (for python)\n")
        elif folder.parent.name == "unet3d":
            backends.measure(folder)

    monkeypatch.setattr(processes, "run", run)
    interpreters = {backend: Path(f"{backend}/python") for backend in BACKENDS}
    backends.run_backends(opened, frameworks, interpreters)
    assert called == [
        (network, backend, backend, f"{backend}/python") for network, backend in product(backends.NETWORKS, BACKENDS)
    ]
    found = backends.read(opened).set_index(["network", "backend"])
    assert found["state"].tolist() == [
        *("finished", "finished", "not installed: jax (for python)"),
        *("not run", "not run", "not installed: jax (for python)"),
    ]
    first, second = found.loc[("unet3d", "tensorflow")], found.loc[("unet3d", "torch")]
    assert pd.isna(first["against"])
    assert (second["against"], second["largest_difference"], second["equal_labels"]) == ("tensorflow", 0, 1)
    assert (first["seconds_per_step"] > 0, first["steps"], first["n"]) == (True, backends.STEPS, 1)
    probabilities = np.load(backends.folder_of(opened, "unet3d", "tensorflow") / backends.REFERENCE)
    assert probabilities.shape == (1, 4, 16, 16, 16)
    # Where one class is the most probable everywhere, a wrong backend's labels would be right.
    assert 0.1 < np.mean(probabilities.argmax(1) == 0) < 0.9

    import h5py

    with h5py.File(backends.folder_of(opened, "unet3d", "tensorflow").with_name("initial.weights.h5"), "r+") as file:
        kernels = []
        file.visititems(lambda _, item: kernels.append(item) if getattr(item, "ndim", 0) > 1 else None)
        kernels[0][...] = 1.1 * kernels[0][...]
    (backends.folder_of(opened, "unet3d", "torch") / backends.FOUND).unlink()
    called.clear()
    backends.run_backends(opened, frameworks, interpreters)
    assert ("unet3d", "tensorflow", "tensorflow", "tensorflow/python") not in called
    assert backends.read(opened).set_index(["network", "backend"]).loc[("unet3d", "torch"), "largest_difference"] > 1e-3


# The command ----------------------------------------------------------------------------------------------------------


def test_a_subject_that_one_recipe_cannot_prepare_is_bad_for_all(tmp_path):
    """A longer brain does not fit the grid that the U-Nets' crops are counted on; the SegResNet takes any."""
    data = write_cohort(tmp_path / "cohort", 4)
    write_subject(data, "BraTS_long", 9, shape=(40, 48, 50))
    frameworks = replace(DEMO, unet3d=TINY_UNET3D, unet25d=TINY_UNET25D)
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    options = Options(data=data, preset="demo", jobs=1, **folders)

    def left_out(options):
        with study(EXPERIMENT, options, frameworks, further_recipes=frameworks.further_recipes) as opened:
            assert "BraTS_long" not in (*opened.split.train, *opened.split.validation, *opened.split.test)
            return opened.left_out

    with pytest.raises(SystemExit, match="1 subjects cannot be used:\n  BraTS_long: "):
        left_out(options)
    assert left_out(replace(options, leave_out_bad=True)) == ("BraTS_long",)


def summary_of(folder):
    lines = json.loads((folder / "summary.json").read_text())
    assert len({line["key"] for line in lines}) == len(lines)
    return {line["key"].removeprefix(f"{EXPERIMENT}."): line for line in lines}


def nowhere(*names):
    return [each for name in names for each in ("--python", f"{name}=no/such/python")]


def test_finished_models_are_compared_and_failed_ones_are_shown(run_module, cohort, tmp_path):
    command = (MODULE, "--data", cohort, *TINY, *nowhere("unet25d", *BACKENDS))
    done = run_module(*command)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / EXPERIMENT).iterdir()
    found = summary_of(folder)
    assert set(reported()[EXPERIMENT]) <= set(found)
    assert found["segresnet_better_on"]["reported"] == "Dice NCR, HD TC and HD WT"
    scores = [found[f"{model}__mean_dice"]["value"] for model in ("segresnet", "unet3d")]
    assert found["segresnet_minus_unet3d__mean_dice"]["value"] == pytest.approx(scores[0] - scores[1])
    failed = found["unet25d__mean_dice"]
    assert failed["value"].startswith("failed: no/such/python: expected a Python interpreter")
    assert failed["n"] == 0
    assert found["unet25d_against_unet3d"]["value"].startswith("not compared: 2.5D U-Net failed: no/such/python")
    assert found["geometric_ceiling.unet3d__mean_dice"]["value"] > scores[1]
    assert found["backend_jax__unet25d_seconds_per_step"]["value"].startswith("failed: no/such/python")

    models = pd.read_csv(folder / "models.csv").set_index("model")
    assert list(models.index) == list(MODELS)
    assert models.loc["unet3d", ["epochs", "steps", "training"]].tolist() == [2, 2 * 4, "here"]
    assert models.loc["unet3d", "seconds_per_epoch"] == pytest.approx(4 * models.loc["unet3d", "seconds_per_step"])
    assert models["parameters"].isna().tolist() == [False, False, True]
    test = json.loads((folder / "split.json").read_text())["test"]
    for model in ("segresnet", "unet3d"):
        cases = pd.read_csv(folder / "cases.csv").query("model == @model")
        assert cases[cases["view"].isna()]["case"].tolist() == test
        assert [(folder / "models" / model / "predictions" / f"{case}.nii.gz").exists() for case in test] == [True]
    assert pd.read_csv(folder / "comparisons.csv")["metric"].tolist() == list(COMPARED)
    assert pd.read_csv(folder / "backends.csv")["state"].str.startswith("failed: no/such/python").all()
    assert imread(folder / "figures" / "comparison.png").shape[1] > 1000
    said = ("2.5D U-Net failed: no/such/python", "no test with 1 test case", "3D U-Net on jax failed", "left out: 0")
    for words in said:
        assert words in done.stdout

    # The SegResNet's training is now another experiment's; the 3D U-Net has nothing left to do.
    elsewhere = tmp_path / "runs" / "table2_final" / "seed0"
    elsewhere.parent.mkdir()
    (folder / "models" / "segresnet").rename(elsewhere)
    finished = folder / "models" / "unet3d" / "summary.json"
    written = finished.stat().st_mtime_ns
    done = run_module(*command)
    assert done.returncode == 0, done.stderr
    assert finished.stat().st_mtime_ns == written
    adopted = folder / "models" / "segresnet"
    for name in ("history.csv", "checkpoints/best.pt"):
        assert (adopted / name).read_bytes() == (elsewhere / name).read_bytes()
    assert summary_of(folder)["segresnet__mean_dice"] == found["segresnet__mean_dice"]
    models = pd.read_csv(folder / "models.csv").set_index("model")
    assert models.loc["segresnet", "training"].endswith("trained in runs/table2_final/seed0")
    costs = [json.loads((each / "costs.json").read_text()) for each in (adopted, elsewhere)]
    assert costs[0]["parameters"] == costs[1]["parameters"]
    assert costs[0]["seconds_per_step"] != costs[1]["seconds_per_step"]  # measured again


def test_a_wrong_name_of_an_interpreter_ends_the_command_at_once(monkeypatch, cohort, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "--data", str(cohort), "--python", "pytorch=python"])
    with pytest.raises(SystemExit, match="error: expected --python NAME=PATH"):
        main()
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_all_models_and_backends_from_scans_to_the_table(run_module, cohort, tmp_path):
    done = run_module(MODULE, "--data", cohort, *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / EXPERIMENT).iterdir()
    assert pd.read_csv(folder / "models.csv")["state"].tolist() == ["finished"] * 3
    found = pd.read_csv(folder / "backends.csv")
    assert found["state"].tolist() == ["finished"] * 6
    assert found["largest_difference"].max() < backends.EXPECTED_DIFFERENCE
    assert (found["equal_labels"].dropna() > 0.999).all()
    assert summary_of(folder)["backend_jax__seconds_per_step"]["value"] > 0
