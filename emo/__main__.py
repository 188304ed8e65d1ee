"""`python -m emo`: predictions and runs from a shell. Answers go to stdout, all else that is said to stderr.

On argparse, as a help page and a few options need no package, and it starts at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from emo.errors import LostProcess, UserError
from emo.experiments import experiment_menu, get_experiment, parse_changes
from emo.paths import get_paths


def main() -> None:
    """Does what the command line says; a mistake is one sentence, and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m emo", description="Emotions in photos of faces.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_train(commands)
    _add_demo(commands)
    chosen = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow tells of its own insides
    try:
        chosen.run(chosen)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        if isinstance(error, LostProcess):
            os._exit(2)  # else JAX would wait for the one that is gone, and end with words of its own
        sys.exit(2)


def _add_predict(commands) -> None:
    command = commands.add_parser(
        "predict",
        help="name the expression on a photo, or on each photo of a folder",
        description="Names the expression on every face in a photo or, in a folder, on each photo as it is.",
    )
    command.add_argument("photo", metavar="PHOTO", help="a file, a folder or a web address")
    command.add_argument(
        "--model",
        default="emo_mini",
        help="a .h5, or its name in model/ (emo_mini, which comes with the project)",
    )
    command.add_argument("--faces", action="store_true", help="crop each photo of a folder to its one face")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write a table with all probabilities")
    command.add_argument(
        "--json", action="store_true", help="print all probabilities as JSON, a row per face"
    )
    command.set_defaults(run=predict)


def _add_train(commands) -> None:
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


def predict(chosen: argparse.Namespace) -> None:
    """The command `predict`."""
    with redirect_stdout(sys.stderr):
        table = _answers(chosen)
        if chosen.csv:
            from emo.files import write_bytes
            from emo.paths import free_path

            file = free_path(chosen.csv)
            write_bytes(file, table.to_csv(index=False, lineterminator="\n").encode("utf-8-sig"))  # for Excel
    if chosen.csv:
        print(file)
    elif chosen.json:
        print(table.to_json(orient="records", force_ascii=False))
    else:
        shown = table[table.columns[: list(table.columns).index("confidence") + 1]]
        print(shown.to_string(index=False, float_format="{:.3f}".format))


def _answers(chosen: argparse.Namespace):
    """A row per face, or per photo of a folder: path, face and box, emotion, confidence, each class."""
    from emo.data.faces import face_crops, find_faces
    from emo.inference.classifier import find_model, load_classifier
    from emo.inference.photo import classify_faces
    from emo.inference.predictor import as_sources

    classifier = load_classifier(find_model(chosen.model, Path("model")))
    if not Path(chosen.photo).is_dir():
        answers = classify_faces(classifier, chosen.photo).answers.reset_index()
        answers.insert(0, "path", chosen.photo)
        return answers
    photos = as_sources(chosen.photo)
    faces = face_crops(find_faces(photos), margin=0.0) if chosen.faces else None
    return classifier.predict(photos, faces)


def train(chosen: argparse.Namespace) -> None:
    """The command `train`."""
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


def _add_demo(commands) -> None:
    command = commands.add_parser(
        "demo",
        help="a page in the browser: camera or photo in, emotions out",
        description="Opens a page in the browser that looks at the camera or at photos, until Ctrl-C.",
    )
    command.add_argument(
        "--model", action="append", help="a .h5, or its name in model/ (emo_mini); several times for a choice"
    )
    command.add_argument("--share", action="store_true", help="make a public link, through Gradio's servers")
    command.add_argument("--port", type=int, help="the first free one from 7860 on")
    command.set_defaults(run=demo)


def demo(chosen: argparse.Namespace) -> None:
    """The command `demo`."""
    with suppress(KeyboardInterrupt):  # while models are still being opened
        from emo.inference.live_page import demo as open_demo

        open_demo(chosen.model or "emo_mini", chosen.share, chosen.port)


if __name__ == "__main__":
    main()
