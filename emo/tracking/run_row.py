"""A run as a row of the table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from emo.environment import device_name
from emo.experiments import CROSSENTROPY, Experiment


def run_row(
    experiment: Experiment,
    *,
    began: datetime,
    val_accuracy: float,
    curve: Path,
    model: Path,
    state: str,
    seconds: float,
    versions: str,
    commit: str,
    comment: str,
) -> dict:
    """What `log_run` takes: the experiment in the words of the original project's table, and its result.

    `val_accuracy` is a fraction, `curve` the picture's path below the results folder.
    """
    e = experiment
    head = [f"unfrozen: {e.unfreeze}"] if e.unfreeze != "none" else []
    optimizer = _numbers(e, "learning_rate", "momentum", "weight_decay", "ema")
    if e.schedule != "constant":
        optimizer.append(e.schedule + (f" after {e.warmup_epochs:g} warm-up" if e.warmup_epochs else ""))
    loss = _numbers(e, "label_smoothing", "class_balance", "teacher_weight")
    return {
        "date": began.strftime("%d.%m.%y"),
        "base_model": e.backbone,
        "extra_layers": ", ".join([*head, *e.head, "softmax"]),
        "optimizer": f"{e.optimizer}({', '.join(optimizer)})",
        "loss": CROSSENTROPY + (f"({', '.join(loss)})" if loss else ""),
        "augmentation": e.augment or e.use_augmented_copy,
        "epochs": e.epochs,
        "val_accuracy": round(100 * val_accuracy, 1),
        "learning_curve": curve.as_posix(),
        "state": state,
        "image_size": e.image_size,
        "batch_size": e.batch_size,
        "seed": e.seed,
        "seconds": round(seconds),
        "device": device_name(),
        "versions": versions,
        "commit": commit,
        "model_file": model.name,
        "settings": e.to_json(),
        "comment": comment,
    }


def _numbers(experiment: Experiment, *fields: str) -> list[str]:
    """Those that are not 0, as field=value."""
    values = ((field, getattr(experiment, field)) for field in fields)
    return [f"{field}={value:g}" for field, value in values if value]
