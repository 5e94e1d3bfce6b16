"""SegResNet (MONAI, PyTorch, Lightning) for glioma sub-regions: the report's Table 1 and its variations."""

import os
import sys
from types import ModuleType

# OpenMP threads that spin while they wait take the cores from loader processes and other programs; threads that sleep
# at once wake up late. A short spin is the best of both (docs/LOG.md). GNU OpenMP reads it when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "500")

# TensorBoard's own switch, read when its writer is imported, as MONAI does: it would import TensorFlow wherever that is
# installed, seconds and 600 MiB of it.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
