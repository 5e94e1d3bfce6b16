"""What the backend is asked for: where a network is trained, in which precision, and what memory it took."""

import contextlib

import keras

from common.precision import resolve
from common.processes import group
from common.runs import RunError
from unet_tf.config import Config


def policy(config: Config) -> str:
    """Keras' dtype policy of a configuration's network on the backend's device."""
    if config.precision != "auto":
        return config.precision
    found = resolve("auto", mixed_precision=True, gpu=bool(gpus()))
    # TensorFlow's CPU adds the gradient of a bias up in bfloat16, which soon has no room for another term (2.21).
    wrong = found == "bfloat16" and keras.backend.backend() == "tensorflow"
    return "float32" if found == "float32" or wrong else f"mixed_{found}"


def _is_broken(config: Config) -> bool:
    """Whether TensorFlow's bfloat16 on a CPU gives this network gradients that are no numbers.

    Where the first axis has two voxels, oneDNN leaves the gradient of a 3D convolution's kernel what was in memory
    (TensorFlow 2.21; sides of 1, 3 and more are right, and so are 2D, torch and JAX).
    """
    two = any(config.grid_voxels[0] == 2 * 2**level for level in range(config.levels + 1))
    return two and config.spatial_dims == 3 and keras.backend.backend() == "tensorflow" and not gpus()


def shared(config: Config) -> contextlib.AbstractContextManager:
    """Where the network is trained: on several GPUs or hosts by the route that Keras supports for its backend."""
    backend, found = keras.backend.backend(), gpus()
    if config.precision == "mixed_float16" and backend == "tensorflow" and not found:
        raise RunError("expected a GPU for mixed_float16 on TensorFlow, found none; a CPU can do mixed_bfloat16")
    if config.precision == "mixed_bfloat16" and _is_broken(config):
        raise RunError(
            f"expected no level of two voxels along x for mixed_bfloat16 on TensorFlow's CPU, found {config.levels} "
            f"levels below {config.grid_voxels[0]} voxels, whose gradients it gets wrong: take other sides, or float32"
        )
    group().check(devices=1, nodes=config.nodes)
    if config.nodes > 1:
        return _of_all_processes(config)
    if config.devices == 1:
        return contextlib.nullcontext()
    if backend == "torch":
        raise RunError(f"expected the TensorFlow or JAX backend for {config.devices} devices, found {backend}")
    if len(found) < config.devices:
        raise RunError(f"expected {config.devices} GPUs, found {len(found)}")
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.distribute.MirroredStrategy(found[: config.devices]).scope()
    return keras.distribution.DataParallel(devices=found[: config.devices]).scope()


def _of_all_processes(config: Config) -> contextlib.AbstractContextManager:
    """Every device of every process, each of which brings its own part of a step's batch (JAX)."""
    import jax

    if jax.local_device_count() != config.devices:
        raise RunError(
            f"expected {config.devices} devices in each process (model.devices), found {jax.local_device_count()}; "
            "CUDA_VISIBLE_DEVICES says which of a host's GPUs a process sees"
        )
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices(), auto_shard_dataset=False).scope()


def gpus() -> list[str]:
    """Names of this host's GPUs, as the backend calls them."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return [device.name for device in tensorflow.config.list_logical_devices("GPU")]
    if backend == "jax":
        import jax

        return keras.distribution.list_devices("gpu") if jax.default_backend() == "gpu" else []
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def gpu_peak_mib() -> float | None:
    """The most memory that this process has used on one GPU, in MiB; None without a GPU."""
    if not gpus():
        return None
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        peak = tensorflow.config.experimental.get_memory_info("GPU:0")["peak"]
    elif backend == "jax":
        import jax

        peak = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    else:
        import torch

        peak = torch.cuda.max_memory_allocated()
    return peak / 2**20
