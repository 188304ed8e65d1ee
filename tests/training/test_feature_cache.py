"""The frozen layers' outputs: equal to the whole, computed once, kept, repaired, bounded, cleared."""

import dataclasses
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from emo.data.geometry import Crop
from emo.data.image_io import load_images
from emo.data.manifest import scan_dataset
from emo.data.split import training_manifests
from emo.errors import UserError
from emo.experiments import Experiment, get_experiment
from emo.inference.classifier import load_classifier
from emo.models.build import build_model, split_model
from emo.precision import computing_in
from emo.tracking.table import read_table
from emo.training import feature_cache as frozen_module
from emo.training.feature_cache import backbone_features, clear_features, frozen_features
from emo.training.train import train

SMALL = get_experiment(
    "10", backbone="vgg16", weights=None, image_size=32, batch_size=8, epochs=2, precision="float32"
)


@pytest.fixture
def photos(dataset):
    return scan_dataset(dataset.train)


def tiny(size=32, seed=0):
    """A frozen part that takes no time: a convolution, averaged over places."""
    pictures = keras.Input((size, size, 3))
    start = keras.initializers.GlorotUniform(seed)
    maps = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=start)(pictures)
    return keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(maps))


def features_of(frozen, photos, experiment, paths, views=0):
    return frozen_features(frozen, [(photos, views)], experiment, paths)[0]


def spread_answers(model, pictures):
    """Answers that differ as a well trained network's do: probabilities near 1/3 are equal anyhow."""
    output = model.layers[-1]
    logits = keras.Model(model.input, output.input)(pictures) @ output.kernel
    output.kernel.assign(output.kernel * 3 / np.std(logits - np.mean(logits, axis=0)))


def caches(paths):
    """Name → inode: a file written again is another."""
    return {file.name: file.stat().st_ino for file in paths.features.glob("*.npy")}


@pytest.mark.parametrize(
    ("backbone", "block", "size"),
    [("resnet50", "conv5", 32), ("vgg16", "block5", 32), ("xception", "block14", 71)],
)
def test_the_parts_equal_the_whole_before_and_after_training(backbone, block, size):
    partly = dataclasses.replace(SMALL, backbone=backbone, unfreeze=block, image_size=size)
    model = build_model(partly, 3)
    frozen, rest = split_model(model, partly)
    assert {id(each) for each in rest.trainable_variables} == {id(each) for each in model.trainable_variables}
    pictures = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    spread_answers(model, pictures)
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

    pooled, head = split_model(model, dataclasses.replace(partly, unfreeze="none"))  # the backbone as a whole
    assert [layer.name for layer in head.layers[1:]] == [layer.name for layer in model.layers[-3:]]
    np.testing.assert_allclose(head(np.asarray(pooled(pictures)).astype(np.float16)), after, atol=1e-3)


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
    plain, first, second = (
        np.array(view, np.float32) for view in features_of(tiny(), photos, SMALL, dataset, views=2)
    )
    assert (first != plain).any(axis=1).all()
    assert (first != second).any(axis=1).all()
    # a photo's view is nearer to photos of its colour than to others
    nearest = [np.abs(plain - row).sum(axis=1).argmin() for row in first]
    assert (photos.label.to_numpy()[nearest] == photos.label.to_numpy()).mean() > 0.9


def test_a_view_loses_rectangles_and_changes_brightness_where_the_experiment_says_so(dataset, photos):
    def views(**changes):
        found = features_of(tiny(), photos, dataclasses.replace(SMALL, **changes), dataset, views=1)
        return [np.array(view, np.float32) for view in found]

    (plain, view), (plain_too, darker), (_, holed) = (
        views(),
        views(color_jitter=0.5),
        views(random_erasing=0.5),
    )
    np.testing.assert_array_equal(plain, plain_too)
    assert (view != darker).any(axis=1).all()
    assert 8 < (view != holed).any(axis=1).sum() < 28  # half of 36 photos


@pytest.mark.parametrize("unfreeze", ["none", "block5"])
def test_a_run_on_cached_features_is_a_run_like_any_other(dataset, capsys, unfreeze):
    experiment = dataclasses.replace(SMALL, unfreeze=unfreeze, views=2)
    run = train(experiment, dataset)
    assert "_aug1_" in run.model_path.name
    assert Experiment.from_json(read_table(dataset).iloc[-1].settings) == experiment
    _, validation = training_manifests(dataset)
    answers = load_classifier(run.model_path).predict(list(validation.path))
    assert (answers.emotion == validation.label).mean() == pytest.approx(run.val_accuracy)

    saved = load_classifier(run.model_path).model  # predicts as its parts on the cached outputs
    frozen, rest = split_model(saved, experiment)
    (features,) = features_of(frozen, validation, experiment, dataset)
    whole = saved.predict(load_images(validation.path, 32), verbose=0)
    np.testing.assert_allclose(rest.predict(features, verbose=0), whole, atol=1e-4)
    assert np.ptp(whole, axis=0).max() > 2e-3  # barely trained, its answers still differ by more than that

    before, _ = caches(dataset), capsys.readouterr()
    assert len(before) == 4  # training photos as they are and in two views, validation photos
    again = train(experiment, dataset)
    np.testing.assert_array_equal(again.history.to_numpy(), run.history.to_numpy())
    assert caches(dataset) == before
    assert "reading photos" not in capsys.readouterr().err


def test_without_augmentation_there_is_one_view(dataset):
    train(dataclasses.replace(SMALL, views=5, augment=False, epochs=1), dataset)
    assert len(caches(dataset)) == 2


def test_whatever_changes_the_features_changes_the_cache_and_nothing_else_does(dataset, photos, monkeypatch):
    def new_files(frozen, views=1, **changes):
        before = caches(dataset)
        features_of(frozen, photos, dataclasses.replace(SMALL, **changes), dataset, views)
        assert before.items() <= caches(dataset).items()
        return len(caches(dataset)) - len(before)

    assert new_files(tiny()) == 2
    assert new_files(tiny(), learning_rate=0.5, epochs=9, name="other", weights="elsewhere.h5") == 0
    assert new_files(tiny(), views=3) == 2
    assert (
        new_files(tiny(), color_jitter=0.3) == new_files(tiny(), random_erasing=0.5) == 1
    )  # the augmented view
    assert new_files(tiny(), class_balance=1.0, mix="none") == 0
    assert new_files(tiny(), seed=7) == 1  # the photos as they are do not depend on it
    assert new_files(tiny(seed=1)) == 2  # other weights
    assert new_files(tiny(40), image_size=40) == 2
    assert new_files(tiny(), unfreeze="block5") == 2
    assert new_files(tiny(), head=("flatten",)) == 2
    with computing_in("mixed_float16"):
        assert new_files(tiny()) == 2
    os.utime(photos.path[0], (1, 1))
    assert new_files(tiny()) == 2
    monkeypatch.setattr(frozen_module, "find_crops", lambda *_: [Crop(0, 0, 0.5)] * len(photos))
    assert new_files(tiny()) == 2  # a detector that looks elsewhere


def test_a_photo_that_vanished_is_named(dataset, photos):
    Path(photos.path[3]).unlink()
    with pytest.raises(UserError, match=r"anger_003\.jpg cannot be read"):
        features_of(tiny(), photos, SMALL, dataset)


def test_an_interrupted_view_goes_on_where_it_stopped(dataset, photos):
    whole = np.array(features_of(tiny(), photos, SMALL, dataset)[0])
    (file,) = dataset.features.glob("*.npy")
    header = file.stat().st_size - whole.nbytes
    marked = np.full((10, 4), 7, np.float16).tobytes()  # ten rows that are not computed again
    file.with_suffix(".part").write_bytes(file.read_bytes()[:header] + marked + b"cut")
    file.unlink()
    (features,) = features_of(tiny(), photos, SMALL, dataset)
    assert (features[:10] == 7).all()
    np.testing.assert_array_equal(features[10:], whole[10:])
    assert [each.suffix for each in dataset.features.iterdir() if each.name != ".lock"] == [".npy"]


@pytest.mark.parametrize("left", [0, 20, 200])
def test_a_damaged_file_is_repaired(dataset, photos, left):
    whole = np.array(features_of(tiny(), photos, SMALL, dataset)[0])
    (file,) = dataset.features.glob("*.npy")
    data = file.read_bytes()
    assert left < len(data)
    file.write_bytes(data[:left])
    file.with_suffix(".part").write_bytes(data[:left])
    np.testing.assert_array_equal(features_of(tiny(), photos, SMALL, dataset)[0], whole)
    assert file.read_bytes() == data


def test_the_least_recently_used_caches_make_room(dataset, photos, monkeypatch):
    def sizes_after(size):
        features_of(tiny(size), photos, dataclasses.replace(SMALL, image_size=size), dataset)
        return {int(file.stem.split("_")[3].removesuffix("px")) for file in dataset.features.glob("*.npy")}

    assert sizes_after(32) == {32}
    held = sum(file.stat().st_size for file in dataset.features.iterdir())
    limit = 2.5 * held / shutil.disk_usage(dataset.features).free
    monkeypatch.setattr(frozen_module, "DISK_SHARE", limit)
    assert sizes_after(40) == {32, 40}
    assert sizes_after(32) == {32, 40}  # used again
    assert sizes_after(48) == {32, 48}
    assert (dataset.features / ".lock").exists()  # without it two runs would write the same file


def test_what_training_and_validation_need_is_kept_together(dataset, photos, monkeypatch):
    wanted = [(photos[12:].reset_index(drop=True), 2), (photos[:12], 0)]
    frozen_features(tiny(), wanted, SMALL, dataset)
    before = caches(dataset)
    held = sum(file.stat().st_size for file in dataset.features.iterdir())
    monkeypatch.setattr(frozen_module, "DISK_SHARE", 1.01 * held / shutil.disk_usage(dataset.features).free)
    lost = max(before)
    (dataset.features / lost).unlink()
    frozen_features(tiny(), wanted, SMALL, dataset)
    after = caches(dataset)
    assert after.pop(lost)
    del before[lost]
    assert after == before


def test_an_interrupted_view_that_fits_the_disk_still_does(dataset, photos, monkeypatch):
    features_of(tiny(), photos, SMALL, dataset)
    (file,) = dataset.features.glob("*.npy")
    size, free = file.stat().st_size, shutil.disk_usage(dataset.features).free
    file.with_suffix(".part").write_bytes(file.read_bytes()[: size * 2 // 3])
    file.unlink()
    monkeypatch.setattr(frozen_module, "DISK_SHARE", 1.2 * size / free)
    assert frozen_features(tiny(), [(photos, 0)], SMALL, dataset) is not None


def test_what_does_not_fit_is_computed_the_plain_way_and_said(dataset, photos, monkeypatch, capsys):
    monkeypatch.setattr(frozen_module, "DISK_SHARE", 0)
    experiment = dataclasses.replace(SMALL, epochs=1)
    run = train(dataclasses.replace(experiment, views=1), dataset)
    assert capsys.readouterr().out.count("more than 0% of the free disk") == 1
    plain = train(experiment, dataset)
    np.testing.assert_array_equal(run.history.to_numpy(), plain.history.to_numpy())
    assert backbone_features(photos, SMALL, dataset).shape == (36, 512)
    assert caches(dataset) == {}


def test_clear_features_empties_the_folder_and_leaves_the_photos(dataset, photos, capsys):
    clear_features(dataset)
    assert "no cached features" in capsys.readouterr().out
    features_of(tiny(), photos, SMALL, dataset, views=1)
    clear_features(dataset)
    assert "Removed 2 files" in capsys.readouterr().out
    assert caches(dataset) == {}
    assert len(scan_dataset(dataset.train)) == 36


def test_values_beyond_float16_are_bounded():
    inputs = keras.Input((2, 2, 3))
    huge = keras.Model(inputs, keras.layers.Rescaling(1000.0)(inputs))
    (outputs,) = frozen_module._outputs(huge, np.full((1, 2, 2, 3), 255, np.uint8))
    assert outputs.dtype == np.float16
    assert (outputs == 65504).all()


def test_a_full_disk_is_one_sentence_and_the_view_goes_on_later(dataset, photos, full_disk, monkeypatch):
    whole = np.array(features_of(tiny(), photos, SMALL, dataset)[0])
    monkeypatch.setattr(
        frozen_module, "_make_room", lambda *_: True
    )  # another process fills it after the look
    shutil.rmtree(dataset.features)
    dataset.features.symlink_to(full_disk.folder)
    full_disk.fill()
    with pytest.raises(UserError, match=r"\.part cannot be written \(No space left on device\); make room"):
        features_of(tiny(), photos, SMALL, dataset)
    full_disk.empty()
    np.testing.assert_array_equal(features_of(tiny(), photos, SMALL, dataset)[0], whole)
