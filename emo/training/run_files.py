"""The names of a run's files: provisional ones until its accuracy is known, then the final ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

import h5py

from emo.experiments import Experiment
from emo.files import LEFTOVER_SECONDS, told
from emo.models.saving import read_metadata
from emo.paths import free_path

RUNNING = "_running"


class RunFiles:
    """`model` (.h5) and `curve` (.png) of the run that began at `date`, in the folder of all models."""

    def __init__(self, model: Path, date: datetime):
        self.model, self.date = model, date

    @classmethod
    def reserve(
        cls,
        experiment: Experiment,
        folder: Path,
        announce: Callable[[str, datetime], None] = lambda name, date: None,
    ) -> RunFiles:
        """The names of a new run, which no other run has; the empty `.h5` says so to other processes.

        `announce` gets each name before its file is there, so that a kill leaves none without an owner.
        """
        date = datetime.now()
        while True:
            stem = (
                f"emo_classificator_best_{date:%y%m%d%H%M%S}_{experiment.backbone}"
                f"_e{experiment.epochs}_aug{int(experiment.augment or experiment.use_augmented_copy)}"
            )
            model = folder / f"{stem}{RUNNING}.h5"
            if not any(folder.glob(f"{stem}_*")):
                announce(model.name, date)
                with told(model):
                    try:
                        model.touch(exist_ok=False)
                        return cls(model, date)
                    except FileExistsError:  # another process took it in this instant
                        pass
            date += timedelta(seconds=1)

    @classmethod
    def resume(cls, folder: Path, name: str, date: datetime) -> RunFiles:
        """Those of a run that goes on; one that came to its end, but not into the table, is named back."""
        files = cls(folder / name, date)
        for finished in folder.glob(f"{files._stem}_acc*"):
            if finished.suffix == ".h5":
                finished.replace(files.model)
            elif finished.suffix == ".png":
                finished.unlink()  # it is drawn again, perhaps with another accuracy in its name
        files.remove_drafts()
        return files

    @classmethod
    def new(cls, folder: Path, name: str, date: datetime) -> RunFiles:
        """Those of a run that left no state and begins again; a model that it finished stays till the end."""
        files = cls(folder / name, date)
        files.curve.unlink(missing_ok=True)
        files.remove_drafts()
        with told(files.model):
            files.model.touch()
        return files

    @property
    def _stem(self) -> str:
        return self.model.stem.removesuffix(RUNNING)

    @property
    def curve(self) -> Path:
        return self.model.with_suffix(".png")

    def finish(self, accuracy: float) -> RunFiles:
        """Gives the model its final name, with the accuracy in whole percent; gives the final files."""
        named = self.model.with_name(f"{self._stem}_acc{100 * accuracy:.0f}.h5")
        with told(named):
            return RunFiles(self.model.replace(named), self.date)

    def discard(self) -> None:
        """Removes what the run has left."""
        for file in (self.model, self.curve):
            file.unlink(missing_ok=True)
        self.remove_drafts()

    def remove_drafts(self) -> None:
        """What a kill left half written beside them; nobody else writes under this run's name."""
        for draft in self.model.parent.glob(f".{self._stem}*.unfinished*"):
            draft.unlink(missing_ok=True)


def clear_leftovers(folder: Path, claimed: Collection[str]) -> None:
    """Tidies up after runs that were killed, but those whose model files are `claimed` or have a state.

    Half-written files and empty models go; a whole model gets its final name, and a sentence says so. What is
    younger than `LEFTOVER_SECONDS` may be a run that begins now, and stays.
    """

    stems = [Path(name).stem.removesuffix(RUNNING) for name in claimed]

    def is_left(file: Path) -> bool:
        owned = any(file.name.lstrip(".").startswith(stem) for stem in stems)
        try:
            return not owned and time.time() - file.stat().st_mtime > LEFTOVER_SECONDS
        except OSError:
            return False

    for draft in filter(is_left, folder.glob(".*.unfinished*")):
        draft.unlink(missing_ok=True)
    for model in filter(is_left, folder.glob(f"*{RUNNING}.h5")):
        if any(folder.glob(f"{model.stem}.state?.npz")):
            continue  # it goes on when its experiment is trained again
        model.with_suffix(".png").unlink(missing_ok=True)
        if not keep_model(model):
            model.unlink(missing_ok=True)


def keep_model(model: Path) -> Path | None:
    """Gives the whole model of a run that cannot go on its final name, and says so; None for no model."""
    accuracy = saved_accuracy(model)
    if accuracy is None:
        return None
    stem = model.stem.removesuffix(RUNNING)
    kept = model.rename(free_path(model.with_name(f"{stem}_acc{100 * accuracy:.0f}.h5")))
    print(f"{model.name} was left by a run that was killed: its best model is kept as {kept.name}.")
    return kept


def saved_accuracy(model: Path) -> float | None:
    """What a model file says of its validation; None for one that is empty, damaged or silent."""
    try:
        if not h5py.is_hdf5(model):
            return None
        accuracy = read_metadata(model)["val_accuracy"]
    # h5py and json raise several kinds for a damaged file
    except Exception:
        return None
    return accuracy if isinstance(accuracy, float) and 0 <= accuracy <= 1 else None
