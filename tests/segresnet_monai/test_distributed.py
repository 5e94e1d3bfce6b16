"""A step's crops in several processes: losses, gradients and dropout are those of one process."""

import pytest

torch = pytest.importorskip("torch")

from common.processes import Group, Processes  # noqa: E402
from common.runs import RunError, configuration_hash  # noqa: E402
from segresnet_monai import distributed  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.losses import LOSSES  # noqa: E402
from tests.ranks import in_ranks  # noqa: E402


def shares(samples, size):
    """As common.processes.Shares gives them, samples that stand in last."""
    most = -(-len(samples) // size)
    parts = [list(range(rank, len(samples), size)) for rank in range(size)]
    return [samples[part + (part or [0])[:1] * (most - len(part))] for part in parts]


@pytest.mark.parametrize(("n", "size"), [(4, 2), (5, 2), (1, 2), (5, 3)])
@pytest.mark.parametrize("loss", ["batch_dice_bce", "hausdorff"])
def test_a_loss_and_its_gradient_are_those_of_the_whole_step(loss, n, size, monkeypatch):
    generator = torch.Generator().manual_seed(n)
    logits = torch.randn(n, 3, 4, 5, 4, generator=generator)
    channels = torch.rand(n, 3, 4, 5, 4, generator=generator) > 0.5
    alone = logits.clone().requires_grad_()
    wanted = LOSSES[loss](alone, channels)
    wanted.backward()

    def work(rank):
        own = shares(logits, size)[rank].requires_grad_()
        truth = distributed.whole(shares(channels.byte(), size)[rank], n)
        assert torch.equal(truth.bool(), channels)
        found = LOSSES[loss](distributed.whole(own, n), truth)
        found.backward()
        return found.detach(), own.grad / size  # as DDP averages

    for rank, (found, gradient) in enumerate(in_ranks(size, work, distributed, monkeypatch)):
        torch.testing.assert_close(found, wanted.detach())
        own = alone.grad[rank::size]
        torch.testing.assert_close(gradient[: len(own)], own)
        assert not gradient[len(own) :].any()


@pytest.mark.parametrize("n", [4, 3, 1])
def test_dropout_is_drawn_for_the_whole_step(n, monkeypatch):
    x = torch.rand(n, 6, 3, 4, 5)
    torch.manual_seed(7)
    wanted = torch.nn.functional.dropout3d(x, 0.4)
    network = torch.nn.Dropout3d(0.4)
    distributed.draw_together(network, lambda: n)
    for rank in range(2):
        monkeypatch.setattr(distributed, "group", lambda rank=rank: Group(Processes(rank=rank, size=2, per_node=2)))
        torch.manual_seed(7)
        found = network(shares(x, 2)[rank])
        torch.testing.assert_close(found[: len(wanted[rank::2])], wanted[rank::2])
    assert torch.equal(network.eval()(x), x)


def test_the_number_of_processes_is_no_part_of_a_name():
    config = Config(batch_size=4)
    assert configuration_hash(config) == configuration_hash(Config(batch_size=4, devices=2, nodes=2))
    for wrong in ({"devices": 3}, {"devices": 0}, {"devices": 2, "vae": True}, {"devices": 2, "network": "pocket"}):
        with pytest.raises(ValueError, match="expected"):
            Config(batch_size=4, **wrong)


def test_a_training_of_two_is_not_begun_by_one():
    with pytest.raises(RunError, match=r"expected 2 processes .* found 1; torchrun"):
        distributed.trainer_settings(Config(batch_size=2, devices=2))
