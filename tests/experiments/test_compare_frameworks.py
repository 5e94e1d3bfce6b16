"""The comparison of frameworks: the same cases for every model, processes that say why they failed, honest words."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from experiments import compare_frameworks, table1_variations, unet3d, unet25d
from experiments.base.options import Refused
from experiments.base.results import reported
from experiments.compare_frameworks import DEMO, EQUAL_DEMO, EQUAL_PAPER, PAPER, Equal, FrameworkOptions, main
from experiments.comparison import BACKENDS, EQUAL, EXPERIMENT, MODELS, backends, summary, table
from experiments.comparison.models import COMPARED
from experiments.evaluation import evaluate, inputs
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from tests.cohorts import write_cohort, write_subject
from tests.experiments.conftest import ROOT
from tests.experiments.evaluation.finished import write_run

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
    modules = "equal", "models", "summary", "table", "picture", "backends", "interpreters"
    program = (
        "import sys; from experiments import compare_frameworks;"
        f"from experiments.comparison import {', '.join(modules)};"
        f"print({FRAMEWORKS} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


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

    with pytest.raises(SystemExit, match="1 subject cannot be used:\n  BraTS_long: "):
        left_out(options)
    assert left_out(replace(options, leave_out_bad=True)) == ("BraTS_long",)


def summary_of(folder):
    lines = json.loads((folder / "summary.json").read_text())
    assert len({line["key"] for line in lines}) == len(lines)
    return {line["key"].removeprefix(f"{EXPERIMENT}."): line for line in lines}


def nowhere(*names):
    return [each for name in names for each in ("--python", f"{name}=no/such/python")]


@pytest.mark.slow
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
    said = (
        "2.5D U-Net failed: no/such/python",
        "no test with 1 test case",
        "failed or missing: 2.5D U-Net, 3D U-Net on ",
        "left out: 0",
    )
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
    assert models.loc["segresnet", "training"].endswith("runs/table2_final/seed0")
    costs = [json.loads((each / "costs.json").read_text()) for each in (adopted, elsewhere)]
    assert costs[0]["parameters"] == costs[1]["parameters"]
    assert costs[0]["seconds_per_step"] != costs[1]["seconds_per_step"]  # measured again


def test_a_wrong_name_of_an_interpreter_ends_the_command_at_once(monkeypatch, cohort, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "--data", str(cohort), "--python", "pytorch=python"])
    with pytest.raises(SystemExit, match="error: expected --python NAME=PATH"):
        main()
    assert not any(tmp_path.iterdir())


def test_another_method_is_checked_before_the_trainings_and_scored_beside_the_networks(
    monkeypatch, cohort, tmp_path, capsys
):
    """Everything but the trainings: the SegResNet's run is put where it would have made it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(evaluate, "_draw", lambda *_: [])
    monkeypatch.setattr(compare_frameworks, "run", lambda *_: pytest.fail("trained"))
    program = ["program", "--data", str(cohort), *TINY, "--predictions", "nnunet=theirs", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", program)
    with pytest.raises(SystemExit, match="theirs: expected nnunet's label maps, named as the cohort's cases"):
        main()
    for case in sorted(path.name for path in cohort.iterdir()):
        (tmp_path / "theirs" / f"{case}.nii.gz").symlink_to(cohort / case / f"{case}_seg.nii.gz")
    with pytest.raises(SystemExit, match=r"could be read as brats2018 .*: --convention-of nnunet=brats2018 \(or"):
        main()
    known = ["--convention-of", "nnunet=brats2018"]
    for name in ("segresnet", "nnunet"):
        monkeypatch.setattr(sys, "argv", [*program, *known, "--predictions", f"{name}=theirs"])
        with pytest.raises(SystemExit, match=f"another name for each method, received {name} several times"):
            main()
    monkeypatch.setattr(summary, "summarise", lambda *_: None)
    monkeypatch.setattr(table, "show", lambda *_: None)
    monkeypatch.setattr(sys, "argv", [*program, *known])
    with monkeypatch.context() as patch:
        patch.setattr(inputs.grids, "problem", lambda *_: "says nothing of where it lies")
        with pytest.raises(SystemExit, match=r"1 case cannot be used:\n  .*: nnunet: says nothing of where it lies"):
            main()
    with monkeypatch.context() as patch:
        patch.setattr(compare_frameworks, "run", lambda *_: None)
        main()
    assert "no network is finished: the label maps of --predictions are not scored" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "score").exists()

    def trained(trainings, options):
        folder = next(each.folder for each in trainings if each.name == "segresnet")
        write_run(folder, cohort, json.loads((folder / "split.json").read_text())["test"], 1)

    monkeypatch.setattr(compare_frameworks, "run", trained)
    main()
    printed = capsys.readouterr().out
    assert "nnunet - segresnet" in printed
    (folder,) = (tmp_path / "runs" / "score").glob("*methods*")
    cases = pd.read_csv(folder / "cases.csv").set_index("method")
    assert cases.loc["nnunet", "dice_WT"] == 1 > cases.loc["segresnet", "dice_WT"]


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


# Equal recipes --------------------------------------------------------------------------------------------------------


TINY_EQUAL = (
    *("--recipe", "equal", "--preset", "demo", "--jobs", "2"),
    *("--model.segresnet.spacing-mm", "None", "--model.segresnet.crop-voxels", "16", "32", "16"),
    *("--model.segresnet.epochs", "3", "--model.segresnet.crops-per-epoch", "2", "--model.segresnet.precision"),
    *("float32", "--model.segresnet.no-average-flips"),
)
NAMED_OTHERWISE = {"initial_filters": "filters", "encoder_blocks": None, "decoder_blocks": None, "network": None}
WITHOUT_EFFECT = {
    "nodes",
    "vae",
    "vae_weight",
    "recompute_activations",
    "supervised_levels",
    "continued_from",
    "slices",
    "extent",
}
WITHOUT_EFFECT |= {"continued_rate", "mixed_precision"}


@pytest.mark.parametrize("preset", [EQUAL_PAPER, EQUAL_DEMO])
def test_the_unets_follow_every_setting_of_the_segresnet(preset):
    """A setting that is added to the SegResNet fails here until the U-Nets follow it."""
    for name, config in preset.configs.items():
        assert config.recipe == preset.recipe
        if name == "segresnet":
            continue
        for field in fields(preset.segresnet):
            ours = NAMED_OTHERWISE.get(field.name, field.name)
            if ours is None or field.name in WITHOUT_EFFECT:
                continue
            wanted = getattr(preset.segresnet, field.name)
            if field.name == "workers":
                wanted = max(1, wanted)
            assert getattr(config, ours) == wanted, field.name
        assert (config.schedule, config.patience, config.minimum_mask_fraction) == ("cosine", None, 0)
        assert (config.opening_voxels, config.closing_voxels, config.minimum_component_voxels) == (0, 0, 0)
        assert config.spatial_dims == (3 if name == "unet3d" else 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": "classes"}, "targets to be regions"),
        ({"network": "segresnet_ds", "supervised_levels": 2}, "supervised_levels to be 1"),
        ({"loss": "dice_bce"}, "loss to be batch_dice_bce"),
        ({"slices": (60, 135)}, "slices to be None"),
        ({"nodes": 2, "batch_size": 2}, "nodes to be 1: each network"),
        ({"precision": None}, "precision to be one of auto, float32"),
        ({"crop_voxels": (40, 48, 48)}, "crop_voxels to be positive, multiples of 16"),
    ],
)
def test_a_recipe_that_the_unets_cannot_follow_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Equal(segresnet=replace(EQUAL_DEMO.segresnet, **change))


@pytest.mark.slow
def test_equal_recipes_are_compared_in_a_folder_of_their_own(run_module, cohort, tmp_path):
    done = run_module(MODULE, "--data", cohort, *TINY_EQUAL, *nowhere("unet3d", *BACKENDS))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / EQUAL).iterdir()
    lines = json.loads((folder / "summary.json").read_text())
    assert {line["key"].partition(".")[0] for line in lines} == {EQUAL}
    assert {line["reported"] for line in lines} == {None}
    models = pd.read_csv(folder / "models.csv").set_index("model")
    assert models.loc[["segresnet", "unet25d"], ["epochs", "steps"]].to_numpy().tolist() == [[3, 6]] * 2
    assert models.loc["unet3d", "state"].startswith("failed")
    configs = [
        json.loads((folder / "models" / model / "config.json").read_text()) for model in ("segresnet", "unet25d")
    ]
    assert len({each["model"]["learning_rate"] for each in configs}) == 1
    assert done.stdout.startswith("one recipe for all models") or "\none recipe for all models" in done.stdout
    assert "reported:" not in done.stdout
