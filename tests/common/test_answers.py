"""A folder of patients through a rule in a network's place: what is written, what is resumed, who is counted."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tyro
from matplotlib.figure import Figure
from PIL import Image

from common import answers
from common.answers import check_folder, segment_folder
from common.arguments import PatientArguments
from common.cohort import find_subjects
from common.files import write_json
from common.identity import contents
from common.labels import BRATS_2018
from common.patient import SEEN_NOTE, SYNTHETIC_MARK, Trained
from common.preprocess.command import check_run, run_command
from common.recipe import Recipe
from experiments.evaluation.inputs import ScoreOptions
from tests.cohorts import LPS_AFFINE, make_subject
from tests.layouts import write_bids, write_upenn

CONTRASTS = ("flair", "t1", "t1ce", "t2")


def bright(volume, t1ce):
    """Class 3 where T1ce, divided by its maximum, exceeds 0.6; on the scan's own grid."""
    values, region = volume.on_working_grid(volume.image(), volume.box)
    return volume.to_source(np.where(values[t1ce] > 0.6, 3, 0), region)


class Counted:
    """The rule as a trained network, and whom it was asked about."""

    def __init__(self, contrasts=("FLAIR", "T1", "T1ce", "T2")):
        self.asked = []
        recipe = Recipe(contrasts=contrasts, crop=((4, 30), (6, 40), (3, 33)), extent=(40, 48, 36), intensity="maximum")
        self.trained = Trained(recipe, self.predict)
        self.t1ce = contrasts.index("T1ce")

    def predict(self, volume):
        self.asked.append(volume.id)
        return bright(volume, self.t1ce)


@pytest.fixture
def asked(tmp_path):
    """Arguments for three patients: A and C good, B with a negative T2; and the voxels of A and C."""
    voxels = {}
    for seed, name in enumerate("ABC", start=3):
        images, mask = make_subject(seed)
        voxels[name] = images
        (tmp_path / "scans" / name).mkdir(parents=True)
        for contrast in CONTRASTS:
            data = -images["t2"] if (name, contrast) == ("B", "t2") else images[contrast]
            nib.save(nib.Nifti1Image(data, LPS_AFFINE), tmp_path / "scans" / name / f"{name}_{contrast}.nii.gz")
        # 7 is no label of any convention; a prediction does not look at masks.
        foreign = np.where(mask, 7, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(foreign, LPS_AFFINE), tmp_path / "scans" / name / f"{name}_seg.nii.gz")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(b"weights")
    return PatientArguments(run=tmp_path / "run", data=tmp_path / "scans", output=tmp_path / "out"), voxels


def test_a_folder_in_any_layout_is_answered_without_its_masks(asked, tmp_path):
    arguments, _ = asked
    mapping = tmp_path / "own.toml"
    words = {"FLAIR": "FLAIR", "T1": "T1w", "T1ce": "ce-gadolinium_T1w", "T2": "T2w"}
    own = "{patient}/{session}/anat/{patient}_{session}_"
    mapping.write_text(
        "\n".join(
            [
                *(f'{contrast} = "{own}{word}.nii.gz"' for contrast, word in words.items()),
                'label = "{patient}_{session}.nii.gz"',
                'labels = "msd"',
            ]
        ),
        encoding="utf-8",
    )
    shape = (40, 48, 36)
    for data, layout, ids in (
        (write_bids(tmp_path / "bids", {("sub-7", "ses-1"): 7}, BRATS_2018, shape=shape), mapping, ["sub-7_ses-1"]),
        (write_upenn(tmp_path / "upenn", {"00007_21": "none"}, shape=shape), None, ["UPENN-GBM-00007_21"]),
    ):
        network = Counted()
        told = replace(arguments, data=data, layout=layout, output=tmp_path / f"answers_{data.name}")
        assert segment_folder(told, network.trained) == ()
        assert network.asked == ids
        assert (told.output / f"{ids[0]}.nii.gz").exists()
    with pytest.raises(ValueError, match=r"expected --data beside --layout own\.toml"):
        replace(arguments, data=None, layout=Path("own.toml"))


def test_each_patient_gets_an_answer_and_the_bad_one_is_named(asked):
    arguments, voxels = asked
    network = Counted()
    (problem,) = segment_folder(arguments, network.trained)
    assert problem.subject == "B"
    assert "no voxel is above 0" in problem.what
    assert network.asked == ["A", "C"]
    volumes = pd.read_csv(arguments.output / "volumes.csv").set_index("id")
    assert list(volumes.index) == ["A", "C"]
    inside = np.zeros((40, 48, 36), bool)
    inside[4:30, 6:40, 3:33] = True
    for name in "AC":
        t1ce = voxels[name]["t1ce"]
        expected = (t1ce / t1ce.max() > 0.6) & inside
        written = np.asarray(nib.load(arguments.output / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(written, np.where(expected, 4, 0))
        assert volumes.loc[name, "ET_ml"] == pytest.approx(expected.sum() / 1000)
        picture = np.asarray(Image.open(arguments.output / f"{name}.png").convert("RGB")).astype(int)
        assert (np.abs(picture - (240, 228, 66)).sum(-1) < 30).any()  # ET's yellow


def test_only_what_has_no_answer_is_answered_and_changed_scans_are_answered_anew(asked):
    arguments, voxels = asked
    network = Counted()
    segment_folder(arguments, network.trained)
    (arguments.output / "C.nii.gz").unlink()
    segment_folder(arguments, network.trained)
    assert network.asked == ["A", "C", "C"]
    brighter = voxels["A"]["flair"] * 2
    nib.save(nib.Nifti1Image(brighter, LPS_AFFINE), arguments.data / "A" / "A_flair.nii.gz")
    segment_folder(arguments, network.trained)
    assert network.asked == ["A", "C", "C", "A"]


def test_patients_of_a_folder_need_the_contrasts_of_the_network_only(asked):
    arguments, _ = asked
    network = Counted(("T1ce", "FLAIR"))
    for name in "ABC":  # B has a negative T2, which nobody asks for any more
        (arguments.data / name / f"{name}_t1.nii.gz").unlink()
    again = arguments.data / "C" / "again" / "C_t2.nii.gz"
    again.parent.mkdir()
    again.write_bytes(b"no scan")
    (arguments.data / "A" / "A_t1ce.nii.gz").rename(arguments.data / "A" / "A_t1ce_of_before.nii.gz")
    (problem,) = segment_folder(arguments, network.trained)
    assert network.asked == ["B", "C"]
    assert (problem.subject, problem.what) == ("A", "missing T1ce; found FLAIR")
    for name in "BC":
        written = np.asanyarray(nib.load(arguments.output / f"{name}.nii.gz").dataobj)
        t1ce = make_subject("ABC".index(name) + 3)[0]["t1ce"].astype(float)
        inside = np.zeros(t1ce.shape, bool)
        inside[4:30, 6:40, 3:33] = True
        np.testing.assert_array_equal(written == 4, (t1ce / t1ce[inside].max() > 0.6) & inside)


def test_an_answer_of_scans_that_are_damaged_since_does_not_stay(asked):
    arguments, _ = asked
    segment_folder(arguments, Counted().trained)
    scan = arguments.data / "A" / "A_t1.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-9])
    problems = segment_folder(arguments, Counted().trained)
    assert [problem.subject for problem in problems] == ["A", "B"]
    assert sorted(path.name for path in arguments.output.iterdir()) == [
        "C.nii.gz", "C.png", "predictions.json", "volumes.csv",
    ]  # fmt: skip
    assert list(pd.read_csv(arguments.output / "volumes.csv")["id"]) == ["C"]


def test_notes_are_printed_by_what_they_say_and_whom_the_network_has_seen(asked, capsys, monkeypatch):
    arguments, _ = asked
    subjects = {subject.id: subject for subject in find_subjects(arguments.data, masks=False).subjects}
    digests = {name: contents(subjects[name].read()[0]) for name in "AC"}
    fold = arguments.run / "folds" / "one"
    write_json(fold / "split.json", {"train": ["x"], "validation": ["y"], "test": ["z"]})
    for part, expected in (("x", "1 of 2 patients (C)"), ("y", "1 of 2 patients (C)"), ("z", "")):
        write_json(fold / "data.json", {"contents": {part: digests["C"]}})
        segment_folder(replace(arguments, output=arguments.output / part), Counted().trained)
        assert f"note: {SEEN_NOTE}: {expected}" in capsys.readouterr().err or not expected
        assert (SEEN_NOTE in (arguments.output / part / "predictions.json").read_text()) == bool(expected)
    write_json(fold / "data.json", {"contents": {}, "seen": [{"contents": digests[name]} for name in "AC"]})
    monkeypatch.setattr(answers, "MOST_NOTES", 0)
    cases = json.loads((arguments.output / "y" / "predictions.json").read_text())["cases"]
    n_notes = len({note for case in cases.values() for note in case["notes"]})
    segment_folder(replace(arguments, output=arguments.output / "before"), Counted().trained)
    assert f"note: {n_notes} more in {arguments.output / 'before' / 'predictions.json'}" in capsys.readouterr().err


def test_a_kill_between_two_files_loses_nobody_in_the_table(asked, monkeypatch):
    arguments, _ = asked
    written = answers.write_csv

    def killed(path, frame):
        if len(frame) == 2:
            raise KeyboardInterrupt
        written(path, frame)

    monkeypatch.setattr(answers, "write_csv", killed)
    with pytest.raises(KeyboardInterrupt):
        segment_folder(arguments, Counted().trained)
    monkeypatch.setattr(answers, "write_csv", written)
    segment_folder(arguments, Counted().trained)
    assert list(pd.read_csv(arguments.output / "volumes.csv")["id"]) == ["A", "C"]


def test_answers_of_two_networks_or_labels_are_never_mixed(asked, tmp_path):
    arguments, _ = asked
    segment_folder(arguments, Counted().trained)
    check_folder(arguments)
    with pytest.raises(ValueError, match=r"holds answers of .* in labels of brats2018; expected a new folder"):
        check_folder(replace(arguments, labels="msd"))
    (arguments.run / "checkpoints" / "last.pt").write_bytes(b"others")
    with pytest.raises(ValueError, match="expected a new folder, or the same network"):
        check_folder(arguments)
    with pytest.raises(ValueError, match="received both"):
        check_folder(replace(arguments, flair=tmp_path / "flair.nii.gz"))
    with pytest.raises(ValueError, match="expected a folder outside"):
        check_folder(replace(arguments, output=arguments.data / "answers"))
    with pytest.raises(ValueError, match="expected --dicom beside --brain-mask hd-bet, received --data"):
        check_folder(replace(arguments, brain_mask="hd-bet"))
    with pytest.raises(ValueError, match="expected --dicom beside --steps"):
        check_folder(replace(arguments, steps=tmp_path / "steps"))
    with pytest.raises(ValueError, match="nowhere: expected a folder of scans, found no folder"):
        check_folder(replace(arguments, data=tmp_path / "nowhere"))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "A.nii.gz").touch()
    with pytest.raises(ValueError, match=r"found other \.nii\.gz files"):
        check_folder(replace(arguments, output=tmp_path / "masks"))
    with pytest.raises(ValueError, match="found a file"):
        check_folder(replace(arguments, output=arguments.run / "config.json"))


def test_the_command_ends_with_whom_it_could_not_answer(asked, monkeypatch, capsys):
    arguments, _ = asked
    given = ["--run", arguments.run, "--data", arguments.data, "--output", arguments.output, "--labels", "brats2023"]
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, given)])
    with pytest.raises(SystemExit, match=r"^error: 1 of the patients have no answer:\n  B: "):
        run_command(PatientArguments, lambda _: Counted().trained, prog="predict", extra="none", framework="PyTorch")
    said = capsys.readouterr().out
    assert f"written: {arguments.output}" in said
    following = next_command(said)
    assert following[:3] == ["python", "-m", "experiments.score"]
    scored = tyro.cli(ScoreOptions, args=following[3:])
    assert scored == ScoreOptions(data=arguments.data, predictions=(f"network={arguments.output}",))
    assert set(np.unique(nib.load(arguments.output / "A.nii.gz").dataobj)) == {0, 3}


def test_the_command_that_follows_reads_the_folder_by_the_same_mapping(tmp_path, monkeypatch, capsys):
    write_bids(tmp_path / "scans", {("sub-7", "ses-1"): 7}, BRATS_2018, shape=(40, 48, 36))
    mapping = tmp_path / "my own.toml"
    own = "{patient}/{session}/anat/{patient}_{session}_"
    words = {"FLAIR": "FLAIR", "T1": "T1w", "T1ce": "ce-gadolinium_T1w", "T2": "T2w"}
    mapping.write_text("\n".join(f'{contrast} = "{own}{word}.nii.gz"' for contrast, word in words.items()))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    given = ["--run", run, "--data", tmp_path / "scans", "--layout", mapping, "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, given)])
    run_command(PatientArguments, lambda _: Counted().trained, prog="predict", extra="none", framework="PyTorch")
    assert tyro.cli(ScoreOptions, args=next_command(capsys.readouterr().out)[3:]).layout == mapping


def next_command(said):
    (line,) = [line for line in said.splitlines() if line.startswith("next: ")]
    return shlex.split(line.removeprefix("next: ").partition("    ")[0])


@pytest.mark.parametrize("synthetic", [False, True])
def test_one_patient_gets_a_picture_of_every_contrast_with_the_networks_mark(asked, monkeypatch, capsys, synthetic):
    arguments, _ = asked
    (arguments.run / "data.json").write_text(json.dumps({"synthetic": synthetic}))
    files = {contrast: arguments.data / "A" / f"A_{contrast}.nii.gz" for contrast in CONTRASTS}
    given = ["--run", arguments.run, "--output", arguments.output / "seg.nii.gz"]
    given += [word for contrast, file in files.items() for word in (f"--{contrast}", file)]
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, given)])
    program = "python -m segresnet_monai.predict"
    run_command(PatientArguments, lambda _: Counted().trained, prog=program, extra="none", framework="PyTorch")
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles[-4:] == ["FLAIR", "T1", "T1ce", "T2"]
    assert (SYNTHETIC_MARK in drawn[0].get_suptitle()) == synthetic
    assert (arguments.output / "seg.png").exists()
    said = capsys.readouterr()
    assert f"written: {arguments.output / 'seg.png'}" in said.out
    assert (SYNTHETIC_MARK in said.err) == synthetic
    following = next_command(said.out)
    assert following[:3] == program.split()
    parsed = tyro.cli(PatientArguments, args=following[3:])
    assert (parsed.run, parsed.data, parsed.output) == (arguments.run, Path("FOLDER"), Path("FOLDER"))


def test_a_framework_that_is_missing_is_one_sentence(asked, monkeypatch):
    arguments, _ = asked

    def network(_):
        import a_framework_that_nobody_has  # noqa: F401

    given = ["--run", arguments.run, "--data", arguments.data, "--output", arguments.output]
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, given)])
    with pytest.raises(SystemExit, match=r"a_framework_that_nobody_has is not installed; .*glioma-suite\[segresnet\]"):
        run_command(PatientArguments, network, prog="predict", extra="segresnet", framework="PyTorch")


def test_a_folder_of_runs_lists_them(tmp_path):
    for name in ("demo_seed0", "demo_seed1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({}))
    (tmp_path / "demo_seed0" / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"folder of 2; .*\n.*demo_seed0\n.*demo_seed1 \(no trained weights\)$"):
        check_run(tmp_path)
    check_run(tmp_path / "demo_seed0")


def test_the_picture_of_a_validation_holds_truth_above_and_prediction_below(asked, tmp_path):
    from common.cohort import find_subjects
    from common.picture import CLASS_COLOURS, draw_progress
    from common.prepared import prepare

    arguments, _ = asked
    for name in "ABC":
        (arguments.data / name / f"{name}_seg.nii.gz").unlink()
        mask = make_subject(3)[1]
        nib.save(nib.Nifti1Image(mask, LPS_AFFINE), arguments.data / name / f"{name}_seg.nii.gz")
    subjects = [s for s in find_subjects(arguments.data).subjects if s.id != "B"]
    volume = prepare(subjects, Recipe(), tmp_path / "store", n_jobs=1).entries["A"].open()
    draw_progress(tmp_path / "seen.png", volume, np.where(volume.labels() > 0, 2, 0).astype(np.uint8))
    seen = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB")).astype(int)

    def share(half, name):
        colour = np.array([int(CLASS_COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)])
        # overlay mixes 0.55 of the colour with a grey value
        grey = (half - 0.55 * colour) / 0.45
        return ((grey >= -1).all(-1) & (np.ptp(grey, axis=-1) < 8)).sum()

    words, legend = seen[:16], seen[-16:]
    assert words.any()
    assert (np.ptp(words, axis=-1) == 0).all()  # white on black
    for colour in CLASS_COLOURS.values():
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(legend - wanted).sum(-1) < 60).any()
    size = seen.shape[1] // 3
    above, below = seen[16 : 16 + size], seen[32 + size : 32 + 2 * size]
    assert min(share(above, name) for name in ("NCR", "ED", "ET")) > 0
    assert share(below, "ED") > 0
    assert share(below, "ET") == share(below, "NCR") == 0
