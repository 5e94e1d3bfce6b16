"""One training in several JAX processes, one for each host, which ends where one process does but for the last digits.

Keras deals a step out among the devices of all processes; each process reads its own part of the batch.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.processes import ENDED, Group, Processes, unreachable
from common.runs import RunError

MEETING = timedelta(minutes=10)
# Until a process that says nothing is taken for lost, and until one that fails no longer waits for the others' end.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 60, 10


@contextmanager
def join(own: Processes) -> Iterator[Group]:
    """JAX's group of the processes. Where another has ended this one ends too, with a message or by JAX's hand."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Else gloo pairs what each process happens to do first.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # It takes SIGTERM for itself, which then ends nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            f"{os.environ['MASTER_ADDR']}:{int(os.environ['MASTER_PORT']) + 1}",  # torchrun listens at the port itself
            own.size,
            own.rank,
            initialization_timeout=int(MEETING.total_seconds()),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except RuntimeError as error:
        raise RunError(unreachable(own, MEETING, error)) from None
    try:
        yield Group(own, broadcast=lambda value: _gather(value)[0], gather=_gather)
    except (ValueError, RuntimeError) as error:
        if "Gloo" not in str(error):
            raise
        print(ENDED, file=sys.stderr, flush=True)
        os._exit(1)  # At Python's own end JAX would wait for the process that has gone, and abort.
    jax.distributed.shutdown()


def _gather(value: Any) -> list[Any]:
    own = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(own)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    every = multihost_utils.process_allgather(padded)
    return [pickle.loads(part[:length].tobytes()) for part, length in zip(every, lengths, strict=True)]
