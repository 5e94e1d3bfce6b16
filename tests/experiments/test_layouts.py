"""Every layout through audit and study: the same phantoms, in whatever layout, are prepared to the same voxels."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common import prepared
from common.cohort import find_subjects
from common.labels import BRATS_2018
from common.recipe import Recipe
from common.runs import Run
from experiments import cohort as audit
from experiments.base.options import Refused
from experiments.base.reading import Reading, kept
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options, refuse_contradictions
from experiments.segmentation.study import restored
from tests.cohorts import write_cohort
from tests.layouts import write_2023, write_bids, write_ucsf, write_upenn

SHAPE = (20, 24, 18)
SEEDS = range(4)


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a study needs."""

    devices: int = 1
    nodes: int = 1
    processes_per_node: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe(crop=((2, 18), (2, 22), (1, 17)), extent=SHAPE))


def ucsf(folder):
    return write_ucsf(folder, {f"{10 + seed:04d}": seed for seed in SEEDS})


def upenn(folder):
    return write_upenn(folder, {f"{10 + seed:05d}_11": "manual" for seed in SEEDS})


def africa(folder):
    return write_2023(folder / "95_Glioma", "SSA", {f"{10 + seed:05d}-000": seed for seed in SEEDS}).parent


def after_treatment(folder):
    return write_2023(folder, "GLI", {f"{10 + seed:05d}-100": seed for seed in SEEDS})


def mapped(folder):
    words = {"FLAIR": "FLAIR", "T1": "T1w", "T1ce": "ce-gadolinium_T1w", "T2": "T2w"}
    own = "{patient}/{session}/anat/{patient}_{session}_"
    lines = [f'{contrast} = "{own}{word}.nii.gz"' for contrast, word in words.items()]
    lines += [f'label = "derivatives/masks/{own}dseg.nii.gz"', 'labels = "brats2018"']
    folder.mkdir(parents=True)
    (folder.parent / "own.toml").write_text("\n".join(lines), encoding="utf-8")
    return write_bids(folder, {(f"sub-{10 + seed}", "ses-1"): seed for seed in SEEDS}, BRATS_2018)


def options_for(tmp_path, data, **changes):
    return Options(data=data, preset="demo", jobs=1, runs=tmp_path / "runs", prepared=tmp_path / "prepared", **changes)


@pytest.fixture(scope="module")
def voxels(tmp_path_factory):
    """What the recipe makes of the same phantoms in the layout of BraTS 2018."""
    folder = tmp_path_factory.mktemp("brats")
    found = find_subjects(write_cohort(folder / "scans", len(SEEDS), shape=SHAPE)).subjects
    store = prepared.prepare(found, Stub().recipe, folder / "prepared", n_jobs=1)
    return [store.entries[subject.id].open().voxels for subject in found]


@pytest.mark.parametrize("write", [ucsf, upenn, africa, after_treatment, mapped])
def test_every_layout_is_prepared_to_the_voxels_of_brats(write, tmp_path, voxels):
    data = write(tmp_path / "data")
    options = options_for(
        tmp_path, data, cavity="background", layout=tmp_path / "own.toml" if write is mapped else None
    )
    with study("stub", options, Stub()) as opened:
        entries = [opened.store.entries[subject.id] for subject in opened.cohort.subjects]
        assert len(opened.split.train) + len(opened.split.validation) + len(opened.split.test) == len(SEEDS)
        training = opened.training("stub", "stub", Stub(), tmp_path / "training")
    for entry, expected in zip(entries, voxels, strict=True):
        np.testing.assert_array_equal(entry.open().voxels, expected)
    with Run(training.folder) as run:
        again = restored(run, Stub())
    assert [subject.id for subject in again.cohort.subjects] == [entry.id for entry in entries]


def test_the_layout_is_found_again_from_another_folder(tmp_path, monkeypatch):
    mapped(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    options = replace(options_for(tmp_path, tmp_path / "data"), layout=(tmp_path / "own.toml").relative_to(tmp_path))
    with study("stub", options, Stub()) as opened:
        monkeypatch.chdir("/")
        written = json.loads((opened.run.folder / "config.json").read_text())["options"]
        assert len(kept(written).find(tmp_path / "data").subjects) == len(SEEDS)


def test_a_network_refuses_the_cavity_and_leaving_out_bad_subjects_decides_nothing(tmp_path, capsys):
    numbers = {f"{10 + seed:05d}-100": seed for seed in range(6)}
    data = write_2023(tmp_path / "data", "GLI", numbers, resected=("00011-100", "00013-100"))
    for bad in (False, True):
        with (
            pytest.raises(SystemExit, match=r"6 of 6 that may hold the resection cavity \(RC\).*--cavity background"),
            study("stub", options_for(tmp_path, data, leave_out_bad=bad), Stub()),
        ):
            pass
    with study("stub", options_for(tmp_path, data, cavity="leave-out"), Stub()) as opened:
        kept_ids = sorted(opened.split.train + opened.split.validation + opened.split.test)
        assert kept_ids == [f"BraTS-GLI-{number}" for number in numbers if number not in ("00011-100", "00013-100")]
        written = json.loads((opened.run.folder / "data.json").read_text())
        assert written["left_out_for_their_cavity"] == ["BraTS-GLI-00011-100", "BraTS-GLI-00013-100"]
        assert written["left_out"] == []
        opened.end()
    assert "2 subjects take no part, as their masks hold the resection cavity (RC)" in capsys.readouterr().out
    with study("stub", options_for(tmp_path, data, cavity="background"), Stub()) as opened:
        entry = opened.store.entries["BraTS-GLI-00011-100"]
        labels = entry.open().voxels[-1]
        assert set(np.unique(labels)) == {0, 2, 3}
    subjects = find_subjects(data).subjects
    with pytest.raises(ValueError, match="found 6 in which RC is a class"):
        prepared.prepare(subjects, Stub().recipe, tmp_path / "prepared", n_jobs=1)


def test_a_damaged_subject_beside_cavities_is_still_a_bad_one(tmp_path):
    data = write_2023(tmp_path / "data", "GLI", {f"{10 + seed:05d}-100": seed for seed in SEEDS})
    file = data / "BraTS-GLI-00012-100" / "BraTS-GLI-00012-100-seg.nii.gz"
    mask = nib.load(file)
    nib.save(nib.Nifti1Image(np.where(np.asarray(mask.dataobj) == 2, 9, 0).astype(np.uint8), mask.affine), file)
    with (
        pytest.raises(SystemExit, match=r"1 subject cannot be used:\n.*00012-100: mask values \[9\]"),
        study("stub", options_for(tmp_path, data, cavity="leave-out"), Stub()),
    ):
        pass


def test_the_audit_shows_the_cavity_as_a_class_of_its_own(tmp_path, capsys):
    data = write_2023(
        tmp_path / "data", "GLI", {f"{10 + seed:05d}-100": seed for seed in SEEDS}, resected=("00012-100",)
    )
    audit.check(audit.Options(data=data, runs=tmp_path / "runs", jobs=1))
    printed = capsys.readouterr().out
    assert "4 masks are read as brats2024 (1 NCR, 2 ED, 3 ET, 4 RC), by their names" in printed
    assert "1 of 4 masks that may hold the resection cavity (RC) do, of " in printed
    (folder,) = (tmp_path / "runs" / "cohort").iterdir()
    lines = {line["key"]: line["value"] for line in json.loads((folder / "summary.json").read_text())}
    assert (lines["cohort.subjects"], lines["cohort.subjects_with_problems"]) == (4, 0)


def test_the_audit_takes_a_mapping_file(tmp_path, capsys):
    data = mapped(tmp_path / "data")
    audit.check(audit.Options(data=data, layout=tmp_path / "own.toml", runs=tmp_path / "runs", jobs=1))
    assert "4 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by own.toml" in capsys.readouterr().out


def test_options_of_a_reading_without_scans_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"expected --data beside --layout own\.toml"):
        refuse_contradictions(Options(preset="demo", layout=Path("own.toml")))
    with pytest.raises(Refused, match="expected --data beside --layout and --cavity"):
        audit.refuse_contradictions(audit.Options(mgmt_data=tmp_path, layout=tmp_path, cavity="background"))


def test_older_runs_say_less_of_their_reading():
    assert kept({"convention": "msd", "preset": "demo"}) == Reading(convention="msd")
    assert kept({}) == Reading()
