"""A classifier as a file for other runtimes: LiteRT, ONNX, TensorFlow, plain Keras. Checked once written.

Keras's own `Model.export` writes them. Added are the names of the classes, of the input and of the output,
and the flip.
"""

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
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from emo.backend import forward, need_tensorflow
from emo.data.image_io import load_images
from emo.errors import UserError
from emo.files import user_path
from emo.inference.classifier import Classifier, Loaded
from emo.inference.predictor import CHUNK, Predictor, as_sources
from emo.models.build import copy_in
from emo.models.saving import save_model
from emo.paths import free_path, results_beside

ENDINGS = {
    "keras": ".keras",
    "tflite": ".tflite",
    "tflite_int8": "_int8.tflite",
    "onnx": ".onnx",
    "savedmodel": "_savedmodel",
}
INPUT, OUTPUT = "rgb_0_255", "probabilities"
CLASS_NAMES = "class_names.txt"  # as in data/: one per line, in the order of the outputs
TOLERANCE = 1e-3  # of a probability: what float32 in another order of operations stays far below
CHECKED = 32  # pictures at most, where no labels say how many of them are right
CALIBRATION = 200  # photos at most: TensorFlow's guide asks for a few hundred


@dataclass(frozen=True)
class Export:
    """A file (of "savedmodel", a folder) that was written, and how far it is off.

    `difference`: the largest of a probability from the model's own in float32; `agreement`: the share of the
    pictures for which the answer is the same; `accuracy`: that of the model and of the file, None where no
    labels were given.
    """

    kind: str
    path: Path
    difference: float
    agreement: float
    accuracy: tuple[float, float] | None = None

    @property
    def megabytes(self) -> float:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6

    def __str__(self) -> str:
        if not self.accuracy:
            return f"the same answer for {self.agreement:.1%}"
        before, after = self.accuracy
        return f"the same answer for {self.agreement:.1%}, accuracy {before:.1%} before and {after:.1%} after"


def export_model(
    classifier: Predictor, kind: str, path: str | Path | None = None, photos=None, calibration=None
) -> Export:
    """Writes the classifier for another runtime, and compares the answers of both.

    The network is `kind` "tflite" (LiteRT), "onnx" or "savedmodel"; computes in float32; takes "rgb_0_255",
    RGB in 0–255, (n, size, size, 3) float32, any n; gives "probabilities", (n, classes); with `with_flip` it
    does the flip itself. The class names are in it: class_names.txt in the zip that ends a `.tflite`, where
    LiteRT keeps its associated files, and in a SavedModel's `assets`; JSON in ONNX's metadata "class_names".

    "tflite_int8" is the same in whole numbers of 8 bits inside: a quarter of the size, and for some photos
    another answer. `calibration`, training photos as `predict` takes them or in a table with a column `path`,
    such as `training_manifests(paths)[0]`, shows it the numbers' ranges.
    "keras" is what plain Keras opens, and `load_classifier`; what the `.h5` says of itself is in it, no flip.

    `path`: by default beside the model's file, of one from the Hub in the current folder; in a folder that
    is there, the name it would have beside it; where something has that name already, a number is added.
    `photos` to compare on are what `predict` takes, 32 of them, or a table of `path` and `label`, all of
    it; by default random ones. What cannot be read of them or of `calibration` is left out, and counted.
    Raises UserError for an ensemble, another kind, a package that is missing, photos none of which can be
    read, and probabilities that differ by more than 0.001 where they are not of 8 bits: then no file is left.
    """
    if not isinstance(classifier, Classifier):
        raise UserError("An ensemble is several networks: export each of its members, `ensemble.members`.")
    if kind not in ENDINGS:
        raise UserError(f"There is no export to {kind!r}; choose one of {', '.join(ENDINGS)}.")
    if kind == "tflite_int8" and calibration is None:
        raise UserError(
            "Export to tflite_int8 is calibrated: pass calibration=, a folder or list of training photos, "
            "a few hundred, from all classes."
        )
    if kind != "tflite_int8" and calibration is not None:
        raise UserError(
            f"Export to {kind} is not calibrated, only that to tflite_int8 is: leave out calibration=."
        )
    if kind != "keras":
        need_tensorflow("Models are exported")
    if kind == "onnx":
        _require_onnx()
    beside = _beside(classifier.path, ENDINGS[kind])
    wanted = user_path(path) if path else beside
    if wanted.is_dir() and not (wanted / "saved_model.pb").exists():  # that is an export, and is kept
        wanted /= beside.name
    if not wanted.parent.is_dir():
        raise UserError(f"There is no folder {wanted.parent} to export to; make it, or give another path.")
    if kind == "keras" and wanted.suffix != ".keras":
        raise UserError(f"Plain Keras opens a .keras by its name alone: call it {wanted.stem}.keras.")
    model = copy_in("float32", classifier.model)
    shown = None if calibration is None else _calibration(classifier, calibration)
    with _draft_folder(wanted) as folder:
        draft = Path(folder, "network" + ENDINGS[kind])
        with _quiet():
            WRITERS[kind](model, classifier, draft, shown)
            exported = _open(kind, draft)
        plain = forward(model, classifier.flip and kind != "keras")
        expected, answers, labels = _both(classifier, plain, exported, photos)
        difference = float(np.abs(answers - expected).max())
        if not difference <= (1 if kind == "tflite_int8" else TOLERANCE):  # NaN too
            raise UserError(
                f"{wanted.name} was not written: its probabilities would differ from the model's by "
                f"{difference:.2g}, over {TOLERANCE:g}; export {classifier.path.name} to another format."
            )
        said, says = expected.argmax(axis=1), answers.argmax(axis=1)
        accuracy = None if labels is None else (np.mean(said == labels), np.mean(says == labels))
        written = Export(kind, free_path(wanted), difference, float(np.mean(said == says)), accuracy)
        shutil.move(draft, written.path)
    margin = classifier.face_margin
    size = classifier.image_size
    flip = "the flip is not in it" if kind == "keras" else "answers the mean over each picture and its flip"
    print(
        f"Written: {written.path} ({written.megabytes:.1f} MB; takes RGB in 0–255, {size} × {size} px"
        + (f", cropped to the face with a margin of {margin:g}" if margin is not None else "")
        + (f"; {flip}" if classifier.flip else "")
        + f"). Probabilities within {difference:.1e} of the model's on {len(said)} pictures"
        + (f"; {written}." if written.agreement < 1 or written.accuracy else ".")
    )
    return written


def _both(classifier: Classifier, plain: Callable, exported: Callable, photos) -> tuple:
    """What the network and its export answer, (n, classes) each, and the true classes' numbers or None.

    The n are the pictures that can be read.
    """
    labels = faces = None
    if isinstance(photos, pd.DataFrame):
        if not {"path", "label"} <= set(photos) or not set(photos.label) <= set(classifier.class_names):
            raise UserError(
                "A table of photos needs the columns path and label; labels must be the model's classes."
            )
        labels = photos.label.map(classifier.class_names.index).to_numpy()
        sources = as_sources(list(photos.path))
    elif photos is not None:
        sources = _some(photos, CHECKED)
    else:
        sources = [*_pictures(classifier)]
        faces = [None] * len(sources)  # and none is looked for
    answers, unreadable = [], []
    with tqdm(total=len(sources), desc="comparing", unit="photo", disable=len(sources) < CHUNK) as bar:
        for start in range(0, len(sources), CHUNK):
            loaded = classifier.load(sources[start : start + CHUNK], faces)
            unreadable += [start + row for row in loaded.unreadable]
            if len(images := _readable(loaded)):
                answers.append((np.asarray(plain(images)), np.asarray(exported(images))))
            bar.update(len(loaded.pixels))
    _tell_left_out(len(unreadable), len(sources), "compare")
    labels = None if labels is None else np.delete(labels, unreadable)
    expected, answers = (np.concatenate(each) for each in zip(*answers, strict=True))
    return expected, answers, labels


def _calibration(classifier: Classifier, photos) -> np.ndarray:
    """Some of them as float32."""
    sources = _some(list(photos.path) if isinstance(photos, pd.DataFrame) else photos, CALIBRATION)
    loaded = classifier.load(sources)
    _tell_left_out(len(loaded.unreadable), len(sources), "calibrate")
    return _readable(loaded)


def _some(photos, count: int) -> list:
    """At most so many of them, evenly from first to last: a folder lists one class after the other."""
    sources = as_sources(photos)
    places = np.linspace(0, len(sources) - 1, min(len(sources), count)).astype(int)
    return [sources[place] for place in places]


def _readable(loaded: Loaded) -> np.ndarray:
    """The pictures without the black ones that stand for unreadable files: float32."""
    return np.delete(loaded.pixels, loaded.unreadable, axis=0).astype(np.float32)


def _tell_left_out(unreadable: int, count: int, use: str) -> None:
    """Raises UserError where nothing is left."""
    if unreadable == count:
        raise UserError(f"None of {count} photos to {use} on can be read; give others.")
    if unreadable:
        print(f"{unreadable} of {count} photos to {use} on cannot be read and are left out.")


def _draft_folder(wanted: Path) -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".export_")
    except OSError as error:
        fault = f"{wanted.parent} cannot be written to ({error.strerror})"
        raise UserError(f"{fault}; give another path, or copy the .h5 into model/.") from None


def export_table(classifier: Classifier, exports: Sequence[Export], repeats: int = 30) -> pd.DataFrame:
    """A row for the model and one per export: format, MB, ms per photo, and what `Export` says of it.

    "ms per photo" is the median of `repeats` answers for one decoded picture on this machine's processor (the
    Keras model's on its GPU, where there is one); "accuracy" is there where the photos had labels.
    """
    file = classifier.path
    size = file.stat().st_size / 1e6 if file.is_file() else np.nan
    before = next((written.accuracy[0] for written in exports if written.accuracy), np.nan)
    own = file.suffix.lstrip(".")
    rows = [(own, size, _latency(classifier.probabilities, classifier, repeats), 0.0, 1.0, before)]
    for written in exports:
        with _quiet():
            network = _open(written.kind, written.path)
        milliseconds = _latency(network, classifier, repeats)
        after = written.accuracy[1] if written.accuracy else np.nan
        row = (written.kind, written.megabytes, milliseconds, written.difference, written.agreement, after)
        rows.append(row)
    columns = ["format", "MB", "ms per photo", "max difference", "same answer", "accuracy"]
    table = pd.DataFrame(rows, columns=columns)
    return table if np.isfinite(table.accuracy).any() else table.drop(columns="accuracy")


def _latency(network: Callable, classifier: Classifier, repeats: int) -> float:
    image = _pictures(classifier)[:1].astype(np.float32)
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        network(image)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[3:]))  # the first ones set up


def _pictures(classifier: Classifier) -> np.ndarray:
    blobs = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
    return load_images(blobs, classifier.image_size)  # enlarged they are soft, as photos are


def _beside(model: Path, ending: str) -> Path:
    return results_beside(model) / (model.stem + ending)


def _for_export(model: keras.Model, flip: bool) -> keras.Model:
    """The network with its input and output named, and with the flip inside, as `Model.export` writes it."""
    images = keras.Input(model.input_shape[1:], name=INPUT)
    answers = model(images)
    if flip:
        answers = (answers + model(images[:, :, ::-1])) / 2
    return keras.Model(images, {OUTPUT: answers})


def _write_savedmodel(model: keras.Model, classifier: Classifier, path: Path, calibration=None) -> None:
    _for_export(model, classifier.flip).export(str(path), format="tf_saved_model", verbose=False)
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets" / CLASS_NAMES).write_text(_lines(classifier.class_names), encoding="utf-8")


def _write_tflite(model: keras.Model, classifier: Classifier, path: Path, calibration=None) -> None:
    import tensorflow as tf

    operations, options = tf.lite.OpsSet.TFLITE_BUILTINS, {}  # no TensorFlow's own: phones have none of them
    if calibration is not None:
        operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: ([image[None]] for image in calibration)
    network = _for_export(model, classifier.flip)
    options["target_spec"] = {"supported_ops": [operations]}
    network.export(str(path), format="litert", verbose=False, **options)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASS_NAMES, _lines(classifier.class_names))


def _write_onnx(model: keras.Model, classifier: Classifier, path: Path, calibration=None) -> None:
    import onnx

    network = _for_export(model, classifier.flip)
    takes = keras.InputSpec("float32", network.input_shape, name=INPUT)
    network.export(str(path), format="onnx", verbose=False, input_signature=[takes])
    proto = onnx.load(path)
    names = json.dumps(classifier.class_names, ensure_ascii=False)
    onnx.helper.set_model_props(proto, {"class_names": names})
    onnx.save(proto, path)


def _write_keras(model: keras.Model, classifier: Classifier, path: Path, calibration=None) -> None:
    facts = {"class_names": list(classifier.class_names), "image_size": classifier.image_size}
    save_model(model, path, classifier.metadata | facts)


WRITERS = {
    "keras": _write_keras,
    "tflite": _write_tflite,
    "tflite_int8": _write_tflite,
    "onnx": _write_onnx,
    "savedmodel": _write_savedmodel,
}


def _open(kind: str, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The written network as its own runtime answers: (n, size, size, 3) float32 → (n, classes)."""
    if kind == "savedmodel":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        return lambda images: loaded.signatures["serving_default"](tf.constant(images))[OUTPUT].numpy()
    if kind == "keras":
        return forward(keras.models.load_model(path, compile=False))  # as whoever is handed it would
    if kind.startswith("tflite"):
        interpreter = _interpreter()(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()  # which says so, for whoever is quiet
        runner = interpreter.get_signature_runner()
        return lambda images: runner(**{INPUT: images})[OUTPUT]
    _require_onnx()
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _interpreter() -> type:
    """LiteRT's; where its package is missing, the same one in TensorFlow, which is to leave it."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    return Interpreter


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
    """Converters and runtimes tell of their own insides: in loggers, warnings, prints and C++'s stderr."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    kept = os.dup(2)
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
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
