"""What 8 bits cost and gain: `python -m tools.bench.int8 --train DIR --test DIR`.

DIR holds a folder of photos per class. The model is written for LiteRT in float32 and in 8 bits, calibrated
on photos of `--train`; printed are size, ms per photo, and the accuracy of each on the photos of `--test`.
"""

import argparse
import tempfile
from pathlib import Path

from emo.evaluation.evaluate import labelled_folder
from emo.inference.classifier import find_model, load_classifier
from emo.inference.export import export_model, export_table


def main() -> None:
    """Prints a row for the model and one for each of its exports."""
    options = argparse.ArgumentParser(prog="tools.bench.int8", description=__doc__.splitlines()[0])
    options.add_argument("--train", type=Path, required=True, help="photos to calibrate on")
    options.add_argument("--test", type=Path, required=True, help="photos to judge by")
    options.add_argument("--model", default="emo_mini", help="a .h5, or its name in model/ (emo_mini)")
    options.add_argument("--repeats", type=int, default=300, help="answers whose median time is told (300)")
    chosen = options.parse_args()
    classifier = load_classifier(find_model(chosen.model, Path("model")))
    with tempfile.TemporaryDirectory() as folder:
        photos = labelled_folder(chosen.test)
        exports = [
            export_model(classifier, "tflite", Path(folder, "float32.tflite"), photos),
            export_model(classifier, "tflite_int8", Path(folder, "int8.tflite"), photos, chosen.train),
        ]
        print(export_table(classifier, exports, chosen.repeats).to_string(index=False))


if __name__ == "__main__":
    main()
