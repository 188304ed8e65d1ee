"""A backbone whose graph is built in a second, for tests of how a run goes and not of what it reaches."""

import keras
from keras import layers

from emo.models.backbones import BACKBONES, Backbone


def Tiny(include_top: bool = False, weights: None = None, input_shape: tuple = (32, 32, 3)) -> keras.Model:
    """Two convolutions with BatchNormalization, (size, size, 3) → (size / 8, size / 8, 32)."""
    inputs = x = keras.Input(input_shape)
    for block, filters, stride in (("block1", 16, 4), ("block2", 32, 2)):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=f"{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.ReLU(name=f"{block}_relu")(x)
    return keras.Model(inputs, x, name="tiny")


BACKBONES["tiny"] = Backbone("tests.tiny", "Tiny", "tf", 16, ("block1", "block2"), imagenet=False)
