"""One module per result of the report: ``python -m experiments`` lists them."""

import os
import sys
import threading

from common import signals

signals.listen_in_command()


def _end_with_stdin() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock a thread must not hold when Python ends
    os._exit(1)


# A command that experiments.base.trainings has started ends with its runner, of which it holds the end of a pipe: the
# system closes that however the runner ends.
if os.environ.pop("EXPERIMENTS_END_WITH_STDIN", None):
    threading.Thread(target=_end_with_stdin, daemon=True).start()
