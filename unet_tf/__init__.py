"""2.5D and 3D U-Nets (Keras 3) for glioma sub-regions: TensorFlow by default, torch and JAX with KERAS_BACKEND."""

import os

from common import signals

# TensorFlow reports its instruction sets and missing GPUs on every start; what fails is raised as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
signals.listen_in_command()
