"""What the runs folder holds of an experiment: the run that finished last, and how far the others have come."""

import os
from dataclasses import asdict

import pytest

from common.files import plain, write_json, write_text
from common.runs import Run, RunError
from experiments.base.runs import ORDER, Found, changed, find, pin, preset_of, shown, state
from experiments.evaluation.inputs import ScoreOptions
from experiments.mgmt.options import MgmtOptions
from tests.experiments.page.report_runs import everything, result, write_run


def test_the_run_that_finished_last_is_shown(tmp_path):
    assert shown(tmp_path / "nowhere", "table") is None
    for name, when in (("b", 200), ("a", 300), ("c", 100)):
        with Run(tmp_path / "table" / name) as run:
            (run.folder / "summary.json").write_text("[]")
            os.utime(run.folder / "summary.json", (when, when))
    with Run(tmp_path / "table" / "started"):
        pass
    assert shown(tmp_path, "table") == tmp_path / "table" / "a"


def test_options_that_choose_other_patients_are_told_from_their_defaults(tmp_path):
    for defaults in (asdict(MgmtOptions()), asdict(ScoreOptions(predictions=("a=b",), data=tmp_path))):
        write_json(tmp_path / "config.json", {"options": {**plain(defaults), "preset": "demo"}})
        assert changed(tmp_path) == ()
        assert preset_of(tmp_path) == "preset demo"
    write_json(tmp_path / "config.json", {"options": {"preset": "demo", "effect": 0.0, "changed": ["epochs=3"]}})
    assert preset_of(tmp_path) == "preset demo but epochs=3, effect=0.0"
    write_json(tmp_path / "config.json", {"options": {"effect": 0.0}})
    assert preset_of(tmp_path) == ""


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
    assert found.also == (
        f"1 more finished in the same folder; of those with their preset's own settings this one is first: {ORDER}",
    )


def test_a_trial_with_other_settings_does_not_replace_the_real_run(tmp_path):
    real = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.8)], name="real")
    trial = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.1)], name="trial")
    write_json(trial / "config.json", {"options": {"changed": ["epochs=6"]}})
    os.utime(real / "summary.json", (1, 1))
    found = find(tmp_path, "unet3d", None)
    assert found.folder == real
    assert found.also == ("1 more finished in the same folder; this one has its preset's own settings",)
    write_json(real / "config.json", {"options": {"changed": ["filters=2"]}})
    found = find(tmp_path, "unet3d", None)
    assert found.folder == trial
    assert found.also[0].endswith(f"none has its preset's own settings; this one, with epochs=6, is first: {ORDER}")


def test_neither_phantoms_nor_a_demo_nor_fewer_patients_displace_a_run_of_the_reports_settings(tmp_path):
    def run(name, when, *, synthetic, **options):
        config, data = {"options": options, "model": {}}, {"synthetic": synthetic}
        made = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice")], name=name, config=config, data=data)
        os.utime(made / "summary.json", (when, when))

    for when, (name, options) in enumerate(
        {
            "paper": {"synthetic": False, "preset": "paper", "max_subjects": None, "split_seed": 0},
            "small": {"synthetic": False, "preset": "demo"},
            "phantoms": {"synthetic": True, "preset": "demo"},
            "few": {"synthetic": False, "preset": "paper", "max_subjects": 10},
            "other_split": {"synthetic": False, "preset": "paper", "split_seed": 1},
        }.items()
    ):
        run(name, when, **options)
    assert changed(tmp_path / "unet3d" / "few") == ("max_subjects=10",)
    order = []
    while (found := shown(tmp_path, "unet3d")) is not None:
        order.append(found.name)
        (found / "summary.json").unlink()
    assert order == ["paper", "small", "phantoms", "other_split", "few"]


def test_a_pinned_run_is_shown_until_it_is_no_more(tmp_path):
    write_run(tmp_path, "unet3d", everything("unet3d"), name="new")
    old = write_run(tmp_path, "unet3d", everything("unet3d"), name="old")
    os.utime(old / "summary.json", (1, 1))
    assert shown(tmp_path, "unet3d").name == "new"
    pin(tmp_path, [f"unet3d={old}"])
    found = find(tmp_path, "unet3d", None)
    assert (found.folder, found.also) == (old, ("1 more finished in the same folder; this one is pinned",))
    with pytest.raises(RunError, match=r"expected a finished run in .*unet3d, found new, old$"):
        pin(tmp_path, ["unet3d=nowhere"])
    with pytest.raises(RunError, match="expected EXPERIMENT=FOLDER, received unet3d"):
        pin(tmp_path, ["unet3d"])
    assert shown(tmp_path, "unet3d") == old
    (old / "summary.json").unlink()
    assert find(tmp_path, "unet3d", None).state == "failed"
    with pytest.raises(RunError, match=r"shown\.json: expected a finished run in .*, found no old"):
        shown(tmp_path, "unet3d")
    pin(tmp_path, ["unet3d="])
    assert shown(tmp_path, "unet3d").name == "new"
    write_json(tmp_path / "shown.json", {"unet3d": 5})
    with pytest.raises(RunError, match="expected an experiment's run by name"):
        shown(tmp_path, "unet3d")
