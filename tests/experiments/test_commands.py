"""What every command promises: help that reads well, no framework before it is needed, the right preset."""

import subprocess
import sys

import pytest

from experiments.base import options as options_of_commands
from experiments.base.options import command_line
from experiments.segmentation.options import Options
from experiments.table1_baseline import DEMO, PAPER
from segresnet_monai.config import Config
from tests.experiments.conftest import ROOT, environment

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "monai", "lightning")


@pytest.mark.parametrize(
    "module",
    [
        "experiments.table1_baseline",
        "experiments.cohort",
        "experiments.__main__",
        "experiments.segmentation.opening",
        "experiments.table1_variations",
        "experiments.table2_final",
        "experiments.mgmt_ensemble",
        "experiments.mgmt_grid",
        "experiments.mgmt_explain",
        "experiments.mgmt_external",
        "experiments.run_all",
        "experiments.train",
        "experiments.segmentation.unet_claims",
        "experiments.report",
    ],
)
def test_importing_an_experiment_loads_no_framework(module):
    program = f"import sys, {module}; print(sorted(set(sys.modules) & set({FRAMEWORKS})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "experiments",
        "experiments.table1_baseline",
        "experiments.table1_variations",
        "experiments.table2_final",
        "experiments.cohort",
        "experiments.run_all",
        "experiments.mgmt_ensemble",
        "experiments.report",
        "experiments.train",
        "experiments.from_dicom",
        "segresnet_monai.predict",
        "common.dicom.mgmt_cohort",
        "mgmt_classifier.predict",
    ],
)
def test_help_names_its_command_and_what_it_does(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"usage: python -m {module} ")
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "preset", "config"),
    [
        ([], "demo", DEMO),
        (["--data", "folder"], "paper", PAPER),
        (["--data", "folder", "--preset", "demo"], "demo", DEMO),
        (["--preset", "paper"], "paper", PAPER),
    ],
)
def test_the_preset_follows_from_the_data_unless_it_is_named(monkeypatch, arguments, preset, config):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    options, chosen = command_line("table1_baseline", {"paper": PAPER, "demo": DEMO}, "", options_type=Options)
    assert (options.preset, chosen) == (preset, config)
    monkeypatch.setattr(sys, "argv", ["program", *arguments, "--model.epochs", "7"])
    assert command_line("table1_baseline", {"paper": PAPER, "demo": DEMO}, "", options_type=Options)[1].epochs == 7


def test_the_paper_preset_is_the_reports():
    assert Config() == PAPER


def test_what_is_not_the_presets_is_kept_and_a_preset_for_a_gpu_says_so_without_one(monkeypatch, capsys):
    def asked(*arguments):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        return command_line("table1_baseline", {"paper": PAPER, "demo": DEMO}, "", options_type=Options)[0].changed

    monkeypatch.setattr(options_of_commands, "gpus", list)
    assert asked() == ()
    differing = ("--model.epochs", "7", "--model.crop-voxels", "32", "48", "40")
    assert asked(*differing) == ("crop_voxels=(32, 48, 40)", "epochs=7")
    assert not capsys.readouterr().err
    assert asked("--preset", "paper") == ()
    assert capsys.readouterr().err.splitlines() == [
        "note: no GPU is found here, and preset paper is made for one",
        # 300 epochs of 100 patients, 10 to 30 s each: 3.5 and 10.4 days
        "      a training of 300 epochs takes 3 days to 10 days here for every 100 patients that it trains on; "
        "stopped, it goes on",
        "      for less: --preset demo, which takes minutes, or --max-subjects 10 --model.epochs 5",
    ]
    asked("--preset", "paper", "--on", "slurm", "--dry-run")
    monkeypatch.setattr(options_of_commands, "gpus", lambda: ["a card"])
    asked("--preset", "paper")
    assert not capsys.readouterr().err
