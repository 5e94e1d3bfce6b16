"""Fine-tuning: what is taken over, what is made anew, what is refused, and exact resume."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

torch = pytest.importorskip("torch")

from common.files import write_json  # noqa: E402
from common.runs import Run, RunError  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.inference import build  # noqa: E402
from segresnet_monai.start import HEAD, find_start  # noqa: E402
from segresnet_monai.train import Training, fit, save_weights, start_from  # noqa: E402
from tests.segresnet_monai.test_train import SMALL  # noqa: E402

PLAIN = Config(**SMALL)
DEEP = {"crop_voxels": (32, 32, 32), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1), "dropout": 0.0}


def finished(folder, config, *, shift=0.0):
    """As much of a finished run's folder as another may start from."""
    network = build(replace(config, seed=99))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += shift
    save_weights(folder / "checkpoints" / f"{config.checkpoint}.pt", network)
    write_json(folder / "config.json", {"model": asdict(config)})
    write_json(folder / "summary.json", [])
    return network


def taken(network, source):
    """Names of the parameters that equal the source's."""
    theirs = source.state_dict()
    return {
        name for name, own in network.named_parameters() if name in theirs and torch.equal(own.detach(), theirs[name])
    }


@pytest.mark.parametrize("network", ["segresnet", "segresnet_ds", "pocket"])
def test_all_weights_are_taken_over_or_all_but_the_outputs(network, tmp_path):
    config = replace(PLAIN, **DEEP, network=network)
    source = finished(tmp_path, config, shift=0.01)  # no parameter equals a fresh one's by chance
    for changed in ({}, {"targets": "regions"}, {"loss": "gwdl"}):
        wanted = replace(config, **changed)
        tuned, fresh = build(wanted), build(wanted)
        start = find_start(tmp_path, wanted)
        start_from(start, tuned)
        names = {name for name, _ in tuned.named_parameters()}
        heads = {name for name in names if HEAD.search(name)}
        assert len(heads) in (1, 2)  # weight, bias
        assert start.new_outputs == bool(changed)
        assert taken(tuned, source) == (names - heads if changed else names)
        assert taken(tuned, fresh) == (heads if changed else set())


@pytest.mark.parametrize("network", ["segresnet_ds", "pocket"])
def test_further_supervised_levels_get_outputs_of_their_own(network, tmp_path):
    config = replace(PLAIN, **DEEP, network=network)
    source = finished(tmp_path, config, shift=0.01)
    wanted = replace(config, supervised_levels=2)
    tuned, fresh = build(wanted), build(wanted)
    start_from(find_start(tmp_path, wanted), tuned)
    anew = {name for name, _ in tuned.named_parameters()} - taken(tuned, source)
    assert anew == taken(tuned, fresh)
    assert len(anew) == 2
    assert all(HEAD.search(name) for name in anew)


def test_the_average_of_the_weights_starts_there_too(tmp_path):
    source = finished(tmp_path, PLAIN)
    training = Training(replace(PLAIN, weight_average=0.99), find_start(tmp_path, PLAIN))
    assert taken(training.average.module, source) == {name for name, _ in training.network.named_parameters()}


def test_another_network_is_refused_with_the_fields_that_differ(tmp_path):
    finished(tmp_path, PLAIN)
    wanted = replace(PLAIN, initial_filters=16, contrasts=("FLAIR", "T2"), learning_rate=1.0)
    with pytest.raises(RunError) as refused:
        find_start(tmp_path, wanted)
    assert "initial_filters 16 (there 8)" in str(refused.value)
    assert "contrasts ('FLAIR', 'T2')" in str(refused.value)
    assert "learning_rate" not in str(refused.value)


def test_of_a_study_of_folds_the_networks_are_named(tmp_path):
    (tmp_path / "networks.json").write_text('["folds/beyond1", "folds/beyond2"]')
    with pytest.raises(RunError, match=r"a study of folds: name one, .*/folds/beyond1, .*/folds/beyond2$"):
        find_start(tmp_path, Config())


def test_what_is_no_finished_run_or_has_changed_is_refused(tmp_path):
    finished(tmp_path / "run", PLAIN)
    start = find_start(tmp_path / "run", PLAIN)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert find_start(tmp_path / "copy", PLAIN).digest == start.digest
    finished(tmp_path / "run", PLAIN, shift=1e-6)
    with pytest.raises(RunError, match=f"expected the weights {start.digest}"):
        start_from(start, build(PLAIN))
    path = tmp_path / "copy" / "checkpoints" / "best.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="expected intact weights"):
        find_start(tmp_path / "copy", PLAIN)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match="expected a finished run to start from, found no summary"):
        find_start(tmp_path / "run", PLAIN)
    with pytest.raises(RunError, match="expected the folder of a run"):
        find_start(tmp_path, PLAIN)


def test_a_stopped_fine_tuning_goes_on_with_the_same_bits(tiny_entries, tmp_path, monkeypatch):
    config = replace(PLAIN, epochs=3, crops_per_epoch=2, validate_every=1)
    source = finished(tmp_path / "source", config)
    start = find_start(tmp_path / "source", config)

    def tune(name):
        with Run(tmp_path / name) as run:
            fit(tiny_entries[:2], tiny_entries[2:3], config, run, start=start)

    tune("whole")
    with monkeypatch.context() as patched:
        kept = Training.on_train_epoch_start

        def stop(self):
            kept(self)
            if self.current_epoch == 2:
                raise KeyError("stopped")

        patched.setattr(Training, "on_train_epoch_start", stop)
        with pytest.raises(KeyError, match="stopped"):
            tune("stopped")
    shutil.rmtree(tmp_path / "source")  # needed for the first epoch only
    tune("stopped")
    whole, stopped = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    with Run(tmp_path / "scratch") as run:
        fit(tiny_entries[:2], tiny_entries[2:3], config, run)
    scratch = torch.load(tmp_path / "scratch" / "checkpoints" / "last.pt", weights_only=True)
    assert any(not torch.equal(whole[key], scratch[key]) for key in whole)
    assert json.dumps(sorted(whole)) == json.dumps(sorted(source.state_dict()))
