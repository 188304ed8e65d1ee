import dataclasses

import keras
import numpy as np
import pytest

from emo.dataset import scan_dataset
from emo.experiments import get_experiment
from emo.frozen import backbone_features
from emo.model import build_model, split_model
from emo.pipeline import load_images

SMALL = get_experiment("10", backbone="vgg16", weights=None, image_size=32)


@pytest.fixture
def photos(dataset):
    return scan_dataset(dataset.train)


def caches(paths):
    return sorted(paths.features.glob("*.npy"))


@pytest.mark.parametrize(
    ("backbone", "unfreeze", "size"),
    [
        ("resnet50", "none", 32),
        ("resnet50", "conv5", 32),
        ("vgg16", "none", 32),
        ("vgg16", "block5", 32),
        ("xception", "none", 71),
        ("xception", "block14", 71),
    ],
)
def test_the_parts_equal_the_whole_before_and_after_training(backbone, unfreeze, size):
    experiment = dataclasses.replace(SMALL, backbone=backbone, unfreeze=unfreeze, image_size=size)
    model = build_model(experiment, 3)
    frozen, rest = split_model(model, experiment)
    assert {id(each) for each in rest.trainable_variables} == {id(each) for each in model.trainable_variables}
    assert not frozen.trainable_variables
    pictures = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    features = frozen.predict(pictures, verbose=0).astype(np.float16)
    before = model.predict(pictures, verbose=0)
    np.testing.assert_allclose(rest.predict(features, verbose=0), before, atol=1e-3)

    statistics = [array.copy() for array in frozen.get_weights()]
    rest.compile(keras.optimizers.SGD(1e-3), "categorical_crossentropy")
    rest.fit(features, np.eye(3)[[0, 1, 2, 0]], epochs=1, verbose=0)
    after = model.predict(pictures, verbose=0)
    assert np.abs(after - before).max() > 1e-5
    np.testing.assert_allclose(rest.predict(features, verbose=0), after, atol=1e-3)
    for old, new in zip(statistics, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_backbone_features_are_the_pooled_maps_row_by_row_and_computed_once(dataset, photos, capsys):
    features = backbone_features(photos, SMALL, dataset)
    network = build_model(SMALL, 3)  # … avg_pool, dropout, dense, softmax
    maps = keras.Model(network.input, network.layers[-4].input)
    expected = maps.predict(load_images(photos.path, 32), verbose=0).mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-4)
    assert features.shape == (36, 512)
    assert "1 computed, 0 reused" in capsys.readouterr().out
    written = [(file, file.stat().st_ino) for file in caches(dataset)]
    again = backbone_features(
        photos, dataclasses.replace(SMALL, unfreeze="block5", head=("flatten",)), dataset
    )
    np.testing.assert_array_equal(features, again)
    assert "0 computed, 1 reused" in capsys.readouterr().out
    assert [(file, file.stat().st_ino) for file in caches(dataset)] == written
