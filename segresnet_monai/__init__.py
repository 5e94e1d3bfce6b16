"""SegResNet (MONAI, PyTorch, Lightning) for glioma sub-regions: the report's Table 1 and its variations."""

import os

# OpenMP threads that spin while they wait take the cores from loader processes and other programs: on two busy cores a
# training step took 1.2 s with spinning threads and 0.28 s with threads that sleep. It must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
