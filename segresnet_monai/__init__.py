"""SegResNet (MONAI, PyTorch, Lightning) for glioma sub-regions: the report's Table 1 and its variations."""

import os

from common import signals

# OpenMP threads that spin while they wait take the cores from loader processes and other programs; threads that sleep
# at once wake up late. A short spin is the best of both (docs/LOG.md). GNU OpenMP reads it when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "500")
signals.listen_in_command()
