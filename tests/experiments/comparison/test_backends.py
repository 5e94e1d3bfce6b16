"""One network on several backends: differences by hand, and what each is compared with."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import write_text
from common.runs import Run, describe
from experiments.base.trainings import given
from experiments.compare_frameworks import DEMO, FrameworkOptions
from experiments.comparison import BACKENDS, EXPERIMENT, MODELS, backends, models, summary, table
from experiments.segmentation.adopted import adopt_training
from experiments.segmentation.opening import study
from experiments.segmentation.study import restored
from tests.experiments.test_compare_frameworks import TINY_UNET3D, TINY_UNET25D


def test_differences_of_probabilities_by_hand():
    reference = np.zeros((4, 5), np.float32)
    reference[0] = 0.7
    reference[1] = 0.3
    other = reference.copy()
    other[:2, 4] = 0.45, 0.55  # one voxel of five takes another label, by 0.25
    found = backends.difference(reference, other, regions=False)
    assert found == {"largest_difference": pytest.approx(0.25), "equal_labels": pytest.approx(0.8)}
    # As regions, one of its two that are above 0.5 is so no more, and one more is above it: one voxel.
    found = backends.difference(reference, other, regions=True)
    assert found["equal_labels"] == pytest.approx(0.8)
    other[0, :3] = 0.6
    assert backends.difference(reference, other, regions=True)["equal_labels"] == pytest.approx(0.8)


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
    summary.summarise(opened, frameworks.configs, backends.read(opened))
    table.show(opened)
    assert capsys.readouterr().out.count("failed: not installed: a_package") >= len(MODELS)
    assert (opened.run.folder / "summary.json").exists()


def test_a_segresnet_that_table2_final_has_trained_is_taken_over(compared, monkeypatch):
    """Its training knows nothing of Keras' backends; the U-Nets' do."""
    opened, frameworks, runs = compared
    monkeypatch.setattr(models, "lacks", lambda python, packages: None)
    wanted = models.trainings(opened, frameworks.configs, dict.fromkeys(MODELS, Path("python")))
    folders = {each.name: each.folder for each in wanted}
    backend = {name: given(folder).get("backend") for name, folder in folders.items()}
    assert backend == {"segresnet": None, "unet3d": "tensorflow", "unet25d": "tensorflow"}
    trained = runs / "runs" / "table2_final" / "demo" / "seed0"
    data, split = given(opened.run.folder, "data"), opened.split.as_dict()
    config = {"model": asdict(frameworks.segresnet), "grid": asdict(frameworks.segresnet.recipe.grid)}
    describe(trained, config=config, data=data, split=split)
    for name in ("checkpoints/best.pt", "history.csv", "costs.json", "summary.json"):
        write_text(trained / name, name)
    with Run(folders["segresnet"]) as run:
        assert adopt_training(restored(run, frameworks.segresnet), frameworks.segresnet) == trained


def test_backends_begin_with_one_file_of_weights_and_are_compared_with_the_first(compared, monkeypatch):
    """Every process is played by this one, so that the second finds the first one's numbers, bit for bit."""
    opened, frameworks, _ = compared
    interpreters = {backend: Path(f"{backend}/python") for backend in BACKENDS}
    lacking = "not installed: jax (for python)"
    monkeypatch.setattr(backends, "lacks", lambda python, packages: lacking if packages[-1] == "jax" else None)
    wanted = backends.trainings(opened, frameworks.configs, interpreters)
    assert [(each.name, each.argv[0], each.after) for each in wanted] == [
        (f"{network} on {backend}", f"{backend}/python", after)
        for network in backends.NETWORKS
        for backend, after in (("tensorflow", ()), ("torch", (f"{network} on tensorflow",)))
    ]
    for each in wanted[:2]:
        backends.measure(each.folder)
    found = backends.read(opened).set_index(["network", "backend"])
    assert found["state"].tolist() == ["finished", "finished", lacking, "not run", "not run", lacking]
    first, second = found.loc[("unet3d", "tensorflow")], found.loc[("unet3d", "torch")]
    assert pd.isna(first["against"])
    assert (second["against"], second["largest_difference"], second["equal_labels"]) == ("tensorflow", 0, 1)
    assert (first["seconds_per_step"] > 0, first["steps"], first["n"]) == (True, backends.STEPS, 1)
    reference = backends.folder_of(opened, "unet3d", "tensorflow")
    probabilities = np.load(reference / backends.REFERENCE)
    assert probabilities.shape == (4, 16**3)
    # Where one class is the most probable everywhere, a wrong backend's labels would be right.
    assert 0.1 < np.mean(probabilities.argmax(0) == 0) < 0.9

    import h5py

    with h5py.File(reference.with_name("initial.weights.h5"), "r+") as file:
        kernels = []
        file.visititems(lambda _, item: kernels.append(item) if getattr(item, "ndim", 0) > 1 else None)
        kernels[0][...] = kernels[0][...][::-1]  # a factor would be normalised away
    other = backends.folder_of(opened, "unet3d", "torch")
    (other / backends.FOUND).unlink()
    backends.measure(other)
    assert backends.read(opened).set_index(["network", "backend"]).loc[("unet3d", "torch"), "largest_difference"] > 1e-3
