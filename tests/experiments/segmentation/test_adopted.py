"""Which run is shown, and which training may stand for another's: the same settings, split and data, or none."""

import json
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
import pytest

from common.files import write_json
from common.recipe import Recipe
from experiments.segmentation.adopted import adopt_training
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from tests.cohorts import write_cohort


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a training depends on."""

    epochs: int = 3
    devices: int = 1
    nodes: int = 1
    processes_per_node: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",)))


def opened(data, tmp_path, name, config, **changes):
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    return study(name, Options(data=data, preset="demo", jobs=1, **folders, **changes), config)


@pytest.fixture
def trained(cohort, tmp_path):
    """The folder of a finished run, as a training leaves it; the weights are told by their bytes."""
    with opened(cohort, tmp_path, "first", Stub()) as first:
        first.run.history.append({"epoch": 3, "loss": 0.5})
        (first.run.folder / "costs.json").write_text('{"parameters": 7}')
        first.run.checkpoints.mkdir()
        (first.run.checkpoints / "best.pt").write_bytes(b"weights of the first run")
        (first.run.folder / "summary.json").write_text("[]")
        yield first.run.folder


def test_a_training_with_the_same_settings_split_and_data_is_taken_over(trained, cohort, tmp_path):
    with opened(cohort, tmp_path, "second", Stub()) as second:
        assert adopt_training(second, Stub()) == trained
        for name in ("checkpoints/best.pt", "history.csv", "costs.json"):
            assert (second.run.folder / name).read_bytes() == (trained / name).read_bytes()
        assert str(trained) in (second.run.folder / "adopted.txt").read_text()
        assert not second.run.is_finished


@pytest.mark.parametrize("difference", ["settings", "split", "data", "unfinished"])
def test_any_other_training_is_not(trained, cohort, tmp_path, difference):
    config, data, changes = Stub(), cohort, {}
    if difference == "settings":
        config = replace(config, epochs=4)
    elif difference == "split":
        changes = {"split_seed": 1}
    elif difference == "data":
        data = write_cohort(tmp_path / "other", 6)
        mask = next(data.glob("*/*_seg.nii.gz"))
        mask.write_bytes(with_another_voxel(mask))
    else:
        (trained / "summary.json").unlink()
    with opened(data, tmp_path, "second", config, **changes) as second:
        if difference == "split":
            assert json.loads((trained / "split.json").read_text()) != second.split.as_dict()
        assert adopt_training(second, config) is None
        assert not second.run.checkpoints.exists()


@pytest.mark.parametrize("moved", [{}, {"000": "turned"}])
def test_one_that_took_scans_as_they_lay_is_taken_over_where_none_has_to_be_moved(trained, cohort, tmp_path, moved):
    config = json.loads((trained / "config.json").read_text())
    del config["grid"]
    write_json(trained / "config.json", config)
    with opened(cohort, tmp_path, "second", Stub()) as second:
        data = json.loads((second.run.folder / "data.json").read_text())
        write_json(second.run.folder / "data.json", data | {"brought_to_grid": moved})
        assert adopt_training(second, Stub()) == (None if moved else trained)


def with_another_voxel(mask):
    image = nib.load(mask)
    labels = np.asarray(image.dataobj).copy()
    labels.flat[np.flatnonzero(labels)[0]] = 0
    copy = mask.parent.parent / "changed.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine, image.header), copy)
    content = copy.read_bytes()
    copy.unlink()
    return content
