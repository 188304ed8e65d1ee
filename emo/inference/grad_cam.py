"""Where in a picture a classifier sees an emotion: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib import colormaps
from PIL import Image

from emo.backend import compiled, gradients
from emo.data.arrays import as_pictures
from emo.data.geometry import Crop
from emo.data.image_io import read_image, whole_image
from emo.errors import UserError, is_out_of_memory
from emo.inference.classifier import Classifier, no_memory
from emo.inference.ensemble import Ensemble
from emo.inference.predictor import Predictor
from emo.models.saved_config import IDENTITIES, Layer, Network, parse

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
# what comes after the last feature map only to make it smaller or pass it on
NO_FEATURES = IDENTITIES | {"AveragePooling2D", "Cropping2D", "Dropout", "MaxPooling2D"}
SHOWN = 224  # height and width in pixels of a face that is shown
HEAT, OPAQUE = colormaps["inferno"], 0.6  # of a map, and where it is strongest


def grad_cam(
    classifier: Predictor,
    image: str | Path | Image.Image | np.ndarray,
    emotion: str | None = None,
    face: Crop | None = None,
) -> np.ndarray:
    """How much each place of the (upright) picture speaks for an emotion: (h, w) float32 in 0–1.

    The last feature map's channels, weighed by the mean gradient of the emotion's logit, summed, and divided
    by their largest value; what speaks against it is 0, as is what the model does not see. Where no place
    speaks for it, those that speak for it more than for the mean of all emotions. `emotion` is the
    predicted one unless given. `image` is a file, a PIL image or an array as `as_pictures` takes it; the
    model sees of it what `predict` shows it, or `face` (`Predictor.crops`). An ensemble's map is the mean of
    its members', that of a model with flip the mean over both. Raises UserError for an emotion that the
    classifier does not know, a picture that cannot be read, too little memory, and a network that has no
    feature map.
    """
    (image,) = as_pictures([image])
    faces = None if face is None else [face]
    if emotion is None:
        emotion = classifier.predict([image], faces).emotion[0]
    elif emotion not in classifier.class_names:
        raise UserError(
            f"emotion={emotion!r} is unknown to {classifier.name}; choose one of "
            f"{', '.join(classifier.class_names)}."
        )
    return _map(classifier, image, whole_image(image).size, emotion, faces)


def crop_and_map(
    classifier: Predictor, photo: Image.Image, emotion: str, face: Crop | None
) -> tuple[np.ndarray, np.ndarray]:
    """What the model sees of a face, (h, w, 3) in 0–255, and `grad_cam` for it there, (h, w) in 0–1."""
    seen = grad_cam(classifier, photo, emotion, face)
    (crop,) = classifier.crops([photo], [face])
    if crop is None:
        return np.asarray(photo), seen
    grey = np.uint8(np.round(255 * seen))
    return read_image(photo, SHOWN, crop), read_image(grey, SHOWN, crop)[..., 0] / 255


def laid_over(picture: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """`crop_and_map`'s map over its picture, as opaque as it is strong: (h, w, 3) uint8."""
    opaque = OPAQUE * seen[..., None]
    heat = 255 * HEAT(seen)[..., :3]
    return np.uint8(np.round((1 - opaque) * picture + opaque * heat))


def _map(classifier: Predictor, image, size: tuple[int, int], emotion: str, faces) -> np.ndarray:
    if isinstance(classifier, Ensemble):
        maps = [_map(member, image, size, emotion, faces) for member in classifier.members]
        return np.mean(maps, axis=0, dtype=np.float32)
    (crop,) = classifier.crops([image], faces)
    pixels = read_image(image, classifier.image_size, crop)
    number = classifier.class_names.index(emotion)
    seen = feature_cam(classifier, pixels, number)
    if classifier.flip:
        seen = (seen + feature_cam(classifier, pixels[:, ::-1], number)[:, ::-1]) / 2
    return _onto_picture(seen, size, crop)


def feature_cam(classifier: Classifier, pixels: np.ndarray, number: int) -> np.ndarray:
    """Grad-CAM at the size of the last feature map: (rows, columns) float32 in 0–1.

    `pixels`: (size, size, 3) as the network takes them; `number` is that of the class.
    """
    network = parse(json.loads(classifier.model.to_json()))
    try:
        made = _layer_outputs(network, classifier.model, pixels[None].astype(np.float32))
        last = _last_feature_map(made)
        if last is None:
            raise UserError(
                f"{classifier.name} has no feature map that tells places apart, so Grad-CAM cannot show "
                "where it looks; choose a convolutional network, or one of larger pictures."
            )
        by_features = _gradients(network, classifier.model, made, last, number)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(classifier) from None
    features = ops.convert_to_numpy(ops.cast(made[last], "float32"))
    # a softmax answers by differences of logits: what wins may have a negative one
    for gradient in by_features:
        weights = gradient.mean(axis=(1, 2), keepdims=True)
        evidence = np.maximum((weights * features).sum(axis=3), 0)[0]
        if evidence.any():
            return evidence / evidence.max()
    return evidence


def _layer_outputs(network: Network, model: keras.Model, images: np.ndarray) -> dict[Layer, object]:
    """What each layer makes of the pictures, those of inner networks included; of the last, its logits.

    Called as a whole, a model tells nothing of what happens in a network that is one of its layers.
    """
    layers = []

    def outputs(images):
        made = []

        def call(layer: Layer, built: keras.Layer, given: list):
            layers.append(layer)
            made.append(_output(layer, built, given, layer is network.last))
            return made[-1]

        _walk(network, model, images, call)
        return made

    made = compiled(outputs)(ops.convert_to_tensor(images))
    return dict(zip(layers, made, strict=True))


def _gradients(
    network: Network, model: keras.Model, made: dict[Layer, object], last: Layer, number: int
) -> list[np.ndarray]:
    """Of the class's logit, and of how far it is above the mean logit, by the output of the layer `last`.

    Only the layers that `last` feeds are run again.
    """

    def scores(features) -> tuple:
        moved = {}  # what depends on the features, by identity: tensors have no equality

        def call(layer: Layer, built: keras.Layer, given: list):
            if layer is last:
                y = features
            elif not any(id(x) in moved for x in given):
                return made[layer]
            else:
                y = _output(layer, built, given, layer is network.last)
            moved[id(y)] = y
            return y

        logits = ops.cast(_walk(network, model, images, call), "float32")[0]
        return logits[number], logits[number] - ops.mean(logits)

    images = ops.zeros((1, *model.input_shape[1:]))  # nobody looks at them
    return gradients(scores, made[last])


def _walk(network: Network, model: keras.Model, x, call: Callable):
    """`Network.walk` through the inner networks too, with each layer as it is built in `model`."""

    def step(layer: Layer | Network, given: list):
        built = model.get_layer(layer.name)
        if isinstance(layer, Network):
            return _walk(layer, built, given[0], call)
        return call(layer, built, given)

    return network.walk(x, step)


def _output(layer: Layer, built: keras.Layer, given: list, is_last: bool):
    """What a layer makes of the tensors that feed it; the last one, its logits."""
    if is_last:
        return _logits(built, given[0])
    if layer.kind == "MultiHeadAttention":
        return built(*given)
    return built(given[0] if len(given) == 1 else given)


def _logits(layer: keras.Layer, x):
    """What the softmax of the last layer is taken of."""
    if not isinstance(layer, keras.layers.Dense):
        return x
    logits = ops.matmul(ops.cast(x, "float32"), ops.cast(layer.kernel, "float32"))
    return logits + ops.cast(layer.bias, "float32") if layer.use_bias else logits


def _last_feature_map(made: dict[Layer, object]) -> Layer | None:
    """The layer whose output it is, before pooling; None where no place is told from another."""
    found, neighbours_seen = None, False  # a 1 × 1 convolution may be no more than preprocessing
    for layer, tensor in made.items():
        if layer.kind in CONVOLUTIONS:
            neighbours_seen |= np.max(layer.arguments["kernel_size"]) > 1
        places = math.prod(tensor.shape[1:3]) if len(tensor.shape) == 4 else 0
        if neighbours_seen and places > 1 and layer.kind not in NO_FEATURES:
            found = layer
    return found


def _onto_picture(seen: np.ndarray, size: tuple[int, int], crop: Crop | None) -> np.ndarray:
    """(rows, columns) of what the model saw → (h, w) of the picture, bilinear, 0 outside of the crop."""
    (rows, columns), (width, height) = seen.shape, size
    to_picture = np.diag((width, height, 1.0)) if crop is None else crop.to_picture(size)
    to_seen = (np.diag((columns, rows, 1.0)) @ np.linalg.inv(to_picture))[:2].ravel().tolist()
    method, filter = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(seen.astype(np.float32)).transform(size, method, to_seen, filter))
