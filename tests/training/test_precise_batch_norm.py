"""Statistics of BatchNormalization that fit the weights and the photos of validation."""

import dataclasses

import keras
import numpy as np
import pytest

from emo.data.image_io import load_images
from emo.data.split import training_manifests
from emo.experiments import get_experiment
from emo.inference.classifier import load_classifier
from emo.paths import get_paths
from emo.training.plan import prepare_run
from emo.training.precise_batch_norm import PreciseBatchNorm
from emo.training.train import train

MINI = get_experiment(
    "emo_mini", epochs=2, batch_size=4, warmup_epochs=0.0, ema=0.9, precise_batch_norm=True,
    precision="float32",
)  # fmt: skip


@pytest.fixture
def other(dataset, tmp_path):
    """The same photos, other results."""
    return get_paths(dataset.root, tmp_path)


def statistics_by_hand(classifier, layer, pictures, size):
    """Mean and variance of what the layer is fed, each batch normalized by itself in the layers before it."""
    network = classifier.model.get_layer("emo_mini")
    for each in network.layers:
        each.trainable = True
    fed = keras.Model(network.inputs, network.get_layer(layer).input)
    preprocessed = keras.Model(classifier.model.input, classifier.model.get_layer("preprocessing").output)
    batches = np.split(pictures.astype(np.float32), len(pictures) // size)
    values = np.concatenate([fed(preprocessed(batch), training=True) for batch in batches])
    return values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))


@pytest.mark.parametrize("size", [6, pytest.param(64, marks=pytest.mark.slow)])
def test_what_is_saved_has_the_statistics_of_photos_as_they_lie_under_the_averaged_weights(dataset, size):
    """Of five batches of six of the thirty photos, or of all at once where a batch is larger."""
    classifier = load_classifier(train(dataclasses.replace(MINI, batch_size=size), dataset).model_path)
    pictures = load_images(training_manifests(dataset)[0].path, 48)
    order = np.random.default_rng(MINI.seed).permutation(len(pictures))
    for layer in ("block1_conv_bn", "block4_unit1_conv2_bn"):
        norm = classifier.model.get_layer("emo_mini").get_layer(layer)
        saved = [np.asarray(value) for value in (norm.moving_mean, norm.moving_variance)]
        by_hand = statistics_by_hand(classifier, layer, pictures[order], min(size, len(pictures)))
        np.testing.assert_allclose(saved, by_hand, rtol=1e-3, atol=1e-4)


def test_training_is_the_same_and_validation_no_longer_lags_behind(dataset, other):
    short = dataclasses.replace(MINI, ema=0.0, learning_rate=1e-3, epochs=3)
    plain = train(dataclasses.replace(short, precise_batch_norm=False), dataset).history
    precise = train(short, other).history
    np.testing.assert_allclose(precise[["loss", "accuracy"]], plain[["loss", "accuracy"]], atol=1e-6)
    assert precise["val_accuracy"].iloc[-1] >= 0.6  # chance is a third; the classes are colours
    assert precise["val_loss"].iloc[0] < plain["val_loss"].iloc[0]


@pytest.mark.parametrize(
    ("changes", "learning"),
    [
        ({}, 12),
        ({"unfreeze": "block4"}, 3),
        ({"unfreeze": "block4", "views": 2}, 3),
        ({"unfreeze": "none", "views": 2}, 0),
        ({"freeze_batch_norm": True}, 0),
    ],
)
def test_it_is_for_the_layers_that_learn(dataset, changes, learning):
    experiment = dataclasses.replace(MINI, **changes)
    plan = prepare_run(experiment, dataset)
    network = plan.network
    callback, before = PreciseBatchNorm(plan.learning, plan.train_set), network.get_weights()
    assert len(callback.norms) == learning
    callback.on_test_begin()
    after = network.get_weights()
    changed = sum((old != new).any() for old, new in zip(before, after, strict=True))
    assert changed == 2 * learning
