"""A function in a process of its own, run by a Python interpreter of choice; why it failed is left in a file.

The parent's half calls :func:`run`; ``python -m experiments.comparison.processes`` is the child's half. It needs the
standard library only, so that whatever its interpreter lacks is found and said.
"""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

PROBE = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name) is None))"
NOT_INSTALLED = "not installed"


def run(python: Path, function: str, folder: Path, *, packages: Sequence[str], backend: str, failure: Path) -> None:
    """Call ``function(folder)`` in a process that ends with this one; what stopped it is written to ``failure``.

    python: the interpreter. function: ``package.module:name``. packages: what the interpreter must have beside this
    suite; they are looked up before the process starts. backend: Keras' backend there, or ``torch`` for PyTorch alone.
    """
    failure.unlink(missing_ok=True)
    command = [python, "-m", "experiments.comparison.processes", function, folder, failure]
    reason = lacks(python, ("experiments", *packages))
    if reason is None:
        # The child watches its standard input, which closes with this process however that ends.
        environment = {**os.environ, "KERAS_BACKEND": backend}
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
            reason = _ending(process.wait())
    if reason is not None and not failure.exists():
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(f"{reason}\n", encoding="utf-8")


def lacks(python: Path, packages: Sequence[str]) -> str | None:
    """What an interpreter lacks, in one line; None where it runs and has every package."""
    try:
        done = subprocess.run([python, "-c", PROBE, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{python}: expected a Python interpreter, found: {error}"
    return f"{NOT_INSTALLED}: {', '.join(done.stdout.split())} (for {python})" if done.stdout.strip() else None


def _ending(status: int) -> str | None:
    if status == 0:
        return None
    if status == -signal.SIGKILL:
        return "the process was killed, as the system does for want of memory"
    return f"the process ended with {f'exit status {status}' if status > 0 else signal.Signals(-status).name}"


def _end_with_the_command() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock a thread must not hold when Python ends
    os._exit(1)


def main() -> None:
    function, folder, failure = sys.argv[1:]
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        # TensorBoard and Keras import it wherever it is installed; its memory would count as another framework's.
        sys.modules["tensorflow"] = None
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(Path(folder))
    except Exception:  # whatever stopped it, each framework having errors of its own, is the row's result
        text = traceback.format_exc()
        print(text, file=sys.stderr)
        Path(failure).write_text(text, encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
