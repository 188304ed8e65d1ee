"""Models of this project as a Keras newer than Colab's saves them, each with that Keras's own answers.

    pip install --no-deps --target NEWER keras==3.15.1
    PYTHONPATH=NEWER python -m tools.make_newer_keras_fixtures tests/data

With "whole" after the folder it makes one experiment of the seed a backbone, as the slow test does.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from emo.experiments import EXPERIMENTS, get_experiment
from emo.model import build_model, preprocess, save_model
from tools.make_keras2_fixtures import pictures_of, randomize


def small_model() -> keras.Model:
    """A model as `build_model` makes it, on a backbone of a few layers."""
    images = x = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="block1_conv1")(x)
    x = shortcut = layers.BatchNormalization(name="block1_conv1_bn")(x)
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Concatenate()([shortcut, layers.LeakyReLU(0.1)(x)])
    backbone = keras.Model(images, x, name="xception")
    backbone.trainable = False
    images = keras.Input((16, 16, 3), name="rgb_0_255")
    x = backbone(preprocess(images, "caffe"))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(3, activation="softmax", name="probabilities")(x))


def save(model: keras.Model, folder: Path, name: str) -> None:
    """`name`.h5 and, in `name`.npz, pictures with the probabilities that this Keras gives for them."""
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    randomize(backbone, seed=len(name))
    randomize(model.layers[-1], seed=1)
    pictures = pictures_of(model.input_shape[1:])
    while (probabilities := model.predict(pictures, verbose=0)).max() > 0.9:
        model.layers[-1].set_weights([weight / 2 for weight in model.layers[-1].get_weights()])
    save_model(model, folder / f"{name}.h5", {"class_names": ["anger", "happy", "sad"], "val_accuracy": 0.5})
    np.savez_compressed(folder / f"{name}.npz", pictures=pictures, probabilities=probabilities)
    print(name, keras.__version__, probabilities.argmax(axis=1), probabilities.max().round(2))


def main() -> None:
    """Makes the fixture, or the whole models."""
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["whole"]:
        for number in ("12", "2", "8"):
            size = 71 if EXPERIMENTS[number].backbone == "xception" else 32
            model = build_model(get_experiment(number, weights=None, image_size=size), 3)
            save(model, folder, f"experiment_{number}")
    else:
        save(small_model(), folder, "newer_keras")


if __name__ == "__main__":
    main()
