"""Batches: their order, views and mixtures follow from seed and epoch alone."""

import numpy as np
import pytest
import tensorflow as tf

from emo.models.augmentation import RandomAugmentation
from emo.training.batches import Batches, class_weights, one_hot


def test_batches_shuffle_by_seed_and_epoch():
    images, labels = np.arange(10), np.arange(10)

    def order(seed, epoch):
        batches = Batches([images], labels, 5, seed=seed)
        batches.shuffle(epoch)
        return list(np.concatenate([batches[index][0] for index in range(len(batches))]))

    assert order(seed=1, epoch=3) == order(seed=1, epoch=3)
    assert order(seed=1, epoch=3) != order(seed=1, epoch=4)
    assert order(seed=1, epoch=3) != order(seed=2, epoch=3)
    assert sorted(order(seed=1, epoch=3)) == list(range(10))


def test_a_dataset_gives_the_batches_that_are_left_and_closes_at_once():
    batches = Batches([PHOTOS], np.eye(12, dtype="f4"), 4, seed=1, augmentation=RandomAugmentation())
    batches.start = 1
    dataset = batches.dataset()
    assert dataset.cardinality() == len(list(dataset)) == 2
    for read, batch in zip(dataset, (batches[0], batches[1]), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, read, batch)
    # with TensorFlow's tuning, closing takes as long as the epoch did, in some epochs
    assert dataset.options().autotune.enabled is False


def test_an_epoch_takes_each_photo_from_one_of_its_views():
    views = [np.arange(200), 1000 + np.arange(200)]

    def epoch(number, seed=1):
        batches = Batches(views, np.arange(200), 20, seed=seed)
        batches.shuffle(number)
        return [batches[index] for index in range(len(batches))]

    pictures, labels = (np.concatenate(part) for part in zip(*epoch(3), strict=True))
    np.testing.assert_array_equal(pictures % 1000, labels)
    assert 60 < (pictures >= 1000).sum() < 140
    np.testing.assert_array_equal(epoch(3)[0][0], pictures[:20])
    assert (epoch(4)[0][0] != pictures[:20]).any()
    assert (epoch(3, seed=2)[0][0] != pictures[:20]).any()


def test_draws_belong_to_photo_epoch_and_seed_whatever_the_batch_size():
    def draws(batch_size, number, seed=1):
        batches = Batches([np.arange(12)], np.arange(12), batch_size, seed, RandomAugmentation())
        batches.shuffle(number)
        found = {}
        for index in range(len(batches)):
            (pictures, drawn), _ = batches[index]
            found |= dict(zip(pictures.tolist(), map(tuple, drawn.tolist()), strict=True))
        return found

    assert draws(4, 0) == draws(6, 0)
    assert len(set(draws(4, 0).values())) == 12
    assert draws(4, 0) != draws(4, 1)
    assert draws(4, 0) != draws(4, 0, seed=2)


PHOTOS = np.repeat(np.arange(12, dtype=np.uint8) * 20, 16 * 16 * 3).reshape(12, 16, 16, 3)  # a level each


def augmented_batches(layer, seed=1, epoch=0, batch_size=4, **options):
    """[(what the network gets, labels, …)] of an epoch in which each photo has a class of its own."""
    batches = Batches([PHOTOS], np.eye(12, dtype="f4"), batch_size, seed, layer, **options)
    batches.shuffle(epoch)
    parts = [batches[index] for index in range(len(batches))]
    return [(np.asarray(layer(*inputs, training=seed is not None)), *rest) for inputs, *rest in parts]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_labels_are_mixed_as_the_pixels_are(mix):
    layer = RandomAugmentation(strength=0, mix=mix)
    shares = []
    for epoch in range(20):
        for pictures, labels in augmented_batches(layer, epoch=epoch):
            np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
            assert ((labels > 0).sum(axis=1) <= 2).all()
            np.testing.assert_allclose(
                pictures.mean(axis=(1, 2, 3)), labels @ (np.arange(12) * 20), atol=0.01
            )
            shares += list(labels.max(axis=1))
    whole = np.mean(np.array(shares) > 0.95)
    assert whole > 0.4 if mix == "mixup" else 0.05 < whole < 0.3  # Beta(0.2, 0.2) lies at the ends


def test_what_is_mixed_follows_from_seed_and_epoch_alone():
    layer = RandomAugmentation(color_jitter=0.2, random_erasing=0.5, mix="cutmix")
    first, again = (augmented_batches(layer) for _ in range(2))
    for (pictures, labels), (same, alike) in zip(first, again, strict=True):
        np.testing.assert_array_equal(pictures, same)
        np.testing.assert_array_equal(labels, alike)
    for other in (augmented_batches(layer, epoch=1), augmented_batches(layer, seed=2)):
        assert (other[0][1] != first[0][1]).any()


def test_an_odd_last_photo_is_mixed_with_itself():
    layer = RandomAugmentation(strength=0, mix="mixup")
    batches = Batches([PHOTOS[:3]], np.eye(3, dtype="f4"), 8, 0, layer)
    inputs, labels = batches[0]
    assert labels[2].max() == 1
    np.testing.assert_allclose(layer(*inputs, training=True)[2], inputs[0][2], atol=1e-3)


def test_validation_is_never_mixed():
    layer = RandomAugmentation(color_jitter=1, random_erasing=0.9, mix="mixup")
    pictures, labels = (np.concatenate(part) for part in zip(*augmented_batches(layer, None), strict=True))
    np.testing.assert_array_equal(pictures, PHOTOS)
    np.testing.assert_array_equal(labels, np.eye(12))


def test_rare_classes_weigh_more_and_the_mean_weight_is_one():
    labels = one_hot(["a"] * 90 + ["b"] * 10, "ab")
    np.testing.assert_allclose(class_weights(labels, 1), [0.5 / 0.9, 0.5 / 0.1], rtol=1e-5)  # classes equal
    some = class_weights(labels, 0.5)
    assert some[1] / some[0] == pytest.approx(3)
    assert (labels @ some).mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(labels, 0), 1)

    batches = Batches([np.arange(100)], labels, 10, seed=0, class_weights=some)
    for index in range(len(batches)):
        _, answers, weights = batches[index]
        np.testing.assert_allclose(weights, np.where(answers[:, 1], some[1], some[0]))


def test_a_mixed_photo_weighs_as_its_label_is_mixed():
    weights = np.arange(1, 13, dtype="f4")
    for _, labels, some in augmented_batches(RandomAugmentation(mix="mixup"), class_weights=weights):
        np.testing.assert_allclose(some, labels @ weights, rtol=1e-6)


def test_training_drops_the_short_batch_and_validation_keeps_it():
    images = np.arange(11)
    assert len(Batches([images], images, 5, seed=0)) == 2
    assert len(Batches([images], images, 5)) == 3
    assert len(Batches([images], images, 64, seed=0)) == 1


def test_labels_follow_the_order_of_class_names():
    np.testing.assert_array_equal(one_hot(["b", "a"], ["a", "b", "c"]), [[0, 1, 0], [1, 0, 0]])
