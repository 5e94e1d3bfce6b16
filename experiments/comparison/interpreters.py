"""Python interpreters that a comparison may give its models and backends, and what they lack."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

PROBE = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name) is None))"
NOT_INSTALLED = "not installed"


def lacks(python: Path, packages: Sequence[str]) -> str | None:
    """What an interpreter lacks, in one line; None where it runs and has this suite and every package."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE, "experiments", *packages], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{python}: expected a Python interpreter, found: {error}"
    return f"{NOT_INSTALLED}: {', '.join(done.stdout.split())} (for {python})" if done.stdout.strip() else None
