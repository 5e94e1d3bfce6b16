"""What the model packages share: reading scans, the prepared store, splits, metrics, scores and runs.

No deep-learning framework is imported anywhere below this package; import-linter checks it.
"""

from common import signals

signals.listen_in_command()
