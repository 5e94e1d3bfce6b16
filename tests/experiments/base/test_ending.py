"""How experiments end: what is missing, where pictures lie, and commands that find the run again."""

import json
from pathlib import Path

import pytest

from experiments.base.ending import end, unfinished


def last_lines(capsys, folder, *texts, **further):
    end("unet3d", folder, *texts, **further)
    return capsys.readouterr().out.splitlines()


def test_every_ending_says_the_same_in_the_same_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/unet3d/demo-1")
    for name in ("figures/roc.png", "figures/grid.png", "rows/a/figures/history.png", "rows/b/figures/history.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert last_lines(
        capsys, folder, "table", "what it means", notes=["4 subjects"], missing=["b failed", "c not run"]
    ) == [
        "table",
        "what it means",
        "4 subjects",
        "failed or missing: b failed; c not run",
        "run folder: runs/unet3d/demo-1",
        "pictures in it: figures (grid.png, roc.png); 2 more, of its trainings, in rows",
        "next: python -m experiments.report           finished runs as a page: report/index.html",
        "      python -m experiments.unet3d --help    what can be changed",
    ]


def test_after_phantoms_it_says_where_ones_own_patients_go(tmp_path, capsys):
    said = last_lines(capsys, tmp_path / "unet3d" / "demo-1", synthetic=True)[-2]
    assert said.strip().startswith("python -m experiments.unet3d --data FOLDER ")


@pytest.mark.parametrize(("place", "below"), [("unet3d/demo-1", False), ("unet3d/demo-1/external/other-2", True)])
def test_the_page_is_made_of_the_folder_in_which_the_run_lies(tmp_path, monkeypatch, capsys, place, below):
    (tmp_path / "kept" / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "kept" / "unet3d")  # a path relative to the experiment's folder is enough
    lines = last_lines(capsys, Path(place).relative_to("unet3d"), below=below)
    assert f"next: python -m experiments.report --runs {tmp_path / 'kept'}  " in lines[-2]
    assert "failed or missing: nothing" in lines
    assert "pictures in it: none" in lines


def test_where_the_page_would_show_another_run_the_command_names_this_one(tmp_path, capsys):
    for name in ("demo-1", "paper-2"):
        (tmp_path / "unet3d" / name).mkdir(parents=True)
        (tmp_path / "unet3d" / name / "summary.json").write_text("[]")
        options = {"preset": name.partition("-")[0]}
        (tmp_path / "unet3d" / name / "config.json").write_text(json.dumps({"options": options}))
    line = last_lines(capsys, tmp_path / "unet3d" / "demo-1")[-2]
    assert f"experiments.report --runs {tmp_path} --run unet3d=demo-1 " in line
    assert line.endswith("the page with this run, in place of paper-2")
    for name in ("paper-2", "not-finished"):
        assert "--run " not in last_lines(capsys, tmp_path / "unet3d" / name)[-2]


def test_trainings_in_the_same_state_are_named_together():
    states = [("a", "finished"), ("b", "not run: it needs c"), ("c", "failed: full"), ("d", "not run: it needs c")]
    assert unfinished(states) == ["b, d not run: it needs c", "c failed: full"]
