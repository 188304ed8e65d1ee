"""What a run keeps on disk while it trains: its best model, and the state to go on from after a kill."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import keras
import numpy as np

from emo.backend import broadcast, process_count
from emo.files import atomic
from emo.models.build import copy_in
from emo.models.named_files import named_file
from emo.models.saving import save_model
from emo.training.async_writer import Writer
from emo.training.devices import for_this_process_alone
from emo.training.plan import Plan

STATE_SECONDS = 120.0  # between two states: what a kill costs at most, and the time to write one


class BestModel:
    """The best model so far: a `.h5` at `path` that `writer` keeps up to date.

    It is in float32, whatever `model` computes in. `changing` are the weights of `model` that training
    moves. `saved` is the metadata of what the file holds, None before the first.
    """

    def __init__(self, model: keras.Model, path: Path, changing: Iterable[keras.Variable], writer: Writer):
        self.path, self.saved, self._writer = path, None, writer
        with keras.device("cpu:0"), for_this_process_alone():
            self._copy = copy_in("float32", model)
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
    run by what decides it.
    """

    key: str
    date: str
    model_file: str
    seconds: float
    epoch: int
    step: int
    means: dict[str, float]
    epochs: list[dict[str, float]]
    best: float

    @classmethod
    def read(cls, text: str) -> Progress:
        """What a state says of itself. Raises ValueError, TypeError and their like for what none can say."""
        progress = cls(**json.loads(text))
        counts = [progress.epoch, progress.step, *(epoch["epoch"] for epoch in progress.epochs)]
        figures = [progress.seconds, progress.best, *progress.means.values()]
        figures += [value for epoch in progress.epochs for value in epoch.values()]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("epochs and steps must be whole numbers")
        if counts[2:] != list(range(1, progress.epoch + 1)) or progress.seconds < 0:
            raise ValueError("its epochs are not in a row")
        if not all(map(math.isfinite, figures)) or not progress.best <= 1:
            raise ValueError("its figures are not numbers")
        # a name alone: it must not lead out of the folder
        if Path(progress.model_file).name != progress.model_file or progress.began.year < 2020:
            raise ValueError("it names no run")
        return progress

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

    def read(self, file: Path) -> list[np.ndarray] | None:
        """The variables' values in `file`; None where they are of other variables.

        Raises what NumPy does for a damaged file.
        """
        with np.load(file) as state:
            names = [str(number) for number in range(len(state.files) - 1)]
            arrays = [state[name] for name in names]
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in self._variables]:
            return None
        if not all(np.issubdtype(array.dtype, np.number) for array in arrays):
            raise ValueError("its arrays hold no numbers")
        self._turn = 1 - self.files.index(file)  # the other one is older
        return arrays

    def remove(self) -> None:
        for file in self.files:
            file.unlink(missing_ok=True)


def take_up(variables: Sequence[keras.Variable], progress: Progress | None, arrays: list | None) -> str:
    """Gives the variables the values of a state, None for a new run, in all processes that train together.

    What process 0 gives counts; the others give None. Returns the progress as text, "" for a new run.
    """
    text = json.dumps(asdict(progress)) if progress else ""
    if process_count() > 1:
        (length,) = broadcast([np.array(len(text.encode()), np.int32)])
        if length:
            none = [np.zeros(variable.shape, variable.dtype) for variable in variables]
            said = np.frombuffer(text.encode().ljust(length), np.uint8)
            said, *arrays = broadcast([said, *(arrays or none)])
            text = said.tobytes().decode()
    if text:
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
    return text


def find_states(folder: Path, key: str) -> tuple[list[tuple[Path, Progress]], dict[Path, str]]:
    """The whole states of the unfinished run of that key, the newest first; damaged files, and what is wrong.

    A damaged file does not say whose it is: what it belongs to is told by its name alone.
    """
    found, damaged = [], {}
    for file in folder.glob("*_running.state?.npz"):
        try:
            with np.load(file) as state:
                progress = Progress.read(str(state["progress"]))
                if progress.key == key:
                    if state.zip.testzip() is not None:
                        raise ValueError("a part of it is damaged")
                    found.append((file, progress))
        # NumPy, zipfile, zlib and json raise a dozen kinds for bytes that a kill or a disk has left
        except Exception as error:
            damaged[file] = first_line(error)
    newest_first = sorted(found, key=lambda s: (s[1].date, s[1].epoch, s[1].step), reverse=True)
    return newest_first, damaged


def first_line(error: Exception) -> str:
    """What an error says, shortly."""
    return str(error).split("\n")[0][:100] or type(error).__name__


def run_of(state: Path) -> str:
    """The name of the model file that a state lies beside."""
    return f"{state.name.rpartition('.state')[0]}.h5"


def run_key(plan: Plan) -> str:
    """A name for everything that decides a run: settings, classes, photos (path, label and bytes) in order.

    And the teacher, which is asked at every step; `weights` are in the state.
    """
    text = hashlib.blake2b(plan.experiment.to_json().encode(), digest_size=16)
    if teacher := named_file("teacher", plan.experiment.teacher, plan.paths):
        text.update(teacher.read_bytes())
    text.update("\n".join(plan.class_names).encode())
    for photos in (plan.train_photos, plan.val_photos):
        for path, label in zip(photos["path"], photos["label"], strict=True):
            name = str(path).removeprefix(plan.paths.data.as_posix())
            text.update(f"{name}\0{label}\0{os.path.getsize(path)}\n".encode())  # noqa: PTH202 -- many
    return text.hexdigest()


def run_name(plan: Plan) -> str:
    """A short name for logs of a run: the same where it goes on, another for other settings or photos."""
    return f"{plan.experiment.name}_{run_key(plan)[:6]}"


def _state_files(running: Path) -> tuple[Path, Path]:
    return tuple(running.with_name(f"{running.stem}.state{turn}.npz") for turn in (0, 1))
