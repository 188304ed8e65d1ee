"""Statistics of BatchNormalization that fit the weights and the photos of validation."""

import dataclasses

import keras
import numpy as np
import pytest

from emo.classifier import load_classifier
from emo.experiments import get_experiment
from emo.pipeline import load_images
from emo.split import training_manifests
from emo.training import train

MINI = get_experiment(
    "emo_mini", epochs=2, batch_size=4, warmup_epochs=0.0, average=0.9, precise_batch_norm=True,
    precision="float32",
)  # fmt: skip


@pytest.fixture
def other(dataset, tmp_path):
    """The same photos, other results."""
    (tmp_path / "model").mkdir()
    return dataclasses.replace(dataset, results=tmp_path)


def statistics_by_hand(classifier, layer, pictures):
    """Mean and variance of what the layer is fed, the layers before it normalizing by this batch too."""
    network = classifier.model.get_layer("emo_mini")
    for each in network.layers:
        each.trainable = True
    fed = keras.Model(network.inputs, network.get_layer(layer).input)
    preprocessed = keras.Model(classifier.model.input, classifier.model.get_layer("preprocessing").output)
    values = np.asarray(fed(preprocessed(pictures.astype(np.float32)), training=True))
    return values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))


@pytest.mark.parametrize("layer", ["block1_conv_bn", "block4_unit1_conv2_bn"])
def test_what_is_saved_has_the_statistics_of_unaugmented_photos_under_the_averaged_weights(dataset, layer):
    classifier = load_classifier(train(MINI, dataset).model_path)
    saved = classifier.model.get_layer("emo_mini").get_layer(layer)
    saved = [np.asarray(value) for value in (saved.moving_mean, saved.moving_variance)]
    pictures = load_images(training_manifests(dataset)[0].path, 48)  # fewer than a batch of them
    by_hand = statistics_by_hand(classifier, layer, pictures)
    np.testing.assert_allclose(saved, by_hand, rtol=1e-3, atol=1e-4)


def test_training_is_the_same_and_validation_no_longer_lags_behind(dataset, other):
    short = dataclasses.replace(MINI, average=0.0, learning_rate=1e-3, epochs=3)
    plain = train(dataclasses.replace(short, precise_batch_norm=False), dataset).history
    precise = train(short, other).history
    np.testing.assert_allclose(precise[["loss", "accuracy"]], plain[["loss", "accuracy"]], atol=1e-6)
    assert precise["val_accuracy"].iloc[-1] >= 0.6  # chance is a third; the classes are colours
    assert precise["val_loss"].iloc[0] < plain["val_loss"].iloc[0]


@pytest.mark.parametrize("changes", [{"unfreeze": "block4", "views": 2}, {"unfreeze": "block4"}])
def test_frozen_layers_keep_theirs(dataset, other, changes):
    classifiers = [
        load_classifier(train(dataclasses.replace(MINI, epochs=epochs, **changes), paths).model_path)
        for epochs, paths in ((1, dataset), (2, other))
    ]
    for layer, same in (("block3_unit2_conv2_bn", True), ("block4_unit1_conv1_bn", False)):
        first, second = (
            np.asarray(each.model.get_layer("emo_mini").get_layer(layer).moving_mean) for each in classifiers
        )
        assert np.array_equal(first, second) is same


def test_nothing_happens_where_no_batch_normalization_learns(dataset, other):
    frozen = dataclasses.replace(MINI, freeze_batch_norm=True)
    histories = [
        train(experiment, paths).history
        for experiment, paths in (
            (frozen, dataset),
            (dataclasses.replace(frozen, precise_batch_norm=False), other),
        )
    ]
    np.testing.assert_array_equal(*histories)
