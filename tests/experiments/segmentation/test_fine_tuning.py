"""Whom a network has seen, how synthetic patients stay out of the test, and fine-tuning beside its control."""

import json
import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest

from common.files import write_json
from common.phantom import randomised
from common.phantom.cohort import Phantom
from common.phantom.randomised import kind_of, name_of
from common.recipe import Recipe
from common.runs import Run, RunError
from common.scoring import score_cases
from common.subject import Subject
from experiments.base.options import Refused
from experiments.segmentation.adopted import adopt_training
from experiments.segmentation.control import METRICS, compare
from experiments.segmentation.fine_tuning import refuse_seen, seen_by
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options, SegResNetOptions, refuse_contradictions
from experiments.segmentation.study import restored
from segresnet_monai.config import Config
from tests.cohorts import LPS_AFFINE, make_subject
from tests.experiments.conftest import TINY


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a study needs."""

    devices: int = 1
    nodes: int = 1
    processes_per_node: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",)))


@pytest.fixture
def tiny(monkeypatch):
    """Randomised patients that are small and quick."""

    def make(subject, *, seed):
        images, labels = make_subject(1000 + subject)
        classes = np.where(labels == 4, 3, labels).astype(np.uint8)
        return Phantom(name_of(subject), images, classes, LPS_AFFINE, kind_of(subject))

    monkeypatch.setattr(randomised, "make_randomised", make)


def opened(cohort, tmp_path, **changes):
    folders = {name: tmp_path / name for name in ("runs", "prepared", "phantoms")}
    return study("stub", Options(data=cohort, preset="demo", jobs=1, **folders, **changes), Stub())


def test_synthetic_patients_are_trained_on_and_nothing_else(cohort, tmp_path, tiny, capsys):
    with opened(cohort, tmp_path) as plain:
        pass
    with opened(cohort, tmp_path, synthetic=3, synthetic_without=("no_enhancement", "several")) as mixed:
        names = [name_of(number) for number in (0, 3, 4)]  # of seven kinds in turn, without the second and third
        assert [entry.id for entry in mixed.train] == [*plain.split.train, *names]
        assert mixed.split == plain.split
        for part in (mixed.validation, mixed.test):
            assert not {entry.id for entry in part} & set(names)
        data = json.loads((mixed.run.folder / "data.json").read_text())
        assert list(data["randomised"]["subjects"]) == names
        assert set(data["subjects"]).isdisjoint(names)
        assert not mixed.synthetic
        mixed.end()
        assert "trained on 3 randomised synthetic patients too" in capsys.readouterr().out
        assert "synthetic3" in mixed.run.folder.name

        training = mixed.training("segresnet", "one", Stub(), tmp_path / "one")
        with Run(training.folder) as run:
            assert [entry.id for entry in restored(run, Stub()).train] == [entry.id for entry in mixed.train]
        label = tmp_path / "phantoms_randomised" / names[0] / f"{names[0]}_seg.nii.gz"
        label.write_bytes((label.parents[1] / names[1] / f"{names[1]}_seg.nii.gz").read_bytes())
        with Run(training.folder) as run, pytest.raises(RunError, match="expected the synthetic patients"):
            restored(run, Stub())
    assert mixed.run.folder != plain.run.folder
    with opened(cohort, tmp_path, synthetic=2) as fewer:
        assert fewer.run.folder != mixed.run.folder


def test_a_training_whose_scan_is_gone_says_which_and_one_whose_scan_is_another_whose(cohort, tmp_path):
    own = tmp_path / "cohort"
    shutil.copytree(cohort, own)
    with opened(own, tmp_path) as made:
        described = made.training("stub", "stub", Stub(), made.run.folder / "part")
    gone, other = sorted({*made.split.train, *made.split.test})[:2]
    mask = own / other / f"{other}_seg.nii.gz"
    mask.write_bytes((own / gone / f"{gone}_seg.nii.gz").read_bytes())
    with Run(described.folder) as run, pytest.raises(RunError, match=f"was made for, found others: {other}$"):
        restored(run, Stub())
    (own / gone / f"{gone}_t1ce.nii.gz").unlink()
    with Run(described.folder) as run, pytest.raises(RunError, match=f"found\\n  {gone}: missing T1ce"):
        restored(run, Stub())


def test_a_kind_must_be_left(cohort, tmp_path, tiny, capsys):
    with (
        pytest.raises(SystemExit, match="to leave one of the kinds"),
        opened(cohort, tmp_path, synthetic=1, synthetic_without=randomised.KINDS),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"synthetic_without": ("huge",)}, "expected --synthetic beside"), ({"control": True}, "expected --from beside")],
)
def test_an_option_without_the_one_that_it_belongs_to_is_refused(changes, message):
    with pytest.raises(Refused, match=message):
        refuse_contradictions(SegResNetOptions(**changes))


def run_of(folder, train, validation, test, **data):
    subjects = {id: f"files of {id}" for id in (*train, *validation, *test)}
    write_json(folder / "data.json", {"subjects": subjects, **data})
    write_json(folder / "split.json", {"train": train, "validation": validation, "test": test})
    return folder


@pytest.fixture
def seen(tmp_path):
    contents = {"B": {"T1": "b1", "T2": "b2"}, "T": {"T1": "t1"}}
    earlier = [{"id": "E", "patient": "E", "fingerprint": "files of E", "contents": {}}]
    train = ["A", "B", "BraTS-GLI-00007-000", "P1"]
    return seen_by(run_of(tmp_path, train, ["V"], ["T"], contents=contents, patients={"P1": "pat"}, seen=earlier))


@pytest.mark.parametrize(
    ("subject", "files", "content", "said"),
    [
        (Subject("A", {}), "other", {}, "A"),
        (Subject("V", {}), "other", {}, "V"),  # it chose the weights
        (Subject("E", {}), "other", {}, "E"),  # seen by the run from which the source started
        (Subject("BraTS-GLI-00007-001", {}), "other", {}, "BraTS-GLI-00007-001 (there BraTS-GLI-00007-000)"),
        (Subject("P2", {}, known_patient="pat"), "other", {}, "P2 (there P1)"),
        (Subject("X", {}), "files of B", {}, "X (there B)"),
        (Subject("Y", {}), "other", {"FLAIR": "y", "T2": "b2"}, "Y (there B)"),
        (Subject("T", {}), "files of T", {"T1": "t1"}, None),  # the source's own test part
        (Subject("N", {}), "other", {"T1": "n"}, None),
    ],
)
def test_nobody_is_tested_whom_the_weights_have_seen(seen, tmp_path, subject, files, content, said):
    arguments = (tmp_path, seen, [subject], {subject.id: files}, {subject.id: content})
    if said is None:
        refuse_seen(*arguments)
        return
    with pytest.raises(Refused) as refused:
        refuse_seen(*arguments)
    assert f"validated on: {said};" in str(refused.value)
    assert "found 1 of its subjects" in str(refused.value)
    by_scans = files == "files of B" or content
    assert ("--patients tells other patients apart" in str(refused.value)) == (not by_scans)


def test_a_fine_tuned_training_is_not_taken_over_as_one_from_random_weights(cohort, tmp_path):
    with opened(cohort, tmp_path) as first:
        first.run.history.append({"epoch": 1, "loss": 0.5})
        (first.run.folder / "costs.json").write_text("{}")
        first.run.checkpoints.mkdir()
        (first.run.folder / "summary.json").write_text("[]")
        second = study("other", first.options, Stub())
        with second as other:
            settings = json.loads((first.run.folder / "config.json").read_text())
            write_json(first.run.folder / "config.json", settings | {"start": {"digest": "1"}})
            assert adopt_training(other, Stub()) is None
            write_json(first.run.folder / "config.json", settings)
            assert adopt_training(other, Stub()) == first.run.folder


def scored_run(folder, shift):
    """A run that predicts five cases' masks moved by so many voxels."""
    cases = []
    for seed in range(5):
        truth = np.where((labels := make_subject(seed)[1]) == 4, 3, labels).astype(np.uint8)
        cases.append((f"case{seed}", np.roll(truth, shift, axis=0), truth, (1.0, 1.0, 1.0)))
    frame, _ = score_cases(cases, n_jobs=1)
    folder.mkdir()
    frame.assign(view="").to_csv(folder / "cases.csv", index=False)
    return frame


def test_the_table_has_both_and_their_paired_difference(tmp_path):
    tuned, control = scored_run(tmp_path / "tuned", 1), scored_run(tmp_path / "control", 3)
    table = compare(tmp_path / "tuned", tmp_path / "control", "brats").set_index("metric")
    assert tuple(table.index) == METRICS
    gain = tuned["dice_WT"] - control["dice_WT"]
    row = table.loc["dice_WT"]
    assert row["fine_tuned"] == pytest.approx(tuned["dice_WT"].mean())
    assert row["from_random"] == pytest.approx(control["dice_WT"].mean())
    assert row["difference"] == pytest.approx(gain.mean())
    assert row["low"] <= gain.mean() <= row["high"]
    assert (gain > 0).all()
    assert row["p"] == pytest.approx(2 / 2**5)  # all five better: the smallest p of Wilcoxon's test
    assert row["p_holm"] >= row["p"] * sum(table["p"] == row["p"]) - 1e-12
    cases = pd.read_csv(tmp_path / "tuned" / "cases.csv").iloc[1:]
    cases.to_csv(tmp_path / "tuned" / "cases.csv", index=False)
    with pytest.raises(RunError, match="expected the cases of"):
        compare(tmp_path / "tuned", tmp_path / "control", "brats")


def test_a_run_is_fine_tuned_beside_its_control(run_module, cohort, tmp_path):
    pytest.importorskip("torch")
    command = ("experiments.table1_baseline", "--data", cohort, *TINY, "--model.crops-per-epoch", 1)
    ids = [f"BraTS_{number:03d}" for number in range(6)]
    splits = {"first": ["train", "train", "validation", "test"], "second": ["test", "train", "validation", "train"]}
    for name, parts in splits.items():
        pd.DataFrame({"id": ids[:4], "part": parts}).to_csv(tmp_path / f"{name}.csv", index=False)
    network = Config(crop_voxels=(24, 24, 24), initial_filters=8, encoder_blocks=(1, 1), decoder_blocks=(1,))
    folders = {name: tmp_path / name for name in ("runs", "prepared")}
    options = SegResNetOptions(data=cohort, preset="demo", jobs=1, subjects=tmp_path / "first.csv", **folders)
    with study("source", options, network) as first:
        from segresnet_monai.train import Training, save_weights

        source = first.run.folder
        save_weights(first.run.checkpoints / "best.pt", Training(network).network)
        write_json(source / "summary.json", [])

    options = replace(options, start_from=source)
    leaking = replace(options, subjects=tmp_path / "second.csv")
    with pytest.raises(SystemExit, match="validated on: BraTS_000;"), study("stub", leaking, network):
        pass
    unread = replace(options, data=tmp_path / "nowhere")
    other = replace(network, initial_filters=16)
    with pytest.raises(SystemExit, match=r"initial_filters 16 \(there 8\)"), study("stub", unread, other):
        pass

    tuned = run_module(*command, "--subjects", "first.csv", "--from", source, "--control", "--model.targets", "regions")
    assert tuned.returncode == 0, tuned.stderr
    assert "its last layers made anew" in tuned.stdout
    assert "a network of synthetic phantoms" not in tuned.stdout  # in this table every patient is a file of the user
    assert "from random" in tuned.stdout
    folder = tmp_path / "runs" / "table1_baseline"
    runs = {path.name: json.loads((path / "config.json").read_text()) for path in folder.iterdir()}
    (name,) = (name for name, config in runs.items() if "start" in config)
    assert len(runs) == 2
    assert runs[name]["start"]["run"] == str(source)
    assert f"from_{runs[name]['start']['digest'][:8]}" in name
    assert (folder / name / "control.csv").exists()
    assert len(json.loads((folder / name / "data.json").read_text())["seen"]) == 3
