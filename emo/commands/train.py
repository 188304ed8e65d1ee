"""`emo train`: train an experiment, as the train notebook does."""

from __future__ import annotations

import argparse
from pathlib import Path

from emo.commands.shared import add_json, as_json
from emo.experiments import experiment_menu, get_experiment, parse_changes
from emo.paths import get_paths


def add(commands) -> None:
    """The command's own options and help."""
    command = commands.add_parser(
        "train",
        help="train an experiment",
        description="Trains an experiment as the train notebook does.\n\n"
        "To train on several machines, start it on each with KERAS_BACKEND=jax. It joins the processes\n"
        "given by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by Slurm. The\n"
        "first process writes the results.",
        epilog="experiments:\n  " + "\n  ".join(experiment_menu()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("experiment", metavar="EXPERIMENT", help="one of those below")
    command.add_argument(
        "--set", metavar="FIELD=VALUE", nargs="+", default=[], help="e.g. epochs=5 teacher=model/mine.h5"
    )
    command.add_argument(
        "--root",
        type=Path,
        default=Path(),
        help="the folder with data/ and model/ (default: the current one)",
    )
    add_json(command, "the run and the paths of its files")
    command.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> str | None:
    """The epochs and the run in words; None in a process beside the first one."""
    changes = {field: value for text in chosen.set for field, value in parse_changes(text).items()}
    experiment = get_experiment(chosen.experiment, **changes)

    from emo import environment
    from emo.backend import join_processes, process, process_count
    from emo.training.train import train

    if join_processes():
        print(f"Process {process() + 1} of {process_count()}.", flush=True)
    environment.setup(experiment.seed)
    trained = train(experiment, get_paths(chosen.root))
    if trained is None:
        return None
    if not chosen.json:
        return f"{trained.history.to_string()}\n{trained}"
    fields = ("number", "val_accuracy", "best_epoch", "seconds", "model_path", "curve_path", "outcome")
    told = {name: getattr(trained, name) for name in fields}
    return as_json(told | {"history": trained.history.to_dict("records")})
