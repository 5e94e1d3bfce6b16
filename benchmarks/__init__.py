"""Side-by-side timings against what a user would use instead: ``python -m benchmarks.loading`` and so on."""

from common import signals

signals.listen_in_command()
