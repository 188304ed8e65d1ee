"""`emo`, or `python -m emo`: what the notebooks do, from the command line.

Results go to stdout, all else to stderr. Uses argparse: it starts at once and needs no package.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from emo import __version__
from emo.commands import demo, evaluate, export, predict, prepare, train, video
from emo.errors import LostProcess, UserError

EXAMPLES = """examples:
  emo predict photo.jpg                     classify every face in a photo
  emo predict holiday/ --csv answers.csv    classify each photo of a folder
  emo prepare sample                        put the sample photos into data/
  emo train finetune_mini --set epochs=5    train a model, saved in model/
  emo evaluate data/                        measure that model
  emo demo                                  open a page for camera and photos"""
INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells have it: 128 and the signal's number


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says and gives the exit code: 0; 2 after a mistake, told in one sentence.

    130 after Ctrl-C, also where what was done until then is kept; 141 where nobody reads the answer.
    """
    with _interrupts() as interrupts:
        try:
            chosen = _parser().parse_args(arguments)
            with redirect_stdout(sys.stderr):
                answer = chosen.run(chosen)
            if answer is not None:
                print(answer, flush=True)
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
            if isinstance(error, LostProcess):
                os._exit(2)  # else JAX would wait for the one that is gone, and end with words of its own
            return 2
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # else Python complains when it ends
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            return BROKEN_PIPE
    return INTERRUPTED if interrupts else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emo" if Path(sys.argv[0]).stem == "emo" else "python -m emo",
        description="Train, evaluate and run a facial-expression classifier; a pretrained model is included.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (predict, video, evaluate, demo, prepare, train, export):
        command.add(commands)
    return parser


@contextmanager
def _interrupts() -> Iterator[list]:
    """A list that fills when Ctrl-C is pressed: training and video catch it, to keep what is done."""
    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # what a shell runs in the background ignores it
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
