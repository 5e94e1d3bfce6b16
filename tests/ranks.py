"""Processes of a group as threads of one process, for what they compute together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from common.processes import Group, Processes


def in_ranks(size, work, module, monkeypatch):
    """What work(rank) returns in each; module: whose processes they are."""
    here, meeting, sent = threading.local(), threading.Barrier(size, timeout=60), {}

    def exchanged(tensor):
        sent[here.rank] = tensor.detach().clone()
        meeting.wait()
        found = [sent[rank] for rank in range(size)]
        meeting.wait()
        return found

    def all_gather(parts, tensor):
        for part, found in zip(parts, exchanged(tensor), strict=True):
            part.copy_(found)

    def begin(rank):
        here.rank = rank
        return work(rank)

    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "all_gather", all_gather)
        patch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(sum(exchanged(tensor))))
        patch.setattr(module, "group", lambda: Group(Processes(rank=here.rank, size=size, per_node=size)))
        with ThreadPoolExecutor(size) as threads:
            return list(threads.map(begin, range(size)))
