"""A step's patients in several processes: batch normalisation and dropout are those of one process."""

import copy

import pytest

torch = pytest.importorskip("torch")

from common.processes import Group, Processes  # noqa: E402
from mgmt_classifier import distributed  # noqa: E402
from mgmt_classifier.config import Config  # noqa: E402
from tests.ranks import in_ranks  # noqa: E402


@pytest.mark.parametrize("n", [4, 5, 2])
def test_batch_normalisation_is_pytorchs_of_the_whole_step(n, monkeypatch):
    size, generator = 2, torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, 2, 4, 5, generator=generator) * 3 + 7
    weigh = torch.randn(n, 3, 2, 4, 5, generator=generator)
    alone = torch.nn.BatchNorm3d(3)
    torch.nn.init.normal_(alone.weight, generator=generator)
    networks = [copy.deepcopy(alone) for _ in range(size)]
    whole = x.clone().requires_grad_()
    wanted = alone(whole)
    (wanted * weigh).sum().backward()
    most = -(-n // size)

    def work(rank):
        part = list(range(rank, n, size))
        padded = part + part[:1] * (most - len(part))
        own = x[padded].requires_grad_()
        distributed.compute_together(networks[rank], lambda: n)
        found = networks[rank](own)
        (found[: len(part)] * weigh[part]).sum().backward()
        return found.detach()[: len(part)], own.grad[: len(part)], networks[rank]

    found = in_ranks(size, work, distributed, monkeypatch)
    for rank, (values, gradient, network) in enumerate(found):
        torch.testing.assert_close(values, wanted.detach()[rank::size])
        torch.testing.assert_close(gradient, whole.grad[rank::size])
        torch.testing.assert_close(dict(network.named_buffers()), dict(alone.named_buffers()))
        torch.testing.assert_close(network.eval()(x), alone.eval()(x))
    torch.testing.assert_close(sum(network.weight.grad for *_, network in found), alone.weight.grad)


@pytest.mark.parametrize("n", [4, 3])
def test_dropout_is_drawn_for_the_whole_step(n, monkeypatch):
    x = torch.rand(n, 20)
    torch.manual_seed(7)
    wanted = torch.nn.functional.dropout(x, 0.5)
    network = torch.nn.Dropout(0.5)
    distributed.compute_together(network, lambda: n)
    for rank in range(2):
        monkeypatch.setattr(distributed, "group", lambda rank=rank: Group(Processes(rank=rank, size=2, per_node=2)))
        part = list(range(rank, n, 2))
        torch.manual_seed(7)
        found = network(x[part + part[:1] * (-(-n // 2) - len(part))])
        torch.testing.assert_close(found[: len(part)], wanted[part])


def test_processes_share_a_step_evenly():
    with pytest.raises(ValueError, match="expected batch_size to be a multiple of the 3 processes"):
        Config(batch_size=8, devices=3)
