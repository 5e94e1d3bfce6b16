"""The commands by one name, the list of what they have come to, and two runs side by side."""

import shutil
import signal
import subprocess
import sys

import pytest

from common.files import write_json
from common.runs import version
from experiments import __main__ as listing
from experiments import diff
from experiments.base import console
from experiments.base.options import Refused
from experiments.base.runs import available, commands, pin
from tests.experiments.conftest import ROOT
from tests.experiments.page.report_runs import result, write_run


def test_every_command_is_found_by_looking():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__"}
    assert set(commands()) == files | {"figures"}
    lines = listing.listing(ROOT / "nowhere")
    for command in commands():
        assert sum(line.split("\n")[0] == command for line in lines) == 1
    assert sum("no run yet" in line for line in lines) == len(available())


def test_every_run_is_listed_with_what_is_not_its_presets(tmp_path):
    real = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.8125)], name="real")
    trial = write_run(tmp_path, "unet3d", [result(key="unet3d.dice_WT", value=0.5)], name="trial")
    write_json(trial / "config.json", {"options": {"changed": ["epochs=6", "filters=2"]}})
    write_json(trial / "data.json", {"synthetic": False, "folder": "/scans/BraTS2021"})
    pooled = write_run(tmp_path, "unet3d", [result(key="unet3d.dice_WT", value=0.5)], name="folds")
    write_json(pooled / "config.json", {"options": {"data": "scans/own"}})
    (pooled / "data.json").unlink()  # of folds pooled
    pin(tmp_path, [f"unet3d={real}"])
    head, *rows = listing.every_run(tmp_path)
    assert head[0] == "experiment"
    assert rows == [
        ("unet3d", "folds", "own", f"finished: {pooled}", "-", "-"),
        ("unet3d", "real (pinned)", "phantoms", f"finished: {real}", "mean_dice 0.812", "-"),
        ("unet3d", "trial", "BraTS2021", f"finished: {trial}", "-", "epochs=6, filters=2"),
    ]


def test_two_runs_differ_in_what_was_set_and_found(tmp_path):
    runs = [
        write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=value)], name=name)
        for name, value in (("a", 0.8), ("b", 0.7))
    ]
    for run, epochs in zip(runs, (3, 4), strict=True):
        write_json(run / "config.json", {"experiment": "unet3d", "model": {"epochs": epochs, "deep": {"filters": 8}}})
    n = result().n
    assert diff.differences(*runs) == [("epochs", "3", "4"), ("result mean_dice", f"0.800 ({n})", f"0.700 ({n})")]
    assert diff.differences(runs[0], runs[0]) == []
    write_json(runs[0] / "config.json", {"experiment": "unet3d", "options": {"preset": "paper"}, "model": {}})
    write_json(runs[1] / "config.json", {"experiment": "unet3d", "options": {"preset": "demo"}, "model": {}})
    write_json(runs[1] / "data.json", {"synthetic": False})
    write_json(runs[1] / "split.json", {"train": ["a"], "validation": ["d"], "test": ["e", "f"]})
    assert diff.differences(*runs)[:3] == [
        ("preset", "paper", "demo"),
        ("of", "synthetic phantoms", "patients"),
        ("train cases", "3", "1"),
    ]
    write_json(runs[1] / "data.json", {"synthetic": False, "folder": "scans/own"})
    assert ("of", "synthetic phantoms", "patients of own") in diff.differences(*runs)
    with pytest.raises(Refused, match="expected the folder of a run, found no such folder"):
        diff.differences(runs[0], tmp_path / "nowhere")


def test_two_comparisons_differ_in_methods_cases_and_content(tmp_path, monkeypatch, capsys):
    runs = [
        write_run(tmp_path, "score", [result(key=f"score.{method}__mean_dice") for method in methods], name=name)
        for name, methods in (("a", ("ours", "theirs")), ("b", ("ours",)))
    ]
    for run, methods, digest, cases in zip(
        runs, (("ours", "theirs"), ("ours",)), "xy", ("all", "intersection"), strict=True
    ):
        method = {"folder": "maps", "values": "brats2018", "training": "not known", "missing": []}
        maps = {"label_maps": dict.fromkeys(methods, digest)}
        write_json(run / "config.json", {"experiment": "score", "options": {"cases": cases}})
        content = {"one": {"truth": "t", **maps}, "two": {"truth": "t", "label_maps": dict.fromkeys(methods, "same")}}
        write_json(run / "data.json", {"methods": dict.fromkeys(methods, method), "content": content})
    rows = {name: values for name, *values in diff.differences(*runs)}
    assert rows["cases"] == ["all", "intersection"]
    assert rows["ours: label maps"] == ["2", "2, other content: one"]
    assert rows["theirs: folder"] == ["maps", "-"]
    assert rows["results that the other lacks"] == ["1", "0"]
    assert "truths" not in rows
    monkeypatch.setattr("sys.argv", ["diff", *map(str, runs)])
    diff.main()
    assert "two seeds" not in capsys.readouterr().out  # nothing was trained


def test_runs_that_differ_by_their_seed_alone_are_told_what_that_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["diff", str(tmp_path / "unet3d" / "a"), str(tmp_path / "unet3d" / "b")])
    for epochs, said in ((3, "Only the seed differs"), (4, "One recipe trained with two seeds")):
        for seed, name in enumerate("ab"):
            value = [result(key="unet3d.mean_dice", value=0.5 + seed / 10), result(key="unet3d.dice_WT", value=0.5)]
            run = write_run(tmp_path, "unet3d", value, name=name)
            (run / "predictions").mkdir(exist_ok=True)
            model = {"epochs": epochs if seed else 3, "network": {"seed": seed}}
            write_json(run / "config.json", {"experiment": "unet3d", "model": model})
        diff.main()
        printed = capsys.readouterr().out
        assert said in printed
        assert ("experiments.score" in printed) == (epochs == 4)
        assert "results that are equal in both" in printed
    write_json(tmp_path / "unet3d" / "b" / "config.json", {"model": {"epochs": 3, "network": {"seed": 1}}})
    for run, commit in (("a", "1"), ("b", "2")):
        write_json(tmp_path / "unet3d" / run / "environment.json", [{"git_commit": commit}])
    diff.main()
    assert "Only the seed" not in capsys.readouterr().out  # the code does, too


def test_results_of_two_experiments_are_paired_and_the_test_of_their_difference_is_named(tmp_path, monkeypatch, capsys):
    runs = [
        write_run(tmp_path, name, [result(key=f"{name}.mean_dice", value=value)], name="run")
        for name, value in (("unet3d", 0.8), ("unet25d", 0.7))
    ]
    monkeypatch.setattr("sys.argv", ["diff", *map(str, runs)])
    diff.main()
    said = capsys.readouterr().out
    assert sum(line.startswith("result mean_dice") for line in said.splitlines()) == 1
    assert said.endswith("is said by paired tests on the same cases\n")  # without label maps none can be had
    for run in runs:
        (run / "predictions").mkdir()
    diff.main()
    assert capsys.readouterr().out.endswith(f": python -m experiments.score --runs-of {runs[0]} {runs[1]}\n")


def test_one_name_for_all_commands(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["glioma-suite", *words])
        console.main()

    run()
    said = capsys.readouterr().out
    assert "table1-baseline\n" in said
    assert "figures\n" in said
    with pytest.raises(SystemExit, match=r"error: there is no command table1-baselin; table1-baseline\?"):
        run("table1-baselin")
    monkeypatch.delitem(sys.modules, "experiments.status", raising=False)
    with pytest.raises(SystemExit) as ended:
        run("status", "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m experiments.status")
    run("--version")
    assert capsys.readouterr().out == f"glioma-suite {version()}\n"
    with pytest.raises(SystemExit, match="error: expected --completion bash or zsh, received fish"):
        run("--completion", "fish")


@pytest.mark.parametrize("words", ["", "list"])
def test_a_reader_that_stops_reading_ends_the_command_silently(words):
    call = f"import sys; sys.argv[1:] = {words.split()}; from experiments.base.console import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as command:
        command.stdout.close()  # before anything was written
        assert command.stderr.read() == ""
    assert command.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_shell_completes_commands_their_options_and_files(monkeypatch, capsys):
    monkeypatch.setattr(console, "commands", lambda: ("diff", "table1_baseline", "table1_variations"))
    monkeypatch.setattr(sys, "argv", ["glioma-suite", console.COMPLETION])
    console.main()
    script = capsys.readouterr().out
    assert "#   echo 'source ~/.glioma-suite.bash' >> ~/.bashrc" in script

    def completed(*words):
        typed = f"COMP_WORDS=(glioma-suite {' '.join(map(repr, words))}); COMP_CWORD={len(words)}"
        asked = f'{script}\n{typed}; _glioma_suite; printf "%s\\n" "${{COMPREPLY[@]}}"; complete -p glioma-suite'
        shell = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        *found, how = shell.stdout.splitlines()
        assert "-o default" in how  # what is not completed is taken for a file
        return [each for each in found if each]

    assert completed("table1-") == ["table1-baseline", "table1-variations"]
    assert completed("li") == ["list"]
    assert completed("table1-baseline", "--model.epo") == ["--model.epochs"]
    assert completed("diff", "--model.epo") == []
    assert completed("table1-baseline", "--data", "/tm") == []
