"""How a command ends when it is asked to: in a sentence, with the exit status that shells know, and its workers too."""

import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCH_SECONDS = 0.5
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def listen_in_command() -> None:
    """``listen`` where this process was started as a command, with ``python -m``.

    Every package whose modules are commands calls this before it imports anything slow. What such a module is to
    another program (tests, a notebook, a worker process) changes nothing there.
    """
    if sys.argv[0] == "-m":  # what Python puts there until it has found the module that -m names
        listen()


def listen() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP end the program in a sentence, with status 128 + the signal's number.

    An ignored signal (nohup) stays so.
    """
    command = os.getpid()

    def leave(number: int, frame: object) -> None:
        if os.getpid() != command:  # a forked worker: the command itself has the word
            os._exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # asked a second time, it ends at once
        # Loader processes are asked too, and PyTorch takes their end, which it hears of, for a failure.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Not print: the signal may have come in the middle of another one.
        os.write(2, f"\nstopped by {signal.Signals(number).name}; the same command goes on\n".encode())
        sys.exit(128 + number)

    for number in ASKED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)


@contextmanager
def until_unread() -> Iterator[None]:
    """What reads this command's output may stop before its end, as head does: then it ends silently too."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # another pipe was meant
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(128 + signal.SIGPIPE)


def end_with_parent(*_: object) -> None:
    """In a worker process: end with the process that started it, however that one ends; elsewhere nothing.

    Linux tells; elsewhere a thread asks who the parent is, which a worker deep in compiled code may do late.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # On Linux for the one that was gone before this worker could ask to be told.
    threading.Thread(target=watch, daemon=True).start()
