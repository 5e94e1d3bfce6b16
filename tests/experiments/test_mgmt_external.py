"""The external test on tiny cohorts: what the internal test rewards is a bright spot, a mark of the scanner in one
hospital outside, and of the status in another."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

pytest.importorskip("monai", reason="needs the extra mgmt")

from experiments import mgmt_external
from experiments.mgmt import ensemble, external, external_pictures, left_out_site, patients, phantoms, study
from experiments.mgmt.finished import read_run
from experiments.mgmt.sites import SiteOptions
from tests.experiments.conftest import here
from tests.layouts import UCSF_COLUMNS, UPENN_COLUMNS

MODEL = {
    "image-size": ("32", "32"),
    "filters": ("4",),
    "epochs": ("3",),
    "learning-rate": ("3e-3",),
    "images": ("5",),
    "batch-size": ("4",),
}
SETTINGS = [
    *(word for name, values in MODEL.items() for of in ("flair", "t1w") for word in (f"--model.{of}.{name}", *values)),
    *("--model.fractions", "0.4", "0.2", "0.4"),
]
AFFINE = np.diag([-0.75, -0.5, 2.5, 1.0])
N = 16
SITES = ("ucsf", "upenn")


def write_scan(folder, name, words, *, spot, seed):
    """The head of conftest.write_patient as volumes, axes to the left, back and head."""
    rng = np.random.default_rng(seed)
    images = np.zeros((9, 36, 40), np.int16)
    images[1:-1, 3:-3, 3:-3] = rng.integers(300, 600, (7, 30, 34))
    if spot:
        images[1:-1, 8:18, 20:30] += 900
    folder.mkdir(parents=True)
    for word in words:
        nib.save(nib.Nifti1Image(images.transpose(2, 1, 0), AFFINE), folder / f"{name}_{word}.nii.gz")


def write_table(path, columns, rows):
    pd.DataFrame(rows).reindex(columns=columns).to_csv(path, index=False)


def ucsf(folder):
    """The spot is the scanner's: every second patient of either status has it. N can be tested, six others cannot."""
    rows = []
    for number in range(N + 6):
        label = number // 2 % 2
        name = f"UCSF-PDGM-{number:04}" + ("_FU016d" if number == N else "")
        write_scan(folder / f"{name}_nifti", name, ("FLAIR", "T1", "T1c", "T2"), spot=number % 2, seed=100 + number)
        row = {"ID": f"UCSF-PDGM-{number:03}", "Sex": "FM"[number % 3 == 0], "Age at MRI": 40 + number}
        row |= {"MGMT status": ("negative", "positive")[label], "IDH": "wildtype"}
        rows.append(row)
    rows[N]["ID"] += "_FU016d"
    rows[N + 1]["MGMT status"] = "indeterminate"
    rows[N + 2]["MGMT status"] = "unknown"
    rows[N + 3]["IDH"] = "IDH1 p.R132H"
    rows[N + 4]["BraTS21 ID"] = "BraTS2021_00007"
    del rows[N + 5]
    write_table(folder / "UCSF-PDGM-metadata_v5.csv", UCSF_COLUMNS, rows)
    return folder


def upenn(folder):
    """The spot is the status's. The last patient is in the competition, as the organisers' mapping says."""
    rows = []
    for number in range(N + 1):
        for time in ("_11", "_21") if number == 0 else ("_11",):
            name = f"UPENN-GBM-{number:05}{time}"
            place = folder / "images_structural" / name
            write_scan(place, name, ("FLAIR", "T1", "T1GD", "T2"), spot=number % 2, seed=200 + number)
            row = {"ID": name, "Gender": "F", "Age_at_scan_years": 61.5, "IDH1": "Wildtype"}
            rows.append(row | {"MGMT": ("Unmethylated", "Methylated")[number % 2]})
    write_table(folder / "UPENN-GBM_clinical_info_v2.1.csv", UPENN_COLUMNS, rows)
    scanners = [
        {"ID": row["ID"], "Manufacturer": "SIEMENS", "Model": f"M{place % 2}"} for place, row in enumerate(rows)
    ]
    write_table(folder / "UPENN-GBM_acquisition.csv", ["ID", "Manufacturer", "Model"], scanners)
    mapping = [{"PatientID on TCIA Radiology Portal": f"UPENN-GBM-{N:05}", "BraTS2021 ID": "BraTS2021_00011"}]
    write_table(folder / "mapping.csv", list(mapping[0]), mapping)
    return folder


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    return {"ucsf": ucsf(folder / "ucsf"), "upenn": upenn(folder / "upenn")}


def call(work, *arguments, drawn=False):
    """Run the command in this process; pictures take as long as all the rest."""
    from experiments.mgmt.training import train

    words = [
        "mgmt_external",
        "--preset",
        "demo",
        "--jobs",
        "1",
        "--runs",
        work / "runs",
        "--prepared",
        work / "prepared",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in (*words, *arguments)])
        patch.setattr(study, "run", here(train))
        patch.setattr(ensemble, "draw", lambda *_: None)
        if not drawn:
            patch.setattr(external_pictures, "draw", lambda *_, **__: None)
        patch.setattr(external, "run_trainings", here(train))
        patch.setattr(left_out_site, "run_trainings", here(train))
        mgmt_external.main()


def sites(places):
    return ["--sites", *(f"{name}={folder}" for name, folder in places.items())]


@pytest.fixture(scope="session")
def work(tmp_path_factory, competition, places):
    work = tmp_path_factory.mktemp("external")
    call(
        *(work, "--data", competition, *SETTINGS),
        *(*sites(places), "--overlap", places["upenn"] / "mapping.csv", "--idh-wildtype", "--no-shuffled"),
        drawn=True,
    )
    return work


@pytest.fixture(scope="session")
def folder(work):
    (found,) = work.glob("runs/mgmt_ensemble/*/external/*")
    return found


def summary(folder):
    return {row["key"].partition(".")[2]: row for row in json.loads((folder / "summary.json").read_text())}


def rows(folder):
    return pd.read_csv(folder / "predictions.csv", dtype={"id": str})


def test_the_trap_is_named_and_the_signal_that_holds_is_too(folder):
    verdicts = (folder / "verdicts.txt").read_text().splitlines()
    trap, holds = (next(line for line in verdicts if line.startswith(f"{site} less inside")) for site in SITES)
    assert "Believe the external estimate, not the internal one" in trap
    assert "The signal holds outside" in holds
    assert any(line.startswith("Outside, ucsf: ") and "cannot be told from chance" in line for line in verdicts)
    found = summary(folder)
    assert found["inside__auc"]["value"] == found["upenn__auc"]["value"] == 1
    assert found["ucsf__minus_inside__auc"]["high"] < 0 < found["upenn__minus_inside__auc"]["high"]
    assert not any(row["synthetic"] for row in found.values())


def test_scores_are_those_of_the_predictions(folder):
    found, table = summary(folder), rows(folder)
    np.testing.assert_allclose(table["ensemble"], 0.75 * table["FLAIR"] + 0.25 * table["T1w"])
    for site, own in table.groupby("site"):
        for column, name in (("ensemble", "auc"), ("baseline", "baseline__auc"), ("T1w", "T1w__auc")):
            assert found[f"{site}__{name}"]["value"] == pytest.approx(roc_auc_score(own["label"], own[column]))
        assert found[f"{site}__brier"]["value"] == pytest.approx(brier_score_loss(own["label"], own["ensemble"]))
        assert found[f"{site}__auc"]["n"] == N
    curve = pd.read_csv(folder / "calibration.csv")
    assert curve.groupby("site")["n"].sum().tolist() == [N, N]
    assert (folder / "figures" / "external.png").exists()
    groups = pd.read_csv(folder / "subgroups.csv").set_index(["site", "of", "group"]).sort_index()
    women = table[(table["site"] == "ucsf") & (table["sex"] == "F")]
    expected = roc_auc_score(women["label"], women["ensemble"])
    assert groups.loc[("ucsf", "sex", "F"), "auc"] == pytest.approx(expected)
    assert groups.loc[("upenn", "scanner"), "n"].sum() == N
    assert groups["n"].groupby(["site", "of"]).sum().eq(N).all()


def test_who_is_not_tested_is_counted_by_reason(folder):
    found = pd.read_csv(folder / "counts.csv").set_index(["site", "scans"])["n"]
    assert found["ucsf"].to_dict() == {
        "tested, methylated": N // 2,
        "tested, unmethylated": N // 2,
        "left out: IDH: mutant": 1,
        "left out: MGMT status: indeterminate": 1,
        "left out: MGMT status: unknown": 1,
        "left out: not in table": 1,
        "left out: patient of the training cohort": 1,
        "left out: scanned after the first operation or at a follow-up": 1,
    }
    assert found["upenn"].to_dict() == {
        "tested, methylated": N // 2,
        "tested, unmethylated": N // 2,
        "left out: patient of the training cohort": 1,
        "left out: scanned after the first operation or at a follow-up": 1,
    }
    left = json.loads((folder / "data.json").read_text())["sites"]
    assert left["ucsf"]["left_out"]["patient of the training cohort"] == [f"UCSF-PDGM-{N + 4:04}"]
    assert left["upenn"]["left_out"]["patient of the training cohort"] == [f"UPENN-GBM-{N:05}_11"]


def test_scans_are_cut_as_the_series_of_the_training(folder):
    cuts = json.loads((folder / "data.json").read_text())["cuts"]
    # nine images of 36 x 40 pixels, 2.5 mm apart, 0.5 x 0.75 mm
    expected = {"plane": "axial", "between_mm": 2.5, "extent_mm": [22.5, 18.0, 30.0]}
    assert cuts == {"FLAIR": expected, "T1w": expected}


def test_the_same_command_shows_and_a_finished_run_is_tested_again_without_training(work, folder, places, capsys):
    (run,) = work.glob("runs/mgmt_ensemble/*")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.pt")}
    mapping = ("--overlap", places["upenn"] / "mapping.csv", "--idh-wildtype")
    call(work, "--run", run, *sites(places), *mapping, "--no-shuffled")
    assert f"folder: {folder}" in capsys.readouterr().out
    call(work, "--run", run, "--sites", f"b={places['upenn']}", "--no-shuffled")
    printed = capsys.readouterr().out
    assert "nothing says which of its patients are in the training cohort (UPENN-GBM has given" in printed
    assert "b: scanner SIEMENS M1" in printed
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.pt")}
    (other,) = (run / "external").glob("b-*")
    assert summary(other)["b__auc"]["n"] == N + 1


@pytest.mark.parametrize("protocol", ["external", "leave-one-site-out"])
def test_another_seed_and_corrected_facts_are_another_result(
    protocol, request, tmp_path, competition, places, monkeypatch
):
    """Models, tests and pictures are left out: which folder is asked for is what is tested."""
    made = []
    for module in (external, left_out_site):
        monkeypatch.setattr(module, "_test", lambda *_, **__: None)
        monkeypatch.setattr(module, "show", lambda folder, below: made.append(folder))
    table = tmp_path / "table.csv"
    written = (places["upenn"] / "UPENN-GBM_clinical_info_v2.1.csv").read_text()
    if protocol == "external":
        words = ("--run", request.getfixturevalue("folder").parents[1])
    else:
        words = ("--protocol", protocol, "--data", competition, *SETTINGS)

    def ask(content, *arguments):
        table.write_text(content)
        call(tmp_path, *words, "--sites", f"e={places['upenn']}", "--tables", f"e={table}", *arguments)
        return made[-1]

    first = ask(written)
    assert ask(written) == first
    others = {ask(written, "--split-seed", 1), ask(written.replace(",F,", ",M,", 1))}
    others.add(ask(written.replace("Wildtype,Unm", "Mutated,Unm")))
    assert len({first} | others) == 4


def test_what_cannot_be_tested_is_refused_before_anything_is_trained(tmp_path, competition, places):
    data = ("--data", competition, *SETTINGS)
    bare = tmp_path / "bare"
    write_scan(bare / "s_1", "s_1", ("flair", "t1", "t1ce", "t2"), spot=True, seed=1)
    (bare / "patients.csv").write_text("id,mgmt\ns_1,1\n")
    (tmp_path / "others.csv").write_text("id,mgmt\ncase_7,1\ncase_8,0\n")
    for arguments, what in (
        (("--data", tmp_path), "expected other hospitals' cohorts with --sites"),
        (("--data", tmp_path, "--sites", "nowhere"), "--sites: expected NAME=PATH, each name once"),
        (("--data", tmp_path, "--sites", "a=b", "--tables", "b=x.csv"), "--tables: expected names of --sites"),
        ((*data, "--sites", f"a={tmp_path / 'none'}"), "expected a folder of scans, found no folder"),
        ((*data, "--sites", f"a={bare}"), "two methylated and two unmethylated patients or more, found 1 and 0"),
        (
            (*data, "--sites", f"a={places['upenn']}", f"b={places['upenn']}"),
            "the scans of UPENN-GBM-00000_11 in a too",
        ),
        (("--data", tmp_path, "--run", tmp_path, "--sites", "a=b"), "expected --data or --run, received both"),
        (("--run", tmp_path), "expected the folder of a training with its config.json"),
        (("--run", tmp_path, "--labels", "x.csv"), "without options of a training, .* received --labels"),
        (
            ("--run", tmp_path, "--effect", "0", "--leave-out-doubtful", "--model.flair.epochs", "7"),
            "received --leave-out-doubtful, --effect, --model.flair.epochs=7$",
        ),
        (
            ("--run", tmp_path, "--max-patients", "9", "--confounder", "1", "--phantom-seed", "3"),
            "received --max-patients, --confounder, --phantom-seed$",
        ),
    ):
        with pytest.raises(SystemExit, match=what):
            call(tmp_path, *arguments)
    assert not list(tmp_path.glob("runs/**/*.pt"))


def test_a_scan_that_cannot_be_used_is_named_and_left_out_on_demand(work, places, tmp_path, capsys):
    (run,) = work.glob("runs/mgmt_ensemble/*")
    own = tmp_path / "site"
    shutil.copytree(places["upenn"], own)
    torn = own / "images_structural" / "UPENN-GBM-00003_11" / "UPENN-GBM-00003_11_T1.nii.gz"
    torn.write_bytes(torn.read_bytes()[:300])
    arguments = ("--run", run, "--sites", f"c={own}", "--no-shuffled")
    with pytest.raises(SystemExit, match="1 of 17 subjects cannot be used"):
        call(work, *arguments)
    call(work, *arguments, "--leave-out-bad")
    assert "left out: cannot be used" in capsys.readouterr().out


def test_the_control_is_the_same_training_on_labels_dealt_anew(work, tmp_path, monkeypatch):
    (run,) = work.glob("runs/mgmt_ensemble/*")
    made = []
    monkeypatch.setattr(external, "run_trainings", lambda trainings, _: made.extend(trainings) or {})
    opened = SimpleNamespace(folder=tmp_path)
    own = replace(read_run(run), label_table=tmp_path / "labels.csv")
    assert external.shuffled_models(own, opened, SiteOptions(split_seed=3)) == tmp_path / "shuffled"
    assert [each.folder for each in made] == [tmp_path / "shuffled" / contrast for contrast in ("FLAIR", "T1w")]
    for each in made:
        given, real = (
            {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "data", "split")}
            for folder in (each.folder, run / each.folder.name)
        )
        assert given["split"] == real["split"]
        assert given["config"]["model"] == real["config"]["model"]
        assert given["data"]["folder"] == real["data"]["folder"]
        assert given["config"]["options"]["labels"] == str(tmp_path / "labels.csv")
        before, after = real["data"]["labels"], given["data"]["labels"]
        assert sum(before.values()) == sum(after.values())
        assert before.keys() == after.keys()
        assert before != after


@pytest.mark.slow
def test_the_control_is_tested_outside_too(work, places):
    (run,) = work.glob("runs/mgmt_ensemble/*")
    call(work, "--run", run, "--sites", f"d={places['upenn']}")
    (folder,) = (run / "external").glob("d-*")
    own = rows(folder)
    assert summary(folder)["d__shuffled_labels__auc"]["value"] == roc_auc_score(own["label"], own["shuffled"])
    assert "Control with shuffled labels, d: AUC" in (folder / "verdicts.txt").read_text()


def bright_spot(folder, entries):
    """Stands in for a trained network: where its spot would be, relative to the whole."""
    for entry in entries:
        images = entry.open().astype(float)
        yield entry.id, float(images[:, 7:16, 16:24].mean() / images.max())


@pytest.fixture
def untrained(monkeypatch):
    """No network is trained: the rest of a training is what it is. Gives the images' files that it was to be on."""
    from mgmt_classifier import inference, train

    read = set()

    def fit(config, training, validation, run):
        read.update(entry.path for entry, _ in (*training, *validation))
        (run.folder / "threshold.json").write_text('{"threshold": 0.5}')

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(inference, "predict", bright_spot)
    return read


def left_out(work, *arguments):
    call(work, *SETTINGS, "--protocol", "leave-one-site-out", *arguments)
    (found,) = (work / "runs" / "mgmt_external").iterdir()
    return found


def check_left_out(folder, names):
    """Each site is tested once, by models of the others."""
    table, found = pd.read_csv(folder / "predictions.csv"), summary(folder)
    assert set(table["site"]) == set(names)
    for name, own in table.groupby("site"):
        split = json.loads((folder / f"without_{name}" / "FLAIR" / "split.json").read_text())
        assert sorted(own["id"]) == sorted(split["test"])
        assert not set(split["test"]) & {*split["train"], *split["validation"]}
        assert {*split["train"], *split["validation"]} == set(table["id"]) - set(own["id"])
        assert found[f"{name}__auc"]["value"] == pytest.approx(roc_auc_score(own["label"], own["ensemble"]))
    assert "inside__auc" not in found
    return table


def test_each_site_is_left_out_in_turn(tmp_path, competition, places, capsys, untrained):
    cohorts = ("--data", competition, "--sites", f"upenn={places['upenn']}")
    folder = left_out(tmp_path, *cohorts)
    table = check_left_out(folder, ("competition", "upenn"))
    assert table["site"].value_counts().to_dict() == {"competition": 24, "upenn": N + 1}
    assert summary(folder)["upenn__auc"]["value"] == summary(folder)["competition__auc"]["value"] == 1
    assert summary(folder)["upenn__shuffled_labels__auc"]["value"] == 1  # no network, and none trained on the labels
    printed = capsys.readouterr().out
    assert "All sites together: better than chance in at least one of them" in printed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("predictions.csv")}
    left_out(tmp_path, *cohorts)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("predictions.csv")}


def test_doubtful_patients_are_left_out_here_too(tmp_path, competition, places, monkeypatch, untrained):
    monkeypatch.setattr(patients, "DOUBTFUL", {"00003": "allowed", "00099": "allowed"})  # the latter is not there
    cohorts = ("--data", competition, "--sites", f"upenn={places['upenn']}", "--no-shuffled")
    folder = left_out(tmp_path, *cohorts, "--leave-out-doubtful", "--max-patients", 20)
    own = rows(folder)["id"].loc[rows(folder)["site"] == "competition"]
    assert sorted(own) == [f"{number:05}" for number in range(21) if number != 3]
    found = pd.read_csv(folder / "counts.csv").set_index(["site", "scans"])["n"]
    assert found["competition", "left out: doubtful"] == 1
    assert json.loads((folder / "data.json").read_text())["left_out"]["competition"] == {"doubtful": ["00003"]}


def test_sites_of_nifti_alone(tmp_path, places, untrained):
    folder = left_out(tmp_path, *sites(places), "--no-shuffled", "--local-copy", tmp_path / "near")
    assert {path.parents[1] for path in untrained} == {tmp_path / "near"}
    assert {path.name for path in untrained} == {path.name for path in tmp_path.glob("prepared/*/*.npy")}
    table = check_left_out(folder, SITES)
    assert not {"competition"} & set(table["site"])
    assert 0.2 < summary(folder)["ucsf__auc"]["value"] < 0.8


@pytest.mark.slow
def test_a_signal_that_two_hospitals_share_is_learned_in_one_and_holds_in_the_other(tmp_path, competition, places):
    cohorts = ("--data", competition, "--sites", f"upenn={places['upenn']}")
    folder = left_out(tmp_path, *cohorts, "--no-shuffled")
    check_left_out(folder, ("competition", "upenn"))
    assert summary(folder)["upenn__auc"]["value"] > 0.9


def test_one_site_cannot_be_left_out(tmp_path, places):
    with pytest.raises(SystemExit, match="expected two sites or more, each with a name of its own, found upenn"):
        left_out(tmp_path, "--sites", f"upenn={places['upenn']}")
    with pytest.raises(SystemExit, match="expected --run with --protocol external only"):
        left_out(tmp_path, "--run", tmp_path)


@pytest.mark.slow
def test_phantoms_with_a_confounder_show_the_trap(tmp_path, monkeypatch):
    """Networks trained on phantoms whose tumours say nothing, and whose field of view says it all."""
    monkeypatch.setattr(phantoms, "PATIENTS", 60)
    monkeypatch.setattr(phantoms, "SITE_PATIENTS", 40)
    call(tmp_path, "--phantoms", tmp_path / "phantoms", "--effect", "0", "--confounder", "1", "--no-shuffled")
    (folder,) = tmp_path.glob("runs/mgmt_ensemble/*/external/*")
    found = summary(folder)
    assert found["inside__auc"]["value"] > 0.9
    assert found["phantoms__auc"]["low"] < 0.5 < found["phantoms__auc"]["high"]
    assert all(row["synthetic"] for row in found.values())
    assert "Believe the external estimate, not the internal one" in (folder / "verdicts.txt").read_text()
