"""The frozen layers' outputs: equal to the whole, computed once, kept, mended, bounded, cleared."""

import dataclasses
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from emo import frozen as frozen_module
from emo.backbones import build_backbone
from emo.classifier import load_classifier
from emo.dataset import scan_dataset
from emo.errors import UserError
from emo.experiments import Experiment, get_experiment
from emo.frozen import backbone_features, clear_features, frozen_features
from emo.model import build_model, split_model
from emo.pipeline import load_images
from emo.runlog import read_table
from emo.split import training_manifests
from emo.training import train

SMALL = get_experiment("10", backbone="vgg16", weights=None, image_size=32, batch_size=8, epochs=2)


@pytest.fixture
def photos(dataset):
    return scan_dataset(dataset.train)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file, as a random start would depend on the experiment's seed."""
    file = tmp_path_factory.mktemp("weights") / "vgg.weights.h5"
    build_backbone("vgg16", 32, None).save_weights(file)
    return str(file)


def caches(paths):
    """Name → inode: a file written anew is another."""
    return {file.name: file.stat().st_ino for file in paths.features.glob("*.npy")}


def computed(photos, experiment, paths, views=0):
    frozen, _ = split_model(build_model(experiment, 3), experiment)
    return frozen_features(frozen, photos, experiment, paths, views)


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
    pictures = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    features = np.asarray(frozen(pictures)).astype(np.float16)
    before = np.asarray(model(pictures))
    np.testing.assert_allclose(rest(features), before, atol=1e-3)

    statistics = frozen.get_weights()
    rest.compile(keras.optimizers.SGD(1e-3), "categorical_crossentropy")
    rest.train_on_batch(features, np.eye(3)[[0, 1, 2, 0]])
    after = np.asarray(model(pictures))
    assert np.abs(after - before).max() > 1e-5
    np.testing.assert_allclose(rest(features), after, atol=1e-3)
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
    before = caches(dataset)
    other = dataclasses.replace(SMALL, unfreeze="block5", head=("flatten",))
    np.testing.assert_array_equal(backbone_features(photos, other, dataset), features)
    assert "0 computed, 1 reused" in capsys.readouterr().out
    assert caches(dataset) == before


def test_a_view_is_the_seeds_augmentation_of_the_same_photos(dataset, photos):
    experiment = dataclasses.replace(SMALL, head=("flatten",))
    plain, first, second = computed(photos, experiment, dataset, views=2)
    assert (first != plain).any(axis=1).all()
    assert (first != second).any(axis=1).all()
    # a photo's views are nearer to it than to photos of other colours
    nearest = [np.abs(plain.astype("f4") - row).sum(axis=1).argmin() for row in first.astype("f4")]
    assert (photos.label.to_numpy()[nearest] == photos.label.to_numpy()).mean() > 0.6


@pytest.mark.parametrize("unfreeze", ["none", "block5"])
def test_a_run_on_cached_features_is_a_run_like_any_other(dataset, weights, capsys, unfreeze):
    experiment = dataclasses.replace(SMALL, weights=weights, unfreeze=unfreeze, views=2)
    run = train(experiment, dataset)
    assert "_aug1_" in run.model_path.name
    assert Experiment.from_json(read_table(dataset).iloc[-1].settings) == experiment
    _, validation = training_manifests(dataset)
    answers = load_classifier(run.model_path).predict(list(validation.path))
    assert (answers.emotion == validation.label).mean() == pytest.approx(run.val_accuracy)

    before, _ = caches(dataset), capsys.readouterr()
    assert len(before) == 4  # training photos as they are and in two views, validation photos
    again = train(experiment, dataset)
    np.testing.assert_array_equal(again.history.to_numpy(), run.history.to_numpy())
    assert caches(dataset) == before
    assert "reading photos" not in capsys.readouterr().err
    more = train(dataclasses.replace(experiment, views=3, head=("avg_pool",), learning_rate=0.1), dataset)
    assert more.state == "finished"
    assert before.items() < caches(dataset).items()
    assert len(caches(dataset)) == 5


def test_without_augmentation_there_is_one_view(dataset, weights):
    train(dataclasses.replace(SMALL, weights=weights, views=5, augment=False), dataset)
    assert len(caches(dataset)) == 2


def test_whatever_changes_the_features_changes_the_cache(dataset, photos, weights, tmp_path):
    experiment = dataclasses.replace(SMALL, weights=weights)

    def new_files(**changes):
        before = caches(dataset)
        computed(photos, dataclasses.replace(experiment, **changes), dataset, views=1)
        assert before.items() <= caches(dataset).items()
        return len(caches(dataset)) - len(before)

    assert new_files() == 2
    shutil.copy(weights, tmp_path / "elsewhere.weights.h5")
    assert new_files(weights=str(tmp_path / "elsewhere.weights.h5"), learning_rate=0.5, epochs=9) == 0
    assert new_files(seed=7) == 1  # the photos as they are do not depend on it
    assert new_files(image_size=40) == 2
    assert new_files(unfreeze="block5") == 2
    assert new_files(weights=None) == 2
    os.utime(photos.path[0], (1, 1))
    assert new_files() == 2


def test_a_photo_that_vanished_is_named(dataset, photos):
    Path(photos.path[3]).unlink()
    with pytest.raises(UserError, match=r"anger_003\.jpg cannot be read"):
        backbone_features(photos, SMALL, dataset)


def test_an_interrupted_view_goes_on_where_it_stopped(dataset, photos):
    whole = np.array(backbone_features(photos, SMALL, dataset))
    (file,) = dataset.features.glob("*.npy")
    data, row = file.read_bytes(), 2 * 512
    header = len(data) - 36 * row
    marked = np.full((10, 512), 7, np.float16).tobytes()  # ten rows that are not computed again
    file.with_suffix(".part").write_bytes(data[:header] + marked + b"cut")
    file.unlink()
    features = backbone_features(photos, SMALL, dataset)
    assert (features[:10] == 7).all()
    np.testing.assert_array_equal(features[10:], whole[10:])
    assert [each.suffix for each in dataset.features.iterdir() if each.name != ".lock"] == [".npy"]


@pytest.mark.parametrize("left", [0, 20, 5000])
def test_a_damaged_file_is_mended(dataset, photos, left):
    whole = np.array(backbone_features(photos, SMALL, dataset))
    (file,) = dataset.features.glob("*.npy")
    for name in (file, file.with_suffix(".part")):
        name.write_bytes(file.read_bytes()[:left])
    file.with_suffix(".part").write_bytes(b"")
    np.testing.assert_array_equal(backbone_features(photos, SMALL, dataset), whole)


def test_the_least_recently_used_caches_make_room(dataset, photos, monkeypatch):
    def files_after(size):
        backbone_features(photos, dataclasses.replace(SMALL, image_size=size), dataset)
        return {int(file.stem.split("_")[3].removesuffix("px")) for file in dataset.features.glob("*.npy")}

    assert files_after(32) == {32}
    held = sum(file.stat().st_size for file in dataset.features.iterdir())
    free = shutil.disk_usage(dataset.features).free
    monkeypatch.setattr(frozen_module, "DISK_SHARE", 2.5 * held / free)
    assert files_after(40) == {32, 40}
    assert files_after(32) == {32, 40}  # used again
    assert files_after(48) == {32, 48}


def test_what_does_not_fit_is_computed_the_plain_way_and_said(dataset, photos, weights, monkeypatch, capsys):
    monkeypatch.setattr(frozen_module, "DISK_SHARE", 0)
    experiment = dataclasses.replace(SMALL, weights=weights, epochs=1)
    run = train(dataclasses.replace(experiment, views=1), dataset)
    assert capsys.readouterr().out.count("more than 0% of the free disk") == 1
    plain = train(experiment, dataset)
    np.testing.assert_array_equal(run.history.to_numpy(), plain.history.to_numpy())
    assert backbone_features(photos, SMALL, dataset).shape == (36, 512)
    assert caches(dataset) == {}


def test_clear_features_empties_the_folder(dataset, photos, capsys):
    clear_features(dataset)
    assert "no cached features" in capsys.readouterr().out
    backbone_features(photos, SMALL, dataset)
    clear_features(dataset)
    assert "Removed 1 file" in capsys.readouterr().out
    assert caches(dataset) == {}
    assert len(scan_dataset(dataset.train)) == 36


def test_values_beyond_float16_are_bounded():
    inputs = keras.Input((2, 2, 3))
    huge = keras.Model(inputs, keras.layers.Rescaling(1000.0)(inputs))
    (outputs,) = frozen_module._outputs(huge, np.full((1, 2, 2, 3), 255, np.uint8))
    assert outputs.dtype == np.float16
    assert (outputs == 65504).all()
