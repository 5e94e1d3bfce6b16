"""experiments.status: what the folders say of trainings, whoever runs them."""

from pathlib import Path

import pytest

from common.files import write_json, write_text
from common.runs import Run
from experiments import status
from experiments.base.options import Refused

HISTORY = "epoch,loss,validation_mean_dice,seconds\n1,0.8,0.25,60.0\n2,0.7,,120.0\n"


def training(runs, name, kind="segresnet"):
    write_json(runs / name / "config.json", {"kind": kind, "model": {"epochs": 6}})
    return runs / name


def test_every_state_is_told_from_the_folders(tmp_path):
    write_json(training(tmp_path, "a/finished") / "summary.json", [])
    write_text(training(tmp_path, "a/failed") / "failure.txt", "Traceback\nRunError: the disk is full\n")
    write_json(training(tmp_path, "b/waiting") / "job.json", {"job": "12_3"})
    write_text(training(tmp_path, "c/damaged") / "config.json", "[")
    write_text(training(tmp_path, "d/mgmt", kind="mgmt") / "predictions.csv", "id\n")
    write_json(tmp_path / "e/no_training/config.json", {"options": {}})
    running = training(tmp_path, "b/running")
    write_text(running / "history.csv", HISTORY)
    write_json(running / "where.json", {"on": "slurm", "node": "n1", "job": "12_4"})
    with Run(running):
        found = {line.training: line for line in status.lines(tmp_path)}
    words = {name: line.state.partition(":")[0] for name, line in found.items()}
    assert words == {
        "a/failed": "failed",
        "a/finished": "finished",
        "b/running": "running",
        "b/waiting": "waiting",
        "c/damaged": "damaged",
        "d/mgmt": "finished",
    }
    assert found["a/failed"].state == "failed: RunError: the disk is full"
    assert found["b/waiting"].where == "slurm 12_3"
    line = found["b/running"]
    assert (line.where, line.so_far) == ("slurm n1 12_4", "validation_mean_dice 0.25 (epoch 1)")
    assert line.left == "6.0 min"  # four epochs of 90 seconds
    counted = status.as_text(list(found.values())).splitlines()[-1]
    assert counted == "6 trainings: 1 failed, 2 finished, 1 running, 1 waiting, 1 damaged"


def test_what_nobody_works_on_has_stopped_or_was_never_begun(tmp_path):
    stopped = training(tmp_path, "study/rows/stopped")
    write_text(stopped / "history.csv", "epoch,loss,seconds\n1,0.75,60.0\n")
    training(tmp_path, "study/rows/described")
    queued = training(tmp_path, "study/rows/queued")
    write_json(queued / "job.json", {"job": "12_5"})
    write_json(tmp_path / "study/config.json", {"options": {}})
    write_json(tmp_path / "crashed/config.json", {"model": {"epochs": 6}})  # by its own command, before any epoch
    for folder in (stopped, tmp_path / "study", tmp_path / "crashed"):
        with Run(folder):
            pass

    def words():
        return {line.training.rpartition("/")[2]: line.state for line in status.lines(tmp_path)}

    known = {"stopped": "stopped", "queued": "waiting", "crashed": "stopped"}
    assert words() == {**known, "described": "not started"}
    with Run(tmp_path / "study"):
        assert words() == {**known, "described": "waiting"}
    assert next(line.so_far for line in status.lines(tmp_path) if line.state == "stopped" and line.epoch) == "loss 0.75"


def test_what_a_training_without_a_scheduler_died_of_is_told_until_it_goes_on(tmp_path):
    folder = training(tmp_path, "direct")
    write_text(folder / "history.csv", HISTORY)
    with pytest.raises(ValueError, match="no number"), Run(folder):
        raise ValueError("the loss is no number\nadvice")
    assert [line.state for line in status.lines(tmp_path)] == ["failed: ValueError: the loss is no number"]
    with Run(folder):
        pass
    assert [line.state for line in status.lines(tmp_path)] == ["stopped"]
    for stopped in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stopped), Run(folder):
            raise stopped
        assert [line.state for line in status.lines(tmp_path)] == ["stopped"]


def test_what_is_described_with_a_lock_has_not_begun_and_what_lost_its_description_is_damaged(tmp_path):
    with Run(training(tmp_path, "described")):
        pass
    begun = training(tmp_path, "begun")
    write_json(begun / "where.json", {"on": "local"})
    write_text(tmp_path / "lost" / "history.csv", HISTORY)
    table = list(status.lines(tmp_path))
    words = {line.training: line.state.partition(":")[0] for line in table}
    assert words == {"begun": "stopped", "described": "not started", "lost": "damaged"}


def test_reasons_stand_below_the_table(tmp_path):
    write_text(training(tmp_path, "a") / "failure.txt", f"RunError: {'x' * 300}\n")
    training(tmp_path, "b")
    head, rule, *rows, reason, counted = status.as_text(list(status.lines(tmp_path))).splitlines()
    assert len(rows) == 2
    assert max(map(len, (head, rule, *rows))) < 100
    assert reason == f"a failed: RunError: {'x' * 300}"
    assert counted.startswith("2 trainings")


def test_the_page_shows_what_a_reason_says_and_runs_none_of_it(tmp_path):
    write_text(training(tmp_path, "a") / "failure.txt", "<script>alert(1)</script>\n")
    page = status.as_page(list(status.lines(tmp_path)))
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Refused, match="expected the folder of the run folders"):
        list(status.lines(Path(tmp_path / "none")))
