"""The network: a U-Net of plain Keras layers, in two or three dimensions."""

from itertools import count
from math import log, prod, sqrt

import keras
import numpy as np
from keras import layers

from common.costs import Convolution
from common.labels import CLASSES, REGIONS


@keras.saving.register_keras_serializable(package="unet_tf")
class HeNormal(keras.initializers.Initializer):
    """He et al. 2015, drawn with numpy: the same on every backend, and nothing for JAX to compile."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> keras.KerasTensor:
        drawn = np.random.default_rng(self.seed).normal(0, sqrt(2 / prod(shape[:-1])), shape)
        return keras.ops.convert_to_tensor(drawn, dtype)

    def get_config(self) -> dict[str, int]:
        return {"seed": self.seed}


def build_unet(
    *,
    spatial_dims: int = 3,
    in_channels: int = 4,
    filters: int = 16,
    levels: int = 4,
    dropout: float = 0.2,
    normalisation: str = "none",
    regions: bool = False,
    initial_probability: float | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> keras.Model:
    """U-Net (Ronneberger 2015, Çiçek 2016), padded: (n, ..., channel) to probabilities (n, ..., class).

    ``levels`` encoder blocks with max-pooling, a bottom block, as many decoder blocks with transposed convolutions, and
    a 1x1 convolution with softmax over CLASSES. ``...`` is (x, y) or (x, y, z), of any sides that are multiples of 2 to
    the power of ``levels``. 16 filters, 4 levels: 5 646 260 parameters in 3D with 4 channels, 1 941 588 in 2D with 6.
    normalisation: ``instance`` normalises each channel of each sample before its ReLU (Ulyanov 2016).
    regions: the outputs are the logits (n, ..., ET/TC/WT) of nested regions.
    initial_probability sets the last bias so that the untrained network gives every tumour label, or region, about that
    probability (Lin et al. 2017). Outputs are float32 in every precision. The initial weights are a function of
    ``seed``.
    """
    convolution = {2: layers.Conv2D, 3: layers.Conv3D}[spatial_dims]
    transposed = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[spatial_dims]
    pooling = {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}[spatial_dims]
    seeds = count(1000 * seed)

    def initial() -> HeNormal:
        return HeNormal(seed=next(seeds))

    def block(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        x = convolve(x, width)
        x = layers.Dropout(dropout, seed=next(seeds), dtype=precision)(x)
        return convolve(x, width)

    def convolve(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        shared = {"padding": "same", "kernel_initializer": initial(), "dtype": precision}
        if normalisation == "none":
            return convolution(width, 3, activation="relu", **shared)(x)
        x = layers.GroupNormalization(groups=-1, dtype=precision)(convolution(width, 3, **shared)(x))
        return layers.Activation("relu", dtype=precision)(x)

    image = keras.Input((*[None] * spatial_dims, in_channels))
    x, skips = image, []
    for level in range(levels):
        x = block(x, filters * 2**level)
        skips.append(x)
        x = pooling(2, dtype=precision)(x)
    x = block(x, filters * 2**levels)
    for level in reversed(range(levels)):
        width = filters * 2**level
        x = transposed(width, 2, strides=2, kernel_initializer=initial(), dtype=precision)(x)
        x = block(layers.Concatenate(dtype=precision)([skips[level], x]), width)
    last = convolution(len(REGIONS if regions else CLASSES), 1, kernel_initializer=initial(), dtype=precision)
    output = layers.Activation("linear", dtype="float32") if regions else layers.Softmax(dtype="float32")
    network = keras.Model(image, output(last(x)), name=f"unet{spatial_dims}d")
    if initial_probability is not None and regions:
        last.bias.assign([log(initial_probability / (1 - initial_probability))] * len(REGIONS))
    elif initial_probability is not None:
        background = 1 - (len(CLASSES) - 1) * initial_probability
        last.bias.assign([log(background / initial_probability), *[0.0] * (len(CLASSES) - 1)])
    return network


def convolutions(network: keras.Model, input_shape: tuple[int, ...]) -> list[Convolution]:
    """Every convolution of one forward pass over one sample: (x, y, z, contrast) in 3D, (x, y, channel) in 2D."""
    network = keras.models.clone_model(network, input_tensors=keras.Input(input_shape))
    found = []
    for layer in network.layers:
        if hasattr(layer, "kernel_size"):
            transposed = isinstance(layer, (layers.Conv2DTranspose, layers.Conv3DTranspose))
            *positions, out_channels = layer.output.shape[1:]
            *inputs, in_channels = layer.input.shape[1:]
            found.append(
                Convolution(
                    positions=prod(inputs if transposed else positions),
                    kernel=layer.kernel_size,
                    in_channels=in_channels,
                    out_channels=out_channels,
                )
            )
    return found
