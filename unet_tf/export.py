"""Trained U-Nets as ONNX files for other programs, and such a file as a network that predicts.

The graph is written from the network's layers, which needs nothing but the onnx package and no backend, and has
channels where ONNX wants them. Keras' own export (3.15) needs tf2onnx on TensorFlow, and fails on torch in 3D.
"""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import onnx
from keras import layers
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit

from common.exported import Agreement, Exported, agreement, sealed
from unet_tf.config import Config

KIND = "unet"
INPUT, OUTPUT = "image", "output"
OPSET, IR_VERSION = 17, 8  # of 2022: older programs open it


def to_onnx(network: keras.Model, config: Config, path: Path, about: Mapping[str, object]) -> None:
    """Write the network: ``image`` (n, channel, x, y, z), in 2.5D (slice, channel, x, y), to ``output`` alike.

    The output is what the network's is: a softmax over the classes, or logits of regions.
    """
    sides = config.grid_voxels[: config.spatial_dims]
    nodes, weights, names = [], [], {}

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def add(kind: str, name: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def convolved(layer: layers.Layer, source: list[str]) -> str:
        transposed = isinstance(layer, (layers.Conv2DTranspose, layers.Conv3DTranspose))
        kernel, bias = layer.get_weights()
        # Keras: (..., in, out), transposed (..., out, in); ONNX: (out, in, ...), transposed (in, out, ...).
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
        values = [constant(f"{layer.name}.kernel", kernel), constant(f"{layer.name}.bias", bias)]
        shared = {"kernel_shape": layer.kernel_size, "strides": layer.strides}
        if transposed:
            name = add("ConvTranspose", layer.name, source + values, **shared)
        else:
            name = add("Conv", layer.name, source + values, auto_pad="SAME_UPPER", **shared)
        return add("Relu", f"{layer.name}.relu", [name]) if layer.activation is keras.activations.relu else name

    for layer in network.layers:
        given = layer.input if isinstance(layer.input, list) else [layer.input]
        source = [names.get(tensor.name) for tensor in given]
        match layer:
            case layers.InputLayer():
                name = INPUT
            case layers.Activation() if layer.activation is keras.activations.relu:
                name = add("Relu", layer.name, source)
            case layers.Dropout() | layers.Activation():
                name = source[0]
            case layers.GroupNormalization():  # of as many groups as channels
                scaling = [constant(weight.path, keras.ops.convert_to_numpy(weight)) for weight in layer.weights]
                name = add("InstanceNormalization", layer.name, source + scaling, epsilon=layer.epsilon)
            case layers.MaxPooling2D() | layers.MaxPooling3D():
                name = add("MaxPool", layer.name, source, kernel_shape=layer.pool_size, strides=layer.strides)
            case layers.Concatenate():
                name = add("Concat", layer.name, source, axis=1)
            case layers.Softmax():
                name = add("Softmax", layer.name, source, axis=1)
            case _:
                name = convolved(layer, source)
        names[layer.output.name] = name
    nodes[-1].output[0] = OUTPUT
    inputs = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", config.channels, *sides])
    outputs = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", network.output.shape[-1], *sides])
    graph = helper.make_graph(nodes, network.name, [inputs], [outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    path.write_bytes(sealed(model, about))


def example(config: Config, *, seed: int = 0) -> np.ndarray:
    """What the network sees at once, (1, x, y, z, contrast) or (slice, x, y, channel), of noise between 0 and 1."""
    *sides, depth = config.grid_voxels
    first, sides = (1, (*sides, depth)) if config.spatial_dims == 3 else (min(depth, 4), sides)
    return np.random.default_rng(seed).random((first, *sides, config.channels), np.float32)


class FromOnnx:
    """An exported file where a Keras network is expected."""

    def __init__(self, file: Exported) -> None:
        self.file = file

    def predict_on_batch(self, x: np.ndarray) -> np.ndarray:
        """(n, ..., channel) to (n, ..., channel)."""
        found = self.file(**{INPUT: np.ascontiguousarray(np.moveaxis(x, -1, 1), np.float32)})
        return np.moveaxis(found[OUTPUT], 1, -1)


def load_onnx(path: str | Path) -> tuple[FromOnnx, Config]:
    """As :func:`unet_tf.inference.load_run`, of an exported file. Raises RunError when it is damaged."""
    file = Exported(path, kind=KIND, model=dict)
    return FromOnnx(file), file.model(file.about["model"], Config)


def agrees(network: keras.Model, config: Config, path: Path) -> Agreement:
    """How near the probabilities of a written file come to the network's own on :func:`example`."""
    exported, seen = load_onnx(path)[0], example(config, seed=1)

    def of(one: keras.Model | FromOnnx) -> np.ndarray:
        outputs = np.asarray(one.predict_on_batch(seen))
        return expit(outputs) if config.targets == "regions" else outputs

    return agreement(path, run=lambda: of(network), file=lambda: of(exported))
