"""What the runs folder holds of an experiment: the run that finished last, and how far the others have come."""

import os

from common.files import write_text
from common.runs import Run
from experiments.base.runs import Found, find, latest, state
from tests.experiments.page.report_runs import everything, result, write_run


def test_latest_is_the_run_that_finished_last(tmp_path):
    assert latest(tmp_path / "nowhere", "table") is None
    for name, when in (("b", 200), ("a", 300), ("c", 100)):
        with Run(tmp_path / "table" / name) as run:
            (run.folder / "summary.json").write_text("[]")
            os.utime(run.folder / "summary.json", (when, when))
    with Run(tmp_path / "table" / "started"):
        pass
    assert latest(tmp_path, "table") == tmp_path / "table" / "a"


def test_state_of_a_run_made_of_several_trainings(tmp_path):
    assert state(tmp_path) == "no run yet"
    run = tmp_path / "demo"
    run.mkdir()
    (run / "run.lock").touch()
    (run / "config.json").write_text('{"model": {"baseline": {"epochs": 9}}}')
    assert state(tmp_path) == f"started: {run}"
    for seconds, part in enumerate(("rows/baseline", "rows/gwdl")):
        (run / part).mkdir(parents=True)
        (run / part / "history.csv").write_text("epoch,loss\n1,0.5\n2,0.4\n")
        os.utime(run / part / "history.csv", (seconds, seconds))
    assert state(tmp_path) == f"epoch 2: {run / 'rows' / 'gwdl'}"
    (run / "rows" / "gwdl" / "config.json").write_text('{"model": {"epochs": 34}}')
    assert state(tmp_path) == f"epoch 2 of 34: {run / 'rows' / 'gwdl'}"
    (run / "summary.json").write_text("[]")
    assert state(tmp_path) == f"finished: {run}"


def test_states_of_failed_stopped_and_repeated_runs(tmp_path):
    def attempt(state, reason=""):
        return {"experiment": "unet3d", "command": "", "state": state, "reason": reason, "seconds": 1.0}

    assert find(tmp_path, "unet3d", None) == Found("not run")
    write_text(tmp_path / "unet3d" / "stopped" / "run.lock", "")
    assert find(tmp_path, "unet3d", None).state == "not finished"
    failed = find(tmp_path, "unet3d", attempt("failed", "out of memory"))
    assert (failed.state, failed.reason) == ("failed", "out of memory")
    write_run(tmp_path, "unet3d", everything("unet3d"))
    found = find(tmp_path, "unet3d", attempt("failed", "no space left"))
    assert found.state == "finished"
    assert found.also == ("1 more in the same folder did not finish", "a later attempt failed: no space left")
    assert find(tmp_path, "unet3d", attempt("finished")).also == found.also[:1]


def test_of_several_finished_runs_the_last_is_shown_and_the_others_are_counted(tmp_path):
    write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.1)], name="old")
    new = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.2)], name="new")
    os.utime(tmp_path / "unet3d" / "old" / "summary.json", (1, 1))
    found = find(tmp_path, "unet3d", None)
    assert found.folder == new
    assert found.also == ("1 more finished earlier in the same folder",)
