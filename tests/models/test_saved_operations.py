"""Networks that compute between their layers, as Keras 3 saves them here, and Keras 2 did (tests/files)."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from emo.errors import UserError
from emo.inference.classifier import load_classifier
from emo.models.loading import load_model
from emo.models.saved_config import IDENTITIES, parse
from tests.models.test_loading import DATA, assert_answers, change_config
from tools.fixtures.keras2 import pictures_of

PICTURES = pictures_of((16, 16, 3))


def saved(path, body, end=None, size=16):
    """A model of `body(pictures)` with random weights; its own answers."""
    keras.utils.set_random_seed(1)
    images = keras.Input((size, size, 3))
    x = body(images)
    if end is None:
        x = layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else layers.Flatten()(x)
        x = layers.Dense(3, "softmax")(x)
    model = keras.Model(images, x)
    rng = np.random.default_rng(2)
    model.set_weights(
        [rng.normal(0, 0.2, weight.shape) + 0.5 * (weight.ndim == 1) for weight in model.get_weights()]
    )
    model.save(path)
    return model.predict(PICTURES, verbose=0)


def conv(filters=4, **how):
    return layers.Conv2D(filters, 3, padding="same", **how)


def caffe(x):
    return keras.applications.imagenet_utils.preprocess_input(x, mode="caffe")


def torch(x):
    return keras.applications.imagenet_utils.preprocess_input(x, mode="torch")


def residual(x):
    y = conv()(x / 255)
    return y + conv()(y) - 0.1 * y


def hard_swish(x):
    y = conv()(x / 127.5 - 1.0)
    return y * (ops.relu6(y * 3 + 3.0) * (1.0 / 6.0))


OPERATIONS = {
    "divided": lambda x: conv()(x / 255.0),
    "to_minus_one": lambda x: conv()(x / 127.5 - 1.0),
    "one_minus": lambda x: conv()(1.0 - x * (1 / 255)),
    "negative": lambda x: conv()(-x * 0.01),
    "per_channel": lambda x: conv()(
        (x - np.array([123.0, 117.0, 104.0], "float32")) / np.array([58.0, 57, 57])
    ),
    "caffe": lambda x: conv()(caffe(x)),
    "torch": lambda x: conv()(torch(x)),
    "tf": lambda x: conv()(keras.applications.xception.preprocess_input(x)),
    "bgr": lambda x: conv()(x[..., ::-1] * 0.01),
    "two_channels": lambda x: conv()(x[..., :2] * 0.01),
    "cropped": lambda x: conv()(x[:, 1:-2, 3:, :] * 0.01),
    "cropped_and_turned": lambda x: conv()(x[:, 2:9, ::2, ::-1] * 0.01),
    "residual": residual,
    "hard_swish": hard_swish,
    "product": lambda x: (lambda y: y * y)(conv()(x / 255)),
    "gate": lambda x: (lambda y: y * layers.GlobalAveragePooling2D(keepdims=True)(y))(conv()(x / 255)),
    "square": lambda x: ops.square(conv()(x / 255)) + conv()(x / 255) ** 2,
    "absolute": lambda x: abs(conv()(x / 255) - 1.0),
    "clipped": lambda x: ops.clip(conv()(x / 255), -0.5, 0.75),
    "maximum": lambda x: ops.maximum(conv()(x / 255), 0.3),
    "minimum": lambda x: ops.minimum(ops.maximum(conv()(x / 255), conv()(x / 300)), 0.3),
    "relu": lambda x: (
        ops.relu(conv()(x / 255) - 1) + ops.silu(conv()(x / 255)) + ops.leaky_relu(x[..., :1] / 255 - 1)
    ),
    "pooled": lambda x: ops.mean(conv()(x / 255), axis=[1, 2]),
    "pooled_maximum": lambda x: ops.max(conv()(x / 255), axis=(1, 2), keepdims=True),
    "concatenated": lambda x: ops.concatenate([conv()(x / 255), x / 300], axis=-1),
    "reshaped": lambda x: ops.reshape(conv()(x / 255), (-1, 16 * 16, 4)),
    "transposed": lambda x: ops.reshape(ops.transpose(conv()(x / 255), (0, 3, 1, 2)), (-1, 16 * 16 * 4)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_computed_by_plain_layers(name, tmp_path):
    expected = saved(tmp_path / "model.h5", OPERATIONS[name])
    classifier = load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    np.testing.assert_allclose(classifier.probabilities(PICTURES), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3
    classifier.model.save(tmp_path / "again.h5")  # plain Keras reads what it is now
    again = keras.models.load_model(tmp_path / "again.h5", compile=False)
    np.testing.assert_allclose(again.predict(PICTURES, verbose=0), expected, atol=1e-5)


LAYERS = {
    "leaky_object": lambda x: conv(activation=layers.LeakyReLU(0.3))(x),
    "relu_object": lambda x: conv(activation=layers.ReLU(max_value=2.0, negative_slope=0.1))(x),
    "elu_object": lambda x: layers.Activation(layers.ELU(0.5))(conv()(x)),
    "tf_function": lambda x: conv(activation=tf.nn.relu)(x),
    "group_normalization": lambda x: layers.GroupNormalization(2)(conv()(x)),
    "unit_normalization": lambda x: layers.UnitNormalization()(conv()(x)),
    "layer_normalization": lambda x: layers.LayerNormalization()(conv()(x)),
    "transposed": lambda x: layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="mish")(x),
    "spatial_dropout": lambda x: layers.SpatialDropout2D(0.5)(conv()(x)),
    "center_crop": lambda x: conv()(layers.CenterCrop(9, 7)(x)),
    "center_crop_of_small": lambda x: conv()(layers.CenterCrop(20, 24)(x)),
    "resized": lambda x: conv()(layers.Resizing(7, 9, crop_to_aspect_ratio=True)(x)),
    "padded": lambda x: conv()(layers.Resizing(20, 9, pad_to_aspect_ratio=True)(x)),
    "minimum": lambda x: layers.Minimum()([conv()(x), conv()(x)]),
    "subtract": lambda x: layers.Subtract()([conv()(x), conv()(x)]),
    "dot": lambda x: layers.Dot((1, 1))([layers.Reshape((256, 4))(conv()(x)), layers.Reshape((256, 3))(x)]),
    "global_max": lambda x: layers.GlobalMaxPooling2D()(conv()(x)),
    "scaled": lambda x: conv()(layers.Rescaling([0.1, 0.2, 0.3], np.array([1.0, 2.0, 3.0]))(x)),
    "permuted": lambda x: layers.Flatten()(layers.Permute((3, 1, 2))(conv()(x))),
    "attention": lambda x: layers.MultiHeadAttention(2, 3)(*[layers.Reshape((256, 4))(conv()(x))] * 2),
    "cross_attention": lambda x: layers.MultiHeadAttention(2, 3, value_dim=5, output_shape=6, use_bias=False)(
        layers.Reshape((64, 12))(x), value=layers.Reshape((32, 24))(x), key=layers.Reshape((32, 24))(x)
    ),
    **{
        name: lambda x, name=name: conv(activation=name)(x)
        for name in ("leaky_relu", "hard_sigmoid", "hard_silu", "hard_swish", "mish", "gelu", "swish", "selu")
    },
    **{name: lambda x, name=name: layers.Activation(name)(conv()(x)) for name in ("log_softmax", "softsign")},
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_activations_of_keras(name, tmp_path):
    expected = saved(tmp_path / "model.h5", lambda x: LAYERS[name](layers.Rescaling(1 / 64, -2)(x)))
    classifier = load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    np.testing.assert_allclose(classifier.probabilities(PICTURES), expected, atol=1e-5)


def test_layers_inside_a_network_that_is_a_layer(tmp_path):
    def body(x):
        images = keras.Input((16, 16, 3))
        y = layers.Reshape((64, 16))(conv(activation=layers.LeakyReLU(0.3))(images / 255.0))
        y = layers.MultiHeadAttention(2, 3, name="mine")(y, y)
        return keras.Model(images, layers.GroupNormalization(2)(y))(x)

    expected = saved(tmp_path / "model.h5", body)
    classifier = load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    np.testing.assert_allclose(classifier.probabilities(PICTURES), expected, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(IDENTITIES))
def test_layers_that_change_pictures_in_training_alone(kind, paths):
    paths.class_names.write_text("\n".join("abcdefg"))
    file = shutil.copy(DATA / "keras2_grey.h5", paths.model)
    first = {"class_name": kind, "config": {"name": "first", "trainable": True, "dtype": "float32"}}
    change_config(file, lambda config: config["config"]["layers"].insert(1, first))
    assert_answers(load_classifier(file, preprocessing="tf"), "keras2_grey")


def test_a_random_crop_predicts_from_the_middle_as_documented(tmp_path):
    """Keras 3.13 itself predicts from the whole picture, and contradicts its own shapes."""
    saved(tmp_path / "model.h5", lambda x: conv()(layers.RandomCrop(8, 12)(x)))
    model, _ = load_model(tmp_path / "model.h5")
    seen = keras.Model(model.input, model.get_layer("random_crop").output).predict(PICTURES, verbose=0)
    middle = keras.preprocessing.image.smart_resize(PICTURES, (8, 12))
    np.testing.assert_allclose(seen, middle, atol=1e-3)


@pytest.mark.parametrize(
    ("units", "activation", "says"),
    [(3, "sigmoid", "divided by their sum"), (1, "sigmoid", "probability of the second class")],
)
@pytest.mark.parametrize("apart", [False, True])
def test_sigmoids_become_probabilities(units, activation, says, apart, tmp_path, capsys):
    def body(x):
        x = layers.GlobalAveragePooling2D()(conv()(x / 255))
        if apart:
            return layers.Activation(activation)(layers.Dense(units)(x))
        return layers.Dense(units, activation)(x)

    answers = saved(tmp_path / "model.h5", body, end=True)
    expected = (
        np.hstack([1 - answers, answers]) if units == 1 else answers / answers.sum(axis=1, keepdims=True)
    )
    names = ["a", "b", "c"][: expected.shape[1]]
    classifier = load_classifier(tmp_path / "model.h5", names, preprocessing="none")
    np.testing.assert_allclose(classifier.probabilities(PICTURES), expected, atol=1e-5)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("end", ["log_softmax", "linear"])
def test_logarithms_and_logits_become_probabilities(end, tmp_path):
    body = lambda x: layers.Dense(3, end)(layers.GlobalAveragePooling2D()(conv()(x / 255)))  # noqa: E731
    logits = saved(tmp_path / "model.h5", body, end=True)
    classifier = load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.probabilities(PICTURES), expected, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: 1.0 / (x + 1.0),
        lambda x: ops.sqrt(x),
        lambda x: x**3,
        lambda x: conv()(x) / conv()(x),
        lambda x: ops.flip(x, axis=2),
        lambda x: x[:, :, ::-1],
        lambda x: ops.mean(x, axis=3, keepdims=True),
        lambda x: ops.gelu(x),
        lambda x: ops.clip(x, 3, 3),
        lambda x: ops.stack([x[..., 0], x[..., 1] + 1], axis=-1),
    ],
)
def test_operations_that_no_plain_layer_computes_are_named(body, tmp_path):
    saved(tmp_path / "model.h5", body)
    with pytest.raises(
        UserError,
        match=r"model\.h5 (calls the operation|stacks tensors|cuts out places|holds a layer of the class)",
    ) as told:
        load_classifier(tmp_path / "model.h5", ["a", "b", "c"], preprocessing="none")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["keras2_operations", "keras2_activations", "keras2_attention"])
def test_operations_and_layers_of_keras_2(name, paths):
    paths.class_names.write_text("a\nb\nc")
    file = shutil.copy(DATA / f"{name}.h5", paths.model)
    assert_answers(load_classifier(file, preprocessing="none"), name, 1e-5)


EVIL = [
    "io.write_file",
    "io.read_file",
    "py_function",
    "numpy_function",
    "raw_ops.WriteFile",
    "math.__class__",
    "",
]


@pytest.mark.parametrize("function", EVIL)
def test_functions_that_are_not_listed_are_not_looked_up(function):
    operation = {"class_name": "TFOpLambda", "config": {"name": "x", "function": function}, "name": "x"}
    operation["inbound_nodes"] = [["in", 0, 0, {"contents": "hello"}]]
    entries = [
        {"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 4, 4, 3]}},
        operation,
    ]
    config = {"name": "m", "layers": entries, "input_layers": [["in", 0, 0]], "output_layers": [["x", 0, 0]]}
    with pytest.raises(Exception, match="calls the operation"):
        parse({"class_name": "Functional", "config": config})
