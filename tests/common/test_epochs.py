"""The files of an epoch and their order, where a training goes on, and what ends it."""

import errno
import math
import zipfile

import pytest

from common.epochs import Epochs
from common.runs import Run, RunError

WEIGHTS = "weights"


def write_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("numbers", b"0123456789")


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run") as opened:
        yield opened


def opened(run, total=3):
    return Epochs(run, total, checkpoint="last.zip", weights=".txt")


def finish(epochs, *, score=None, loss=0.5, save_weights=lambda path: path.write_text(WEIGHTS), **changes):
    epochs.start()
    epochs.step()
    changes = {"save_checkpoint": write_archive, "save_last": False} | changes
    return epochs.finish({"loss": loss}, score=score, save_weights=save_weights, **changes)


def test_the_checkpoint_is_written_last(run, tmp_path):
    seen = []

    def note(what, write):
        def noted(path):
            seen.append((what, sorted(p.name for p in run.folder.rglob("*") if p.suffix in (".txt", ".csv", ".zip"))))
            write(path)

        return noted

    epochs = opened(run)
    epochs.begin(done=0, steps=1)
    finish(
        epochs,
        score=(0.5,),
        save_last=True,
        save_weights=note("weights", lambda path: path.write_text(WEIGHTS)),
        save_checkpoint=note("checkpoint", write_archive),
    )
    epochs.end()
    assert seen == [("weights", []), ("weights", ["best.txt"]), ("checkpoint", ["best.txt", "history.csv", "last.txt"])]


def test_best_weights_are_those_of_the_first_highest_score(run):
    epochs = opened(run, total=6)
    epochs.begin(done=0, steps=1)
    kept = []
    for number, score in enumerate([None, (0.5, -2.0), (0.5, -1.0), (0.5, -1.0), (0.4, 0.0), (0.6, -9.0)], 1):
        finish(epochs, score=score, save_weights=lambda path, number=number: kept.append((path.name, number)))
    epochs.end()
    assert kept == [("best.txt", 2), ("best.txt", 3), ("best.txt", 6)]
    assert epochs.best == (0.6, -9.0)
    rows = run.history.frame()
    assert rows["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["steps"].tolist() == [1] * 6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_with_what_was_good(run, value):
    epochs = opened(run)
    epochs.begin(done=0, steps=1)
    finish(epochs, score=(0.1,))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"finite losses, found loss {value} in epoch 2; .*lower the learning rate"):
        finish(epochs, score=(0.9,), loss=value)
    epochs.end()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
@pytest.mark.parametrize("what", ["save_weights", "save_checkpoint"])
def test_a_full_disk_is_a_sentence_that_names_the_file(run, what, error):
    def fail(path):
        raise error

    epochs = opened(run)
    epochs.begin(done=0, steps=1)
    name = {"save_weights": "best.txt", "save_checkpoint": "last.zip"}[what]
    with pytest.raises(RunError, match=rf"checkpoints/{name}: cannot be written: .*goes on from there"):
        finish(epochs, score=(1.0,), **{what: fail})
    epochs.end()
    assert not list(run.folder.rglob("*.part"))


def test_every_flipped_bit_of_a_checkpoints_numbers_is_refused_before_it_is_restored(run):
    run.checkpoints.mkdir()
    path = run.checkpoints / "last.zip"
    write_archive(path)
    intact = path.read_bytes()
    first = intact.index(b"0123456789")
    for bit in range(80):
        damaged = bytearray(intact)
        damaged[first + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with (
            pytest.raises(RunError, match=r"last\.zip: expected an intact checkpoint.*--fresh"),
            opened(run).resuming(),
        ):
            pytest.fail("restored")
    path.write_bytes(intact)
    with opened(run).resuming() as found:
        assert found == path


def test_an_error_of_the_training_is_not_taken_for_a_damaged_checkpoint(run):
    run.checkpoints.mkdir()
    write_archive(run.checkpoints / "last.zip")
    with pytest.raises(RunError, match="found: 'no such key'"), opened(run).resuming():
        raise KeyError("no such key")
    epochs = opened(run)
    epochs.begin(done=0, steps=1)
    epochs.end()
    with pytest.raises(KeyError), epochs.resuming():
        raise KeyError("no such key")


@pytest.mark.parametrize(
    "content", ["", "epoch\n1\n", "epoch\n1\n3\n", "epoch\none\n2\n", "loss\n1\n2\n", "epoch,a\n1\n2,3\n"]
)
def test_a_history_that_is_not_the_checkpoints_is_refused_before_training(run, content):
    run.history.path.write_text(content)
    with pytest.raises(RunError, match=r"history\.csv: expected .*--fresh starts over"):
        opened(run).begin(done=2, steps=1)
    run.history.path.write_text("epoch\n1\n2\n3\n")  # a kill came between its row and the checkpoint
    epochs = opened(run)
    epochs.begin(done=2, steps=1)
    epochs.end()
