"""A run keeps its folder: a version with more settings finds it, and whatever decides other numbers does not."""

import json
import sys
from dataclasses import dataclass, field

import pytest

from common.recipe import Recipe
from experiments import table1_baseline, unet3d
from experiments.base.results import as_rows
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from tests.cohorts import write_cohort
from tests.experiments.page.report_runs import everything


@dataclass(frozen=True, kw_only=True)
class Loss:
    weight: float = 0.5
    smooth: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Network:
    """As much of a network's configuration as a study needs."""

    filters: tuple[int, ...] = (8, 16)
    loss: Loss = Loss()
    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",)))


# The same as a later version has them, in which one field more each decides numbers.


@dataclass(frozen=True, kw_only=True)
class LaterLoss(Loss):
    power: int = 2


@dataclass(frozen=True, kw_only=True)
class LaterNetwork(Network):
    loss: LaterLoss = LaterLoss()
    warm_up: int = 0
    decay: tuple[float, ...] = field(default_factory=lambda: (0.9, 0.99))


def opened(data, tmp_path, config, *, backend=None, **changes):
    """The folder of a run of the network."""
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    options = Options(**{"data": data, "preset": "demo", "jobs": 1, **folders, **changes})
    with study("experiment", options, config, backend=backend) as found:
        return found.run.folder


@pytest.fixture
def finished(cohort, tmp_path):
    folder = opened(cohort, tmp_path, Network())
    (folder / "summary.json").write_text("[]")
    return folder


@pytest.mark.parametrize("later", [LaterNetwork(), LaterNetwork(warm_up=0, loss=LaterLoss(power=2))])
def test_a_version_with_more_settings_finds_the_run_where_they_have_their_defaults(finished, cohort, tmp_path, later):
    assert opened(cohort, tmp_path, later) == finished
    assert (finished / "summary.json").exists()
    assert opened(cohort, tmp_path, later, at_once=2, jobs=2, max_subjects=6) == finished  # decide no number


@pytest.mark.parametrize(
    "other",
    [
        LaterNetwork(warm_up=1),
        LaterNetwork(decay=(0.9,)),
        LaterNetwork(loss=LaterLoss(power=3)),
        LaterNetwork(loss=LaterLoss(weight=0.4)),
        LaterNetwork(filters=(8, 17)),
        LaterNetwork(filters=(8,)),
    ],
)
def test_other_values_are_another_run(finished, cohort, tmp_path, other):
    folder = opened(cohort, tmp_path, other)
    assert folder != finished
    assert not (folder / "summary.json").exists()


def test_an_earlier_version_does_not_take_the_later_ones_run_for_its_own(cohort, tmp_path):
    """Of a setting that it does not know it cannot say what it decides."""
    later = opened(cohort, tmp_path, LaterNetwork())
    assert opened(cohort, tmp_path, Network()) != later


def test_another_split_policy_or_cohort_is_another_run(finished, cohort, tmp_path):
    other = write_cohort(tmp_path / cohort.name, 5)  # of the same name
    assert finished.name.startswith(f"demo-{other.name}-")
    folders = [
        opened(cohort, tmp_path, LaterNetwork(), split_seed=1),
        opened(cohort, tmp_path, LaterNetwork(), folds=3, fold=1),
        opened(cohort, tmp_path, LaterNetwork(), empty_masks="ignore"),
        opened(other, tmp_path, LaterNetwork()),
    ]
    assert len({finished, *folders}) == 5


def test_a_backend_of_its_own_is_a_run_of_its_own_and_none_was_tensorflow(finished, cohort, tmp_path):
    assert opened(cohort, tmp_path, Network(), backend="tensorflow") == finished
    assert opened(cohort, tmp_path, LaterNetwork(), backend="tensorflow") == finished
    others = [opened(cohort, tmp_path, LaterNetwork(), backend=backend) for backend in ("torch", "jax")]
    assert len({finished, *others}) == 3
    for folder, backend in zip(others, ("torch", "jax"), strict=True):
        assert json.loads((folder / "config.json").read_text())["backend"] == backend
        (folder / "summary.json").write_text("[]")
    assert [opened(cohort, tmp_path, LaterNetwork(), backend=backend) for backend in ("torch", "jax")] == others


@pytest.mark.parametrize("damage", [("config", "{"), ("data", None), ("split", "[]"), ("config", '{"model": 1}')])
def test_a_folder_that_cannot_be_read_is_no_run_of_this(finished, cohort, tmp_path, damage):
    name, text = damage
    file = finished / f"{name}.json"
    file.unlink() if text is None else file.write_text(text)
    folder = opened(cohort, tmp_path, LaterNetwork())
    assert folder != finished
    assert folder.parent == finished.parent


# Runs of older versions -----------------------------------------------------------------------------------------------


def as_before(folder, digest="0123abcd", lacking=()):
    """A finished run as an older version has left it: named otherwise, without the settings that were added since."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("at_once", "backend"):
        config["options"].pop(name, None)
        config.pop(name, None)
    for name in lacking:
        for model in (config["model"], *(value for value in config["model"].values() if isinstance(value, dict))):
            model.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    prefix = folder.name.rpartition("-")[0]
    return folder.rename(folder.with_name(f"{prefix}-{digest}"))


def nothing_is_trained(*_, **__):
    raise AssertionError("a finished run needs no training")


def main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.EXPERIMENT, *map(str, arguments)])
    module.main()


@pytest.mark.parametrize(("module", "lacking"), [(table1_baseline, "recompute_activations"), (unet3d, "checkpoint")])
def test_a_finished_run_of_an_older_version_is_shown(cohort, tmp_path, monkeypatch, capsys, module, lacking):
    monkeypatch.chdir(tmp_path)
    given = ["--data", cohort, "--preset", "demo", "--jobs", "1", "--runs", "runs"]
    if module is unet3d:
        given += ["--model.minimum-mask-fraction", "0", "--model.crop", "0", "40", "0", "48", "0", "36"]
        given += ["--model.levels", "2", "--model.extent", "40", "48", "36"]
    monkeypatch.setattr("experiments.segmentation.protocol.Study.show", lambda study: None)
    monkeypatch.setattr("experiments.segmentation.training.segresnet", lambda *_: None)
    monkeypatch.setattr("experiments.segmentation.training.unet", lambda *_: None)
    main(module, monkeypatch, *given)
    (folder,) = (tmp_path / "runs" / module.EXPERIMENT).iterdir()
    monkeypatch.undo()

    monkeypatch.chdir(tmp_path)
    folder = as_before(folder, lacking=[lacking])
    assert lacking not in (folder / "config.json").read_text()
    summary = json.dumps(as_rows(everything(module.EXPERIMENT, synthetic=False)))
    (folder / "summary.json").write_text(summary)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("segresnet", "unet"):
        monkeypatch.setattr(f"experiments.segmentation.training.{name}", nothing_is_trained)
    main(module, monkeypatch, *given)
    shown = capsys.readouterr().out
    assert f"run folder: {folder.relative_to(tmp_path)}" in shown
    assert "mean_dice" in shown
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(folder.parent.iterdir()) == [folder]
