"""`python -m emo train EXPERIMENT`: a run from a shell, on this machine or together with others."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from emo.errors import UserError
from emo.experiments import experiment_menu, get_experiment, parse_changes
from emo.paths import get_paths


def main() -> None:
    """Does what the command line says; a mistake is one sentence, and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m emo", description="Emotions in photos of faces.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "train",
        help="train an experiment",
        description="Trains an experiment as the train notebook does.\n\n"
        "On several machines start it on each, with KERAS_BACKEND=jax: it joins the processes that\n"
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name, or Slurm. The results are\n"
        "where the first process runs.",
        epilog="experiments:\n  " + "\n  ".join(experiment_menu()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("experiment", metavar="EXPERIMENT", help="one of those below")
    command.add_argument("--set", metavar="FIELD=VALUE", nargs="+", default=[], help="e.g. epochs=5 ema=0.99")
    command.add_argument(
        "--root", type=Path, default=Path(), help="the folder of data/ and model/ (this one)"
    )
    command.set_defaults(run=train)
    chosen = parser.parse_args()
    try:
        chosen.run(chosen)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        if type(error).__name__ == "LostProcess":
            os._exit(2)  # else JAX would wait for the one that is gone, and end with words of its own
        sys.exit(2)


def train(chosen: argparse.Namespace) -> None:
    """The command `train`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells of its own insides
    experiment = get_experiment(chosen.experiment, **parse_changes(", ".join(chosen.set) or "{}"))

    from emo import environment
    from emo.backend import join_processes, process, process_count
    from emo.training.train import train as train_experiment

    if join_processes():
        print(f"Process {process() + 1} of {process_count()}.", flush=True)
    environment.setup(experiment.seed)
    run = train_experiment(experiment, get_paths(chosen.root))
    if run:
        print(f"{run.history.to_string()}\n{run}")


if __name__ == "__main__":
    main()
