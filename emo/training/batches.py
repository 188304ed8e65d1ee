"""Shuffled batches of pictures or of cached features, as `fit` takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from emo.backend import fit_input
from emo.models.augmentation import RandomAugmentation, partner_shares, partners


def one_hot(labels: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
    """(n, classes) float32, columns in the order of `class_names`."""
    index = {name: position for position, name in enumerate(class_names)}
    return np.eye(len(index), dtype=np.float32)[[index[label] for label in labels]]


def class_weights(labels: np.ndarray, balance: float) -> np.ndarray:
    """(1 / its share of the one-hot labels) ** balance per class, scaled to mean 1 over the labels."""
    share = labels.mean(axis=0)
    weights = share**-balance
    return (weights / (share @ weights)).astype(np.float32)


class Batches:
    """(pictures, one-hot labels) in batches; with a seed, in another order each epoch, the same every run.

    `views` are arrays of the same photos, (n, …) each: an epoch takes each photo from one of them.
    An epoch begins with batch `start`, 0 unless its first ones are done already.
    With `augmentation` a batch is ((pictures, draws), labels) or, where that mixes, ((pictures, draws,
    mixtures), labels), the labels mixed already. With `class_weights` each photo's weight comes third.
    With `multiple`, and without a seed, so does it, and the last batch is filled up to a multiple of that
    number by a photo that weighs nothing; the others weigh as much more.
    """

    def __init__(
        self,
        views: Sequence[np.ndarray],
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        augmentation: RandomAugmentation | None = None,
        class_weights: np.ndarray | None = None,
        multiple: int = 1,
    ):
        self.views, self.labels, self.batch_size = views, labels, batch_size
        self.multiple = multiple if seed is None else 1
        self.seed, self.augmentation, self.class_weights, self.start = seed, augmentation, class_weights, 0
        self.mixes = augmentation is not None and augmentation.mix != "none"
        self.shuffle(epoch=0)

    def shuffle(self, epoch: int) -> None:
        """Draws order, views and augmentation of `epoch`, from nothing but the seed and that number."""
        self.epoch = epoch
        count = len(self.labels)
        random = np.random.default_rng((self.seed or 0, epoch))
        self.order, self.view = np.arange(count), np.zeros(count, int)
        if self.seed is not None:
            random.shuffle(self.order)
            self.view = random.integers(len(self.views), size=count)
        if self.augmentation:
            self.draws = self.augmentation.draw(random, count)
        if self.mixes:
            self.mixtures = self.augmentation.draw_mixtures(random, count, *self.views[0].shape[1:3])

    def dataset(self):
        """The batches from `start` on, as `fit` takes them."""
        return fit_input(self)

    def __len__(self):
        count = len(self.labels) / self.batch_size
        # training drops the last short batch: BatchNormalization dislikes batches of one
        return (math.ceil(count) if self.seed is None or count < 1 else int(count)) - self.start

    def __getitem__(self, index):
        first = (self.start + index) * self.batch_size
        chosen = self.order[first : first + self.batch_size]
        count = len(chosen)
        chosen = np.pad(chosen, (0, -count % self.multiple), mode="edge")
        views = self.view[chosen]
        pictures = np.empty((len(chosen), *self.views[0].shape[1:]), self.views[0].dtype)
        for number in np.unique(views):  # several times as fast as photo by photo
            pictures[views == number] = self.views[number][chosen[views == number]]
        labels, inputs = self.labels[chosen], [pictures]
        if self.augmentation:
            inputs.append(self.draws[chosen])
        if self.mixes:
            inputs.append(self.mixtures[chosen])
            if self.seed is not None:  # else the layer will not mix: these photos validate
                others = labels[np.asarray(partners(len(chosen)))]
                labels = labels + partner_shares(inputs[-1]) * (others - labels)
        batch = tuple(inputs) if self.augmentation else pictures, labels
        if self.multiple > 1:
            # the loss is a mean over all that are in a batch
            filled = len(self.labels) + -len(self.labels) % self.batch_size % self.multiple
            weights = np.where(np.arange(len(chosen)) < count, filled / len(self.labels), 0)
            return (*batch, weights.astype(np.float32))
        return batch if self.class_weights is None else (*batch, labels @ self.class_weights)
