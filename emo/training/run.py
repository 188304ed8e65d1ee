"""What became of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pandas as pd

from emo.errors import UserError


class Ending(Enum):
    """How a run ended; the value begins the text in the table's column `state`."""

    FINISHED = "finished"
    INTERRUPTED = "stopped by the user"
    DIVERGED = "stopped: the loss became NaN"
    FAILED = "failed"

    @classmethod
    def of(cls, state: str) -> Ending | None:
        """What the text of a row tells; None for one that tells none of them."""
        return next((ending for ending in cls if state.startswith(ending.value)), None)


@dataclass(frozen=True)
class Outcome:
    """An ending after `epochs` complete ones, and the exception that caused it, if one did."""

    ending: Ending
    epochs: int
    error: BaseException | None = None

    def __str__(self) -> str:
        told = self.ending.value
        if self.ending is Ending.DIVERGED:
            return f"{told} in epoch {self.epochs + 1}"
        if self.ending is Ending.FAILED:
            kind = "" if isinstance(self.error, UserError) else f"{type(self.error).__name__}: "
            return f"{told} after epoch {self.epochs}: {kind}{_first_words(self.error)}"
        return told if self.ending is Ending.FINISHED else f"{told} after epoch {self.epochs}"


@dataclass(frozen=True)
class Run:
    """One training that left a model. Accuracies are fractions; `history` has a row per epoch."""

    number: int
    history: pd.DataFrame
    val_accuracy: float
    best_epoch: int
    model_path: Path
    curve_path: Path
    seconds: float
    outcome: Outcome

    def __str__(self) -> str:
        return (
            f"Run {self.number} {self.outcome}: validation accuracy {self.val_accuracy:.1%} "
            f"(best epoch {self.best_epoch} of {len(self.history)}), {self.seconds:.0f} s, "
            f"{self.model_path.name}"
        )


def _first_words(error: BaseException) -> str:
    """What it says, without the places in the graph that TensorFlow puts before."""
    places = (" ", "\t", "Graph execution error", "Detected at", "<stack traces")
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(places)]
    return lines[0][:200] if lines else ""
