"""A classifier as a file for other runtimes: TFLite, ONNX, TensorFlow's SavedModel. Checked once written."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from emo.backend import graph, need_tensorflow
from emo.data.image_io import load_images
from emo.errors import UserError
from emo.files import user_path
from emo.inference.classifier import Classifier
from emo.inference.predictor import Predictor, as_sources
from emo.models.build import copy_in
from emo.paths import free_path, results_beside

ENDINGS = {"tflite": ".tflite", "onnx": ".onnx", "savedmodel": "_savedmodel"}
INPUT, OUTPUT = "rgb_0_255", "probabilities"
CLASS_NAMES = "class_names.txt"  # as in data/: one per line, in the order of the outputs
TOLERANCE = 1e-3  # of a probability: what float32 in another order of operations stays far below
CHECKED = 32  # pictures at most


@dataclass(frozen=True)
class Export:
    """A file (of "savedmodel", a folder) that was written, and how far it is off.

    `difference`: the largest of a probability from the model's own in float32.
    """

    kind: str
    path: Path
    difference: float

    @property
    def megabytes(self) -> float:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def export_model(classifier: Predictor, kind: str, path: str | Path | None = None, photos=None) -> Export:
    """Writes the classifier for another runtime, and compares the answers of both.

    The network is `kind` "tflite", "onnx" or "savedmodel"; computes in float32; takes "rgb_0_255", RGB in
    0–255, (n, size, size, 3) float32, any n; gives "probabilities", (n, classes); with `with_flip` it does
    the flip itself. The class names are in it: class_names.txt in the zip that ends a `.tflite`, where TFLite
    keeps its associated files, and in a SavedModel's `assets`; as JSON in ONNX's metadata "class_names".

    `path`: by default beside the `.h5`; where something has that name already, a number is added. `photos` to
    compare on are what `predict` takes, its first 32; by default random ones. Raises UserError for an
    ensemble, another kind, a package that is missing, and probabilities that differ by more than 0.001: then
    no file is left.
    """
    if not isinstance(classifier, Classifier):
        raise UserError("An ensemble is no single network: export each of its members, `ensemble.members`.")
    if kind not in ENDINGS:
        raise UserError(f"There is no export to {kind!r}; choose one of {', '.join(ENDINGS)}.")
    need_tensorflow("Models are exported")
    if kind == "onnx":
        _require_onnx()
    wanted = user_path(path) if path else _beside(classifier.path, ENDINGS[kind])
    if not wanted.parent.is_dir():
        raise UserError(f"There is no folder {wanted.parent} to export to; make it, or give another path.")
    images = _pictures(classifier, photos)
    model = copy_in("float32", classifier.model)
    network = graph(model, classifier.flip)
    expected = network(images.astype(np.float32)).numpy()
    with _draft_folder(wanted) as folder:
        draft = Path(folder, "network" + ENDINGS[kind])
        with _quiet():
            WRITERS[kind](model, network, classifier.class_names, draft)
            answers = _open(kind, draft)(images.astype(np.float32))
        difference = float(np.abs(answers - expected).max())
        if not difference <= TOLERANCE:  # NaN too
            raise UserError(
                f"{wanted.name} was not written: its probabilities would differ from the model's by "
                f"{difference:.2g}, over {TOLERANCE:g}; export {classifier.path.name} to another format."
            )
        written = Export(kind, free_path(wanted), difference)
        shutil.move(draft, written.path)
    margin = classifier.face_margin
    size = classifier.image_size
    print(
        f"Written: {written.path} ({written.megabytes:.1f} MB; takes RGB in 0–255, {size} × {size} px"
        + (f", cropped to the face with a margin of {margin:g}" if margin is not None else "")
        + ("; answers the mean over each picture and its flip" if classifier.flip else "")
        + f"). Probabilities within {difference:.1e} of the model's on {len(images)} pictures."
    )
    return written


def _draft_folder(wanted: Path) -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".export_")
    except OSError as error:
        fault = f"{wanted.parent} cannot be written to ({error.strerror})"
        raise UserError(f"{fault}; give another path, or copy the .h5 into model/.") from None


def export_table(classifier: Classifier, exports: Sequence[Export], repeats: int = 30) -> pd.DataFrame:
    """A row for the Keras model and one per export: format, MB, ms per photo, max difference.

    "ms per photo" is the median of `repeats` answers for one decoded picture on this machine's processor (the
    Keras model's on its GPU, where there is one); "max difference" that of `Export`.
    """
    file = classifier.path
    size = file.stat().st_size / 1e6 if file.is_file() else np.nan
    rows = [("keras", size, _latency(classifier.probabilities, classifier, repeats), 0.0)]
    for written in exports:
        with _quiet():
            network = _open(written.kind, written.path)
        milliseconds = _latency(network, classifier, repeats)
        rows.append((written.kind, written.megabytes, milliseconds, written.difference))
    return pd.DataFrame(rows, columns=["format", "MB", "ms per photo", "max difference"])


def _latency(network: Callable, classifier: Classifier, repeats: int) -> float:
    image = _pictures(classifier, None)[:1].astype(np.float32)
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        network(image)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[3:]))  # the first ones set up


def _pictures(classifier: Classifier, photos) -> np.ndarray:
    if photos is not None:
        return classifier.load(as_sources(photos)[:CHECKED]).pixels
    blobs = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
    return load_images(blobs, classifier.image_size)  # enlarged they are soft, as photos are


def _beside(model: Path, ending: str) -> Path:
    return results_beside(model) / (model.stem + ending)


def _write_savedmodel(model, network: Callable, class_names: Sequence[str], path: Path) -> None:
    import tensorflow as tf

    named = tf.function(lambda images: {OUTPUT: network(images)})
    holder = tf.Module()
    holder.held = [variable.value for variable in model.variables]  # what is saved with the graph
    signature = named.get_concrete_function(network.input_signature[0])
    tf.saved_model.save(holder, str(path), signatures=signature)
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets" / CLASS_NAMES).write_text(_lines(class_names), encoding="utf-8")


def _write_tflite(model, network: Callable, class_names: Sequence[str], path: Path) -> None:
    import tensorflow as tf

    saved = path.with_name("saved")  # a Keras 3 model given to the converter itself loses its weights
    _write_savedmodel(model, network, class_names, saved)
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASS_NAMES, _lines(class_names))


def _write_onnx(model, network: Callable, class_names: Sequence[str], path: Path) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx

    named = tf.function(lambda images: {OUTPUT: network(images)}, input_signature=network.input_signature)
    proto, _ = tf2onnx.convert.from_function(named, input_signature=network.input_signature)
    names = json.dumps(list(class_names), ensure_ascii=False)
    onnx.helper.set_model_props(proto, {"class_names": names})
    onnx.save(proto, str(path))


WRITERS = {"tflite": _write_tflite, "onnx": _write_onnx, "savedmodel": _write_savedmodel}


def _open(kind: str, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The written network as its own runtime answers: (n, size, size, 3) float32 → (n, classes)."""
    if kind == "savedmodel":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        return lambda images: loaded.signatures["serving_default"](tf.constant(images))[OUTPUT].numpy()
    if kind == "tflite":
        import tensorflow as tf

        interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
        runner = interpreter.get_signature_runner()
        return lambda images: runner(**{INPUT: images})[OUTPUT]
    _require_onnx()
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _require_onnx() -> None:
    missing = [package for package in ("tf2onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise UserError(
            f"Export to ONNX needs {' and '.join(missing)}: run `pip install {' '.join(missing)}`."
        )


def _lines(class_names: Sequence[str]) -> str:
    return "\n".join(class_names) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters and runtimes tell of their own insides: in loggers, warnings and C++'s stderr."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    kept = os.dup(2)
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
