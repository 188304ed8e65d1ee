"""Where a network looks: on one that was trained to find a patch, and against CAM computed by hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from emo.data.geometry import Crop
from emo.data.image_io import read_image
from emo.errors import UserError
from emo.experiments import get_experiment
from emo.inference.classifier import Classifier, load_classifier
from emo.inference.ensemble import Ensemble
from emo.inference.grad_cam import feature_cam, grad_cam
from emo.models.backbones import BACKBONES
from emo.models.build import build_model
from emo.models.saving import save_model
from tests.models.test_loading import (
    CONV5_NESTED,
    DATA,
    DENSE_FLAT,
    FLATTEN_FLAT,
    FLATTEN_NESTED,
    TWO_DENSE_CALLED,
)

NAMES = ("anger", "happy", "sad")
layers = keras.layers


def with_patch(place: tuple[int, int], color=(255, 30, 30), size: int = 64, seed: int = 0) -> np.ndarray:
    """Noise with a patch of 12 pixels a side, its upper left corner at `place` (x, y)."""
    picture = np.random.default_rng(seed).integers(60, 160, (size, size, 3), np.uint8)
    x, y = place
    picture[y : y + 12, x : x + 12] = color
    return picture


def centre(seen: np.ndarray) -> np.ndarray:
    """x and y of the map's centre of mass."""
    ys, xs = np.indices(seen.shape)
    return np.array([(seen * xs).sum(), (seen * ys).sum()]) / seen.sum()


@pytest.fixture(scope="module")
def patches() -> Classifier:
    """A tiny network, nested like our backbones, that was trained to tell red patches from blue ones."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    inner = keras.Sequential(
        [
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        ],
        name="features",
    )
    pictures = keras.Input((64, 64, 3))
    x = layers.GlobalAveragePooling2D()(inner(layers.Rescaling(1 / 255)(pictures)))
    model = keras.Model(pictures, layers.Dense(2, activation="softmax")(layers.Dense(8, "relu")(x)))
    colors, labels = ((255, 30, 30), (30, 30, 255)), random.integers(2, size=256)
    places = random.integers(0, 52, (256, 2))
    examples = [
        with_patch(place, colors[k], seed=i) for i, (place, k) in enumerate(zip(places, labels, strict=True))
    ]
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(np.stack(examples), labels, 32, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.95
    return Classifier(model, ("red", "blue"), {}, Path("patches.h5"))


def test_the_map_moves_with_what_is_seen(patches):
    for x, y in ((2, 2), (50, 2), (26, 26), (2, 50), (50, 50)):
        seen = grad_cam(patches, with_patch((x, y)))
        assert seen.shape == (64, 64) and seen.dtype == np.float32
        assert seen.min() >= 0 and 0.8 < seen.max() <= 1
        peak = np.unravel_index(seen.argmax(), seen.shape)[::-1]
        assert np.abs(np.array(peak) - (x + 5.5, y + 5.5)).max() < 10
        assert seen[y : y + 12, x : x + 12].mean() > 3 * seen.mean()


def test_it_is_as_large_as_the_picture_and_upright(patches, tmp_path):
    picture = Image.new("RGB", (200, 100), "grey")
    picture.paste(Image.new("RGB", (40, 20), (255, 30, 30)), (150, 10))
    seen = grad_cam(patches, picture, "red")
    assert seen.shape == (100, 200)
    assert np.abs(centre(seen**4) - (170, 20)).max() < 15
    exif = picture.getexif()
    exif[0x0112] = 6  # turn the pixels clockwise to see it
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_allclose(grad_cam(patches, tmp_path / "turned.png", "red"), seen, atol=1e-5)


def test_it_is_about_the_predicted_emotion_or_the_one_asked_for(patches):
    both = with_patch((4, 4))
    both[44:60, 44:60] = (30, 30, 255)
    red, blue = grad_cam(patches, both, "red"), grad_cam(patches, both, "blue")
    assert red[4:16, 4:16].mean() > 2 * red[44:60, 44:60].mean()
    assert blue[44:60, 44:60].mean() > 2 * blue[4:16, 4:16].mean()
    predicted = patches.predict(both).emotion[0]
    np.testing.assert_array_equal(grad_cam(patches, both), {"red": red, "blue": blue}[predicted])
    with pytest.raises(UserError, match=r"emotion='rage' is unknown to patches\.h5; choose one of red, blue"):
        grad_cam(patches, both, "rage")


@pytest.mark.parametrize("angle", [0, 30])
def test_of_a_crop_the_map_lies_where_the_crop_does(patches, angle):
    picture = np.full((300, 400, 3), 110, np.uint8)
    picture[60:80, 310:330] = (255, 30, 30)
    face = Crop(x=(320 - 200) / 400, y=(70 - 150) / 400, side=0.2, angle=angle)
    seen = grad_cam(patches, picture, "red", face)
    assert np.abs(centre(seen) - (319.5, 69.5)).max() < 4
    assert not seen[:, :250].any() and not seen[150:].any()
    # seen through the crop it is the map of the crop itself
    cut = read_image(np.uint8(np.round(255 * seen)), 64, face)[..., 0] / 255
    np.testing.assert_allclose(cut, grad_cam(patches, read_image(picture, 64, face), "red"), atol=0.06)


def cam(classifier: Classifier, pixels: np.ndarray, features: keras.Model, number: int) -> np.ndarray:
    """Zhou et al. 2016: the feature map's channels, weighed by the linear head; what is below 0 cut off."""
    kernel = classifier.model.get_layer("probabilities").kernel.numpy()
    seen = np.maximum(features(pixels[None])[0].numpy() @ kernel[:, number], 0)
    return seen / seen.max()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_of_a_linear_head_it_is_cam(backbone):
    """VGG16's is made of the last convolution, not of its pooled half-size copy: CAM but for the sampling."""
    size = 72
    experiment = get_experiment("6", backbone=backbone, weights=None, unfreeze="all", image_size=size)
    classifier = Classifier(build_model(experiment, 3), NAMES, {}, Path("model.h5"))
    network = classifier.model.get_layer(backbone)
    last = network.get_layer("block5_conv3").output if backbone == "vgg16" else network.output
    images = classifier.model.input
    prepared = classifier.model.layers[classifier.model.layers.index(network) - 1].output
    features = keras.Model(images, keras.Model(network.input, last)(prepared))
    kernel = classifier.model.get_layer("probabilities").kernel
    kernel.assign(np.abs(kernel))  # so that each emotion has places that speak for it
    pixels = with_patch((40, 20), size=size)
    expected = cam(classifier, pixels, features, NAMES.index("happy"))
    resized = Image.fromarray(expected).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(grad_cam(classifier, pixels, "happy"), resized, atol=1e-5)


FEATURE_MAPS = {  # of tests/files's networks, in their two ways of being saved and with both kinds of head
    FLATTEN_NESTED: "nested, Flatten",
    CONV5_NESTED: "nested, pooled",
    FLATTEN_FLAT: "flat, Flatten",
    DENSE_FLAT: "flat, pooled and a Dense",
    TWO_DENSE_CALLED: "called, pooled and two Dense",
}


@pytest.mark.parametrize("name", FEATURE_MAPS, ids=FEATURE_MAPS.get)
def test_files_of_keras_2_are_explained(paths, name):
    paths.class_names.write_text("\n".join("abcdefghi"))
    classifier = load_classifier(shutil.copy(DATA / f"{name}.h5", paths.model))
    pixels = np.load(DATA / f"{name}.npz")["pictures"][0].clip(0, 255).astype(np.uint8)
    maps = [grad_cam(classifier, pixels, emotion) for emotion in classifier.class_names]
    assert all(seen.shape == pixels.shape[:2] and 0 <= seen.min() <= seen.max() <= 1 for seen in maps)
    assert max(np.ptp(seen) for seen in maps) > 0.05  # it tells places apart
    assert max(np.abs(seen - maps[0]).max() for seen in maps) > 0.05  # and emotions


def test_a_saved_model_of_ours_is_explained_as_before(patches, tmp_path):
    experiment = get_experiment("1", backbone="vgg16", weights=None, unfreeze="all", image_size=48)  # Flatten
    model = build_model(experiment, 3)
    save_model(model, tmp_path / "ours.h5", {"class_names": NAMES})
    pixels = with_patch((10, 20), size=48)
    before = grad_cam(Classifier(model, NAMES, {}, Path("ours.h5")), pixels, "sad")
    np.testing.assert_allclose(
        grad_cam(load_classifier(tmp_path / "ours.h5"), pixels, "sad"), before, atol=1e-5
    )


def test_what_answers_as_one_is_explained_by_the_mean(patches):
    picture = with_patch((4, 30))
    turned = Classifier(patches.model, ("blue", "red"), {}, Path("turned.h5"))
    of_red, of_blue = (grad_cam(patches, picture, name) for name in ("red", "blue"))
    together = grad_cam(Ensemble([patches, turned]), picture, "red")
    np.testing.assert_allclose(together, (of_red + of_blue) / 2, atol=1e-6)
    mirrored = grad_cam(patches, picture[:, ::-1], "red")[:, ::-1]
    flipped = grad_cam(patches.with_flip(), picture, "red")
    np.testing.assert_allclose(flipped, (of_red + mirrored) / 2, atol=1e-5)


def test_an_emotion_that_wins_with_a_negative_logit_has_a_map(patches):
    model = keras.models.clone_model(patches.model)
    model.set_weights(patches.model.get_weights())
    kernel, bias = model.layers[-1].weights
    kernel.assign(kernel - np.abs(kernel).max() - 1)  # the same answers: softmax knows differences alone
    bias.assign(bias - 1)
    lowered = Classifier(model, ("red", "blue"), {}, Path("lowered.h5"))
    picture = with_patch((40, 40))
    np.testing.assert_allclose(
        lowered.probabilities(picture[None]), patches.probabilities(picture[None]), atol=1e-4
    )
    seen = grad_cam(lowered, picture)
    assert seen[40:52, 40:52].mean() > 2 * seen.mean()


@pytest.mark.parametrize("coloured", [False, True])
def test_a_network_without_a_feature_map_says_so(coloured):
    pictures = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="preprocessing")(pictures) if coloured else pictures
    model = keras.Model(pictures, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))
    flat = Classifier(model, ("a", "b"), {}, Path("flat.h5"))
    with pytest.raises(UserError, match=r"^flat\.h5 has no feature map that tells places apart.*\.$"):
        grad_cam(flat, with_patch((0, 0), size=12))


def mini_xception(channels: int, colors: int, size: int, tail: bool = False) -> Classifier:
    """As Arriaga et al. 2017 have it, and most public repositories for emotions.

    With `tail`, a convolution of the kind in question, 1 × 1 with stride 2, follows the last feature map.
    """
    keras.utils.set_random_seed(channels)
    pictures = x = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)
    x = layers.Conv2D(1, 1, use_bias=False, trainable=False)(x) if colors == 1 else x
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3, use_bias=False)(x)))
    for wide in (2 * channels, 4 * channels):
        beside = layers.BatchNormalization()(layers.Conv2D(wide, 1, strides=2, padding="same")(x))
        x = layers.ReLU()(layers.BatchNormalization()(layers.SeparableConv2D(wide, 3, padding="same")(x)))
        x = layers.SeparableConv2D(wide, 3, padding="same", use_bias=False)(x)
        x = layers.Add()([layers.MaxPooling2D(3, 2, padding="same")(x), beside])
    if tail:
        x = layers.Conv2D(channels, 3, padding="same")(layers.AveragePooling2D(x.shape[1] // 2)(x))
        x = layers.Flatten()(layers.Conv2D(16, 1, strides=2)(x))
        x = layers.Dense(3, "softmax")(x)
    else:
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, padding="same")(x))
        x = layers.Activation("softmax")(x)
    return Classifier(keras.Model(pictures, x), NAMES, {}, Path("mini.h5"))


SHAPES = [(4, 1, 48), (8, 1, 64), (4, 3, 64), (8, 3, 48)]  # channels, colors, size


def test_mini_xceptions_are_explained_and_python_lives():
    """In a process of its own: where oneDNN is asked for the gradients of such kernels, some CPUs kill it."""
    code = (
        "from tests.inference.test_grad_cam import SHAPES, grad_cam, mini_xception, with_patch\n"
        "for shape in SHAPES:\n"
        "    for tail in (False, True):\n"
        "        classifier = mini_xception(*shape, tail)\n"
        "        pixels = with_patch((9, 9), size=shape[-1])\n"
        "        maps = [grad_cam(classifier, pixels, name) for name in classifier.class_names]\n"
        "        assert all(0 <= seen.min() <= seen.max() <= 1 for seen in maps)\n"
        "        assert max(seen.max() for seen in maps) > 0.5\n"
        "print('explained')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "explained\n"), done.stderr[-1000:]


@pytest.mark.parametrize("tail", [False, True])
def test_no_gradient_of_a_kernel_is_computed(tail, tmp_path):
    classifier, pixels = mini_xception(8, 1, 48, tail), with_patch((9, 9), size=48)
    with tf.profiler.experimental.Profile(str(tmp_path)):
        grad_cam(classifier, pixels, "happy")
    (trace,) = tmp_path.rglob("*.xplane.pb")  # it names every operation that ran
    ran = trace.read_bytes()
    assert b"DepthwiseConv2dNative" in ran and (b"Conv2DBackpropInput" in ran) == tail
    assert b"BackpropFilter" not in ran


def test_of_a_convolutional_head_it_is_the_formula():
    """Selvaraju et al. 2017, equations 1 and 2, on the network cut in two by hand."""
    classifier, pixels = mini_xception(8, 3, 48, tail=True), with_patch((9, 9), size=48)
    model, number = classifier.model, NAMES.index("sad")
    last = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)][-2]
    features = tf.Variable(keras.Model(model.input, last.output)(pixels[None].astype(np.float32)))
    with tf.GradientTape() as tape:
        flat = keras.Model(last.output, model.layers[-2].output)(features)
        score = tf.tensordot(flat[0], model.layers[-1].kernel[:, number], 1)
    weights = tape.gradient(score, features).numpy().mean(axis=(0, 1, 2))
    expected = np.maximum(features.numpy()[0] @ weights, 0)
    np.testing.assert_allclose(feature_cam(classifier, pixels, number), expected / expected.max(), atol=1e-5)


def test_an_ensemble_in_an_ensemble_counts_as_it_answers(patches):
    picture = with_patch((4, 30))
    turned = Classifier(patches.model, ("blue", "red"), {}, Path("turned.h5"))
    nested = Ensemble([Ensemble([patches, turned]), patches])
    of_red, of_blue = (grad_cam(patches, picture, name) for name in ("red", "blue"))
    np.testing.assert_allclose(grad_cam(nested, picture, "red"), 0.75 * of_red + 0.25 * of_blue, atol=1e-6)


def test_floats_are_explained_as_the_picture_that_they_are(patches, capsys):
    picture = with_patch((40, 8))
    np.testing.assert_array_equal(grad_cam(patches, picture / 255), grad_cam(patches, picture))
    assert capsys.readouterr().out.count("0–1") == 1
