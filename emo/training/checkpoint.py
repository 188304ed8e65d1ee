"""What a run keeps on disk while it trains: its best model, and the state to go on from after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
import psutil
import tensorflow as tf

from emo.experiments import CROSSENTROPY, RENAMED, Experiment
from emo.files import atomic
from emo.models.build import float32_copy
from emo.models.saving import save_model
from emo.training.async_writer import Writer
from emo.training.plan import Plan

STATE_SECONDS = 120.0  # between two states: what a kill costs at most, and the time to write one


class BestModel:
    """The best model so far: a `.h5` at `path` that `writer` keeps up to date.

    It is in float32, whatever `model` computes in. `changing` are the weights of `model` that training
    moves. `saved` is the metadata of what the file holds, None before the first.
    """

    def __init__(self, model: keras.Model, path: Path, changing: Iterable[keras.Variable], writer: Writer):
        self.path, self.saved, self._writer = path, None, writer
        with tf.device("CPU"):
            self._copy = float32_copy(model)
        moved = {id(weight) for weight in changing}
        pairs = zip(model.weights, self._copy.weights, strict=True)
        self._pairs = [(weight, copy) for weight, copy in pairs if id(weight) in moved]

    def save(self, metadata: dict) -> None:
        """Hands over the weights as they are now. Raises what a write failed with since the last call."""
        values = [weight.numpy() for weight, _ in self._pairs]

        def write():
            for (_, copy), value in zip(self._pairs, values, strict=True):
                copy.assign(value)
            save_model(self._copy, self.path, metadata)
            self.saved = metadata

        self._writer.submit("model", write)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` batches of `epoch` (from 0) are done, with these means over them.

    `epochs` is the curve so far, `best` its best validation accuracy, −1 before the first; `key` names the
    run by what decides it, `process` who writes the state.
    """

    key: str
    process: tuple[str, int, float]
    date: str
    model_file: str
    seconds: float
    epoch: int
    step: int
    means: dict[str, float]
    epochs: list[dict[str, float]]
    best: float

    @property
    def began(self) -> datetime:
        return datetime.fromisoformat(self.date)


class RunState:
    """The state of a run in two files of turns beside its `.h5`: one is whole at any moment.

    It holds all that the next step depends on: weights, the optimizer's, seed generators, and where in
    which epoch training is; shuffling and augmentation follow from the seed and those two numbers.
    """

    def __init__(self, running: Path, variables: Sequence[keras.Variable], writer: Writer):
        self.files = _state_files(running)
        self._variables, self._writer, self._turn = variables, writer, 0
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= STATE_SECONDS

    def save(self, progress: Progress) -> None:
        """Hands over the state as it is now; models handed over before are on disk before it is."""
        self._saved_at = time.monotonic()
        arrays = {f"{number}": variable.numpy() for number, variable in enumerate(self._variables)}
        arrays["progress"] = np.array(json.dumps(asdict(progress)))

        def write():
            with atomic(self.files[self._turn % 2]) as draft:
                np.savez(draft, **arrays)
            self._turn += 1

        self._writer.submit("state", write)

    def restore(self, file: Path) -> bool:
        """Sets the variables to those of `file`; False, and nothing set, where those are not the same."""
        self._turn = 1 - self.files.index(file)  # the other one is older
        with np.load(file) as state:
            arrays = [state[name] for name in state.files if name != "progress"]
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in self._variables]:
            return False
        for variable, array in zip(self._variables, arrays, strict=True):
            variable.assign(array)
        return True

    def remove(self) -> None:
        for file in self.files:
            file.unlink(missing_ok=True)


def find_state(folder: Path, key: str) -> tuple[Path, Progress] | None:
    """The newest whole state of the unfinished run of that key, unless this machine is training it now."""
    found = []
    for file in folder.glob("*_running.state?.npz"):
        try:
            with np.load(file) as state:
                progress = Progress(**json.loads(str(state["progress"])))
                ours = progress.key == key and not _alive(progress.process)
                if ours and state.zip.testzip() is None:
                    found.append((file, progress))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            continue  # cut short or of another version: the other generation may be whole
    return max(found, key=lambda state: (state[1].date, state[1].epoch, state[1].step), default=None)


def run_key(plan: Plan) -> str:
    """A name for everything that decides a run: settings, classes, photos (path and label) in their order.

    And the teacher, which is asked at every step; `weights` are in the state.
    """
    text = hashlib.blake2b(key_settings(plan.experiment).encode(), digest_size=16)
    if plan.experiment.teacher:
        text.update(Path(plan.experiment.teacher).expanduser().read_bytes())
    text.update("\n".join(plan.class_names).encode())
    for photos in (plan.train_photos, plan.val_photos):
        for path, label in zip(photos["path"], photos["label"], strict=True):
            text.update(f"{str(path).removeprefix(plan.paths.data.as_posix())}\0{label}\n".encode())
    return text.hexdigest()


def key_settings(experiment: Experiment) -> str:
    """The experiment as it was written before its fields were renamed: states of runs killed then go on."""
    older, values = {new: old for old, new in RENAMED.items()}, {}
    for name, value in asdict(experiment).items():
        values[older.get(name, name)] = value
        if name == "warmup_epochs":
            values["loss"] = CROSSENTROPY
    return json.dumps(values)


def this_process() -> tuple[str, int, float]:
    """Machine, process number and its start, which no other process shares."""
    return platform.node(), os.getpid(), psutil.Process().create_time()


def _alive(process: Sequence) -> bool:
    machine, number, start = process
    if machine != platform.node() or number == os.getpid():
        return False
    try:
        return psutil.Process(number).create_time() == start
    except psutil.Error:
        return False


def _state_files(running: Path) -> tuple[Path, Path]:
    return tuple(running.with_name(f"{running.stem}.state{turn}.npz") for turn in (0, 1))
