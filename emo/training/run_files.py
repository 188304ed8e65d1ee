"""The names of a run's files: provisional ones until its accuracy is known, then the final ones."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from emo.experiments import Experiment

RUNNING = "_running"


class RunFiles:
    """`model` (.h5) and `curve` (.png) of the run that began at `date`, in the folder of all models."""

    def __init__(self, model: Path, date: datetime):
        self.model, self.date = model, date

    @classmethod
    def reserve(cls, experiment: Experiment, folder: Path) -> RunFiles:
        """The names of a new run, which no other run has; the empty `.h5` says so to other processes."""
        date = datetime.now()
        while True:
            stem = (
                f"emo_classificator_best_{date:%y%m%d%H%M%S}_{experiment.backbone}"
                f"_e{experiment.epochs}_aug{int(experiment.augment or experiment.use_augmented_copy)}"
            )
            model = folder / f"{stem}{RUNNING}.h5"
            if not any(folder.glob(f"{stem}_*")):
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
        for finished in folder.glob(f"{files._stem}_acc*.h5"):
            finished.rename(files.model)
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
        return RunFiles(self.model.rename(named), self.date)

    def discard(self) -> None:
        """Removes what the run has left."""
        for file in (self.model, self.curve):
            file.unlink(missing_ok=True)
