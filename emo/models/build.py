"""input → preprocessing → backbone → head."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from emo.experiments import Experiment, parse_head
from emo.models.backbones import build_backbone, first_of_block, get_backbone, trainable_layers

PREPROCESSING_LAYER = "preprocessing"
LUMINANCE = np.array([[0.299], [0.587], [0.114]])  # ITU-R BT.601, as Pillow and OpenCV turn RGB to grey
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
# keras.applications.imagenet_utils' modes: (scale, offset) of RGB in 0–255, or (matrix, bias)
RESCALING = {"tf": (1 / 127.5, -1.0), "rescale": (1 / 255, 0.0)}
CONVOLUTION = {
    "caffe": (np.eye(3)[::-1], -np.array([103.939, 116.779, 123.68])),
    "grey": (np.tile(LUMINANCE / 127.5, 3), -np.ones(3)),
    "torch": (np.diag(1 / 255 / _IMAGENET_STD), -np.array([0.485, 0.456, 0.406]) / _IMAGENET_STD),
}
PREPROCESSING = ("none", *RESCALING, *CONVOLUTION)  # the modes of `preprocess`


def build_model(experiment: Experiment, class_count: int) -> keras.Model:
    """An uncompiled model: RGB pictures in 0–255, (n, size, size, 3) → probabilities, (n, class_count).

    Preprocessing is inside. What `experiment.unfreeze` leaves frozen is not trainable, its
    BatchNormalization layers included, so their statistics do not move; with `freeze_batch_norm` no
    BatchNormalization's do. Raises UserError where the weights cannot be had.
    """
    keras.utils.set_random_seed(experiment.seed)  # the initial weights are part of the run
    network = build_backbone(experiment.backbone, experiment.image_size, experiment.weights)
    train = trainable_layers(network, experiment.backbone, experiment.unfreeze)
    for layer in network.layers:
        keeps = experiment.freeze_batch_norm and isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer.name in train and not keeps

    images = keras.Input((experiment.image_size, experiment.image_size, 3), name="rgb_0_255")
    x = network(preprocess(images, get_backbone(experiment.backbone).preprocessing))
    for kind, value in parse_head(experiment.head):
        x = _head_layer(kind, value)(x)
    probabilities = layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(images, probabilities, name=f"emo_{experiment.backbone}")


def split_model(model: keras.Model, experiment: Experiment) -> tuple[keras.Model, keras.Model]:
    """The model of `build_model` cut where its frozen layers end: (frozen, rest), made of its own layers.

    `rest(frozen(pictures))` is `model(pictures)`, and what is trained in `rest` is trained in `model`. Where
    the whole backbone is frozen, the head's first layer (avg_pool or flatten) belongs to the frozen part.
    """
    network = model.get_layer(experiment.backbone)
    position = model.layers.index(network)
    head = model.layers[position + 1 :]
    if experiment.unfreeze == "none":
        return keras.Model(model.input, head[0].output), keras.Model(head[0].output, model.output)
    cut = first_of_block(network, experiment.unfreeze).input
    frozen = keras.Model(network.inputs, cut)(model.layers[position - 1].output)
    x = inputs = keras.Input(cut.shape[1:], dtype=cut.dtype)
    for layer in (keras.Model(cut, network.output), *head):
        x = layer(x)
    return keras.Model(model.input, frozen), keras.Model(inputs, x)


def copy_in(policy: str, model: keras.Model) -> keras.Model:
    """The same network with the same weights, computing in that Keras dtype policy.

    What half precision would round stays in float32: preprocessing, the mean over places, the last layer.
    """

    def copied(layer: keras.Layer) -> keras.Layer:
        exact = layer is model.layers[-1] or layer.name == PREPROCESSING_LAYER
        exact = exact or isinstance(layer, layers.GlobalAveragePooling2D)
        return type(layer).from_config(layer.get_config() | {"dtype": "float32" if exact else policy})

    copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def preprocess(images, mode: str):
    """`keras.applications`' `preprocess_input` as layers that a saved `.h5` can load again.

    `mode` is one of its names, "rescale" (to 0–1), "grey" (luminance in −1…1, three times) or "none".
    """
    if mode == "none":
        return images
    if mode in RESCALING:
        scale, offset = RESCALING[mode]
        return layers.Rescaling(scale, offset, dtype="float32", name=PREPROCESSING_LAYER)(images)
    matrix, bias = CONVOLUTION[mode]
    convolution = layers.Conv2D(3, 1, trainable=False, dtype="float32", name=PREPROCESSING_LAYER)
    preprocessed = convolution(images)
    convolution.set_weights([matrix.reshape(1, 1, 3, 3), bias])
    return preprocessed


def _head_layer(kind: str, value: float | None) -> keras.Layer:
    if kind == "flatten":
        return layers.Flatten()
    if kind == "avg_pool":
        return layers.GlobalAveragePooling2D(dtype="float32")  # half precision would round the mean
    if kind == "dropout":
        return layers.Dropout(value)
    return layers.Dense(value, activation="relu")
