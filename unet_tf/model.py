"""The network: a U-Net of plain Keras layers, in two or three dimensions."""

from itertools import count
from math import prod

import keras
from keras import layers

from common.costs import Convolution
from common.labels import CLASSES


def build_unet(
    *,
    spatial_dims: int = 3,
    in_channels: int = 4,
    filters: int = 16,
    levels: int = 4,
    dropout: float = 0.2,
    precision: str = "float32",
    seed: int = 0,
) -> keras.Model:
    """U-Net (Ronneberger 2015, Çiçek 2016), padded: (n, ..., channel) to probabilities (n, ..., class).

    ``levels`` encoder blocks with max-pooling, a bottom block, as many decoder blocks with transposed convolutions, and
    a 1x1 convolution with softmax over CLASSES. ``...`` is (x, y) or (x, y, z), of any sides that are multiples of 2 to
    the power of ``levels``. 16 filters, 4 levels: 5.65 million parameters in 3D with 4 channels, 1.94 in 2D with 6.
    Probabilities are float32 in every precision. The initial weights are a function of ``seed`` and the backend.
    """
    convolution = {2: layers.Conv2D, 3: layers.Conv3D}[spatial_dims]
    transposed = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[spatial_dims]
    pooling = {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}[spatial_dims]
    seeds = count(1000 * seed)

    def initial() -> keras.Initializer:
        return keras.initializers.HeNormal(seed=next(seeds))

    def block(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        x = convolution(width, 3, padding="same", activation="relu", kernel_initializer=initial(), dtype=precision)(x)
        x = layers.Dropout(dropout, seed=next(seeds), dtype=precision)(x)
        return convolution(width, 3, padding="same", activation="relu", kernel_initializer=initial(), dtype=precision)(
            x
        )

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
    scores = convolution(len(CLASSES), 1, kernel_initializer=initial(), dtype=precision)(x)
    return keras.Model(image, layers.Softmax(dtype="float32")(scores), name=f"unet{spatial_dims}d")


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
