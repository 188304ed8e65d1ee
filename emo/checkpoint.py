"""The best model of a run on disk, written while training goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import tensorflow as tf

from emo.model import float32_copy, save_model

SHARE = 0.02  # of the time that writing may take


class Checkpoint:
    """A `.h5` at `path` that a thread of its own keeps up to date, in float32 whatever `model` computes in.

    `changing` are the weights of `model` that training moves. `saved` is the metadata of what the file
    holds, None before the first. Of several models that wait to be written, the newest is.
    `seconds` is the processor time that the thread has taken.
    """

    def __init__(self, model: keras.Model, path: Path, changing: Iterable[keras.Variable]):
        self.path, self.saved, self.seconds = path, None, 0.0
        with tf.device("CPU"):
            self._copy = float32_copy(model)
        moved = {id(weight) for weight in changing}
        pairs = zip(model.weights, self._copy.weights, strict=True)
        self._pairs = [(weight, copy) for weight, copy in pairs if id(weight) in moved]
        self._newest = deque(maxlen=1)
        self._thread, self._writes = ThreadPoolExecutor(1), deque[Future]()
        self._closing, self._not_before = threading.Event(), 0.0

    def save(self, metadata: dict) -> None:
        """Hands over the weights as they are now. Raises what a write failed with since the last call."""
        self._raise_failure()
        self._newest.append(([weight.numpy() for weight, _ in self._pairs], metadata))
        self._writes.append(self._thread.submit(self._write))

    def close(self) -> None:
        """Waits until the newest model is on disk. Raises what a write failed with."""
        self._closing.set()
        self._thread.shutdown()
        self._raise_failure()

    def _raise_failure(self) -> None:
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _write(self) -> None:
        # writes take processor time from training: short epochs, each better than the last, share one
        self._closing.wait(self._not_before - time.monotonic())
        if not self._newest:
            return  # an earlier call took it
        values, metadata = self._newest.popleft()
        started = time.thread_time()
        for (_, copy), value in zip(self._pairs, values, strict=True):
            copy.assign(value)
        save_model(self._copy, self.path, metadata)
        self.saved = metadata
        taken = time.thread_time() - started
        self.seconds += taken
        self._not_before = time.monotonic() + taken / SHARE
