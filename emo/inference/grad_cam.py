"""Where in a picture a classifier sees an emotion: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from emo.data.geometry import Crop
from emo.data.image_io import read_image, whole_image
from emo.errors import UserError
from emo.inference.classifier import Classifier
from emo.inference.ensemble import Committee
from emo.models.h5_config import IDENTITIES, Layer, Network, parse

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
# what comes after the last feature map only to make it smaller or pass it on
NO_FEATURES = IDENTITIES | {"AveragePooling2D", "Cropping2D", "Dropout", "MaxPooling2D"}


def grad_cam(
    classifier: Classifier,
    image: str | Path | Image.Image | np.ndarray,
    emotion: str | None = None,
    face: Crop | None = None,
) -> np.ndarray:
    """How much each place of the (upright) picture speaks for an emotion: (h, w) float32 in 0–1.

    The last feature map's channels, weighed by the mean gradient of the emotion's logit, summed, and divided
    by their largest value; what speaks against it is 0, as is what the model does not see. Where no place
    speaks for it, those that speak for it more than for the mean of all emotions. `emotion` is the
    predicted one unless given. `image` is what `read_image` takes; the model sees of it what `predict` shows
    it, or `face` (`Classifier.crops`). A committee's map is the mean of its members', that of a model that
    averages over mirror images the mean over both. Raises UserError for an emotion that the classifier does
    not know, a picture that cannot be read, and a network that has no feature map.
    """
    faces = None if face is None else [face]
    if emotion is None:
        emotion = classifier.predict([image], faces).emotion[0]
    elif emotion not in classifier.class_names:
        raise UserError(
            f"emotion={emotion!r} is unknown to {classifier.name}; choose one of "
            f"{', '.join(classifier.class_names)}."
        )
    members = classifier.members if isinstance(classifier, Committee) else (classifier,)
    size, maps = whole_image(image).size, []
    for member in members:
        (crop,) = member.crops([image], faces)
        pixels = read_image(image, member.image_size, crop)
        number = member.class_names.index(emotion)
        seen = feature_cam(member, pixels, number)
        if member.flip:
            seen = (seen + feature_cam(member, pixels[:, ::-1], number)[:, ::-1]) / 2
        maps.append(_onto_picture(seen, size, crop))
    return np.mean(maps, axis=0, dtype=np.float32)


def feature_cam(classifier: Classifier, pixels: np.ndarray, number: int) -> np.ndarray:
    """Grad-CAM at the size of the last feature map: (rows, columns) float32 in 0–1.

    `pixels`: (size, size, 3) as the network takes them; `number` is that of the class.
    """
    network = parse(json.loads(classifier.model.to_json()))
    made: dict[Layer, tf.Tensor] = {}
    with tf.GradientTape(persistent=True) as tape:
        images = tf.constant(pixels[None], tf.float32)
        tape.watch(images)  # and so all that is made of them
        _run(network, classifier.model, images, network.last, made)
        logits = made[network.last][0]
        scores = logits[number], logits[number] - tf.reduce_mean(logits)
    features = _last_feature_map(made)
    if features is None:
        raise UserError(
            f"{classifier.name} has no feature map that tells places apart, so Grad-CAM cannot show where it "
            "looks; choose a convolutional network, or one of larger pictures."
        )
    # a softmax answers by differences of logits: what wins may have a negative one
    for score in scores:
        gradient = tf.cast(tape.gradient(score, features), tf.float32)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        evidence = tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=3))[0].numpy()
        if evidence.any():
            return evidence / evidence.max()
    return evidence


def _run(network: Network, model: keras.Model, x, last: Layer, made: dict[Layer, tf.Tensor]) -> tf.Tensor:
    """Puts into `made` what each layer makes of `x`, those of inner networks included; of `last`, its logits.

    Called as a whole, a model tells nothing of what happens in a network that is one of its layers.
    """
    outputs = {network.input: x}
    for layer in network.layers:
        given = [outputs[name] for name in layer.inputs]
        given = given[0] if len(given) == 1 else given
        built = model.get_layer(layer.name)
        if isinstance(layer, Network):
            outputs[layer.name] = _run(layer, built, given, last, made)
        else:
            outputs[layer.name] = made[layer] = _logits(built, given) if layer is last else built(given)
    return outputs[network.output]


def _logits(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """What the softmax of the last layer is taken of."""
    if not isinstance(layer, keras.layers.Dense):
        return x
    logits = tf.matmul(tf.cast(x, tf.float32), tf.cast(layer.kernel, tf.float32))
    return logits + tf.cast(layer.bias, tf.float32) if layer.use_bias else logits


def _last_feature_map(made: dict[Layer, tf.Tensor]) -> tf.Tensor | None:
    """(1, rows, columns, channels), before pooling; None where no place is told from another."""
    found, neighbours_seen = None, False  # a 1 × 1 convolution may be no more than preprocessing
    for layer, tensor in made.items():
        if layer.kind in CONVOLUTIONS:
            neighbours_seen |= np.max(layer.arguments["kernel_size"]) > 1
        places = math.prod(tensor.shape[1:3]) if len(tensor.shape) == 4 else 0
        if neighbours_seen and places > 1 and layer.kind not in NO_FEATURES:
            found = tensor
    return found


def _onto_picture(seen: np.ndarray, size: tuple[int, int], crop: Crop | None) -> np.ndarray:
    """(rows, columns) of what the model saw → (h, w) of the picture, bilinear, 0 outside of the crop."""
    (rows, columns), (width, height) = seen.shape, size
    to_picture = np.diag((width, height, 1.0)) if crop is None else crop.to_picture(size)
    to_seen = (np.diag((columns, rows, 1.0)) @ np.linalg.inv(to_picture))[:2].ravel().tolist()
    method, filter = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(seen.astype(np.float32)).transform(size, method, to_seen, filter))
