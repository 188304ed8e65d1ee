"""`emo_mini`: a small residual network of our own for faces from 48 px, fast on a CPU."""

from __future__ import annotations

import keras
from keras import layers

STEM, WIDTHS = 32, ((48, 1), (96, 2), (192, 1))  # filters and residual units of block2, block3, block4


def EmoMini(
    include_top: bool = False,
    weights: None = None,
    input_shape: tuple[int, int, int] = (48, 48, 3),
) -> keras.Model:
    """Pictures in −1…1, (size, size, 3) → feature maps, (size / 8, size / 8, 192). 0.87 million weights.

    Residual units of two 3×3 convolutions (He et al. 2016, "Identity Mappings in Deep Residual Networks",
    without its order), each with squeeze-and-excitation (Hu et al. 2018). It has no top and no weights of
    its own to fetch: `include_top` and `weights` are there because keras.applications have them.
    """
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, STEM, 1, "block1_conv")
    x = layers.ReLU(name="block1_relu")(x)
    for number, (filters, units) in enumerate(WIDTHS, start=2):
        for unit in range(1, units + 1):
            x = _residual(x, filters, 2 if unit == 1 else 1, f"block{number}_unit{unit}")
    return keras.Model(inputs, x, name="emo_mini")


def _residual(x, filters: int, stride: int, name: str):
    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(stride, padding="same", name=f"{name}_pool")(x)
        shortcut = _convolution(shortcut, filters, 1, f"{name}_shortcut", kernel=1)
    x = _convolution(x, filters, stride, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _convolution(x, filters, 1, f"{name}_conv2")
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    gate = layers.Conv2D(filters // 8, 1, activation="relu", name=f"{name}_excite1")(gate)
    gate = layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_excite2")(gate)
    x = layers.Multiply(name=f"{name}_gated")([x, gate])
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _convolution(x, filters: int, stride: int, name: str, kernel: int = 3):
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)
