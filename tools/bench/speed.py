"""make bench: how fast training is, compared with the alternatives, each pair in one run and in turn.

Prints a table of ratios and writes images/benchmark.png. Whole runs train on drawn faces of FER2013's size,
the other rows on drawn photos of 100 to 1,000 px a side; or all on a dataset's photos:
make bench ARGS="--data fer2013.zip --weights xception.h5 --photos 500"
"""

import argparse
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # Keras 3 exports it no more
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image
from tqdm.auto import tqdm
from tqdm.keras import TqdmCallback

from emo.data.download import fetch_dataset
from emo.data.image_io import load_images
from emo.data.manifest import class_names
from emo.environment import device_name, versions
from emo.experiments import Experiment, get_experiment
from emo.files import files_below
from emo.inference.classifier import load_classifier
from emo.models.augmentation import ROTATION, SHIFT, ZOOM, RandomAugmentation
from emo.paths import PROJECT_ROOT, Paths, get_paths
from emo.plots.style import BAD, GOOD, TRAIN
from emo.precision import dtype_policy
from emo.training.batches import Batches, one_hot
from emo.training.feature_cache import clear_features
from emo.training.plan import Plan, prepare_run
from emo.training.recorder import Recorder
from emo.training.train import compile_trainer, train
from tools.bench import predict as bench_predict
from tools.readme.markdown import markdown

FIGURE = PROJECT_ROOT / "images" / "benchmark.png"
REPEATS = 3  # of each side of a pair, in turn; the median counts
TURNS = 7  # where a difference of 5% counts, and a shared machine stands still for seconds
SHORTEST = 0.5  # seconds: what takes less is called several times in a row
BATCH = 32
EPOCHS = 20  # of the original project's experiment 9
VIEWS = 1
CLASSES = 7
FACE = 48  # pixels a side of FER2013's photos
SIDES = 100, 1000  # of the original project's


@dataclass(frozen=True)
class Row:
    """A line of the table: how many times better ours is, and how many it must be, where that is set."""

    what: str
    ours: str
    theirs: str
    ratio: float
    target: float | None = None


@dataclass(frozen=True)
class Bench:
    """What is measured on: a project with many faces, one with some photos, and Xception's weights."""

    faces: Paths
    some: Paths
    weights: str | None = None
    size: int = 96  # of the networks' pictures, pixels a side

    def experiment(self, name: str, **changes) -> Experiment:
        """An original experiment in the bench's size, ResNet50 with random weights: they change no time."""
        experiment = get_experiment(name, weights=None, image_size=self.size, batch_size=BATCH, **changes)
        return replace(experiment, weights=self.weights) if experiment.backbone == "xception" else experiment


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """What one call takes, as the mean of some in a row."""
    started = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - started) / times


def alternate(*functions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """The median seconds of each function; they take turns, after a call that is not counted."""
    for function in functions:
        function()
    times = [max(1, math.ceil(SHORTEST / seconds(function))) for function in functions]
    turns = [[seconds(*pair) for pair in zip(functions, times, strict=True)] for _ in range(repeats)]
    return list(np.median(turns, axis=0))


def speed(
    what: str, ours: float, theirs: float, photos: int, against: str, target: float | None = None
) -> Row:
    """A row from the seconds that each takes for the same photos."""
    return Row(what, f"{photos / ours:,.0f}/s", f"{against}: {photos / theirs:,.0f}/s", theirs / ours, target)


def input_pipeline(bench: Bench, size: int, target: float) -> list[Row]:
    """Epochs of batches with the original project's augmentation, from the same files, without a network."""
    folder, files = bench.some.train, sorted(files_below(bench.some.train))
    images = load_images(files, size)
    labels = one_hot((file.parent.name for file in files), class_names(bench.some))
    augment = RandomAugmentation()
    batches = Batches([images], labels, BATCH, seed=0, augmentation=augment)
    fuse = tf.function(lambda pictures, draws: augment(pictures, draws, training=True))
    stack = tf.function(partial(four_layers(), training=True))
    generator = ImageDataGenerator(
        rotation_range=ROTATION,
        width_shift_range=SHIFT,
        height_shift_range=SHIFT,
        zoom_range=ZOOM,
        horizontal_flip=True,
    ).flow_from_directory(folder, (size, size), batch_size=BATCH)
    dataset = keras.utils.image_dataset_from_directory(
        folder, label_mode="categorical", batch_size=BATCH, image_size=(size, size), verbose=False
    )
    dataset = dataset.map(lambda pictures, labels: (stack(pictures), labels), tf.data.AUTOTUNE).prefetch(2)

    def host():
        batches.shuffle(batches.epoch + 1)
        return [batches[index] for index in range(len(batches))]

    def fused():
        batches.shuffle(batches.epoch + 1)
        for index in range(len(batches)):
            (pictures, draws), _ = batches[index]
            fuse(tf.constant(pictures), tf.constant(draws))

    def stacked():
        for index in range(len(batches)):
            stack(tf.constant(batches[index][0][0], tf.float32))

    by_generator, by_dataset, by_host, by_fused, by_stacked, decoding = alternate(
        lambda: [next(generator) for _ in range(len(generator))],
        lambda: list(dataset),
        host,
        fused,
        stacked,
        lambda: load_images(files, size),
    )
    photos = len(files)
    whole = photos / (len(batches) * BATCH)  # our epochs leave out the last short batch
    ours = decoding / EPOCHS + by_fused * whole
    return [
        speed(
            f"Epochs of augmented batches, no network, {size} px",
            ours,
            by_generator,
            photos,
            "ImageDataGenerator",
            target,
        ),
        speed(
            f"Epochs of augmented batches, no network, {size} px",
            ours,
            by_dataset,
            photos,
            "image_dataset_from_directory",
        ),
        speed(
            f"Of which on the host, {size} px",
            by_host * whole,
            by_generator,
            photos,
            "ImageDataGenerator",
            100,
        ),
        speed(f"Augmentation alone, {size} px", by_fused, by_stacked, photos, "four Keras layers", 2.5),
    ]


def four_layers() -> keras.Sequential:
    """The original project's augmentation as Keras's own layers."""
    turn = ROTATION / 360
    return keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomZoom(ZOOM, ZOOM, fill_mode="nearest"),
            layers.RandomTranslation(SHIFT, SHIFT, fill_mode="nearest"),
            layers.RandomRotation(turn, fill_mode="nearest"),
        ]
    )


def ready(experiment: Experiment, paths: Paths) -> tuple[Plan, Recorder]:
    """What `train` fits, compiled, and what records it."""
    plan = prepare_run(experiment, paths)
    compile_trainer(plan)
    return plan, Recorder(plan)


def fit(plan: Plan, train_set: Batches, *callbacks: keras.callbacks.Callback, **options) -> None:
    """Keras's `fit` as `train` calls it."""
    train_set.shuffle(train_set.epoch + 1)
    callbacks = [*callbacks, TqdmCallback(verbose=1)]
    plan.trainer.fit(train_set.dataset(), verbose=0, callbacks=callbacks, **options)


def frozen_backbone(bench: Bench) -> list[Row]:
    """Experiment 9 from beginning to end, the frozen layers' work done once or in every epoch."""
    plain, views = (bench.experiment("9", epochs=EPOCHS, views=number) for number in (0, VIEWS))
    clear_features(bench.faces)
    ours = seconds(lambda: train(views, bench.faces))
    again = seconds(lambda: train(replace(views, epochs=1, learning_rate=0.005), bench.faces))
    started = time.perf_counter()
    by_plain = recorded(plain, bench.faces, 2)
    theirs = time.perf_counter() - started + (EPOCHS - 2) * by_plain.epochs[-1]
    by_views = recorded(views, bench.faces, EPOCHS)
    return [
        Row(
            f"Experiment 9, {EPOCHS} epochs, views={VIEWS}, {bench.size} px",
            f"{ours:,.0f} s",
            f"views=0: {theirs:,.0f} s (2 epochs timed)",
            theirs / ours,
            8,
        ),
        Row("Its next run, until the first epoch ends", f"{again:.1f} s", "at most 10 s", 10 / again, 1),
        *(
            Row(
                f"Checkpoint and curve, share of an epoch, views={number}",
                f"{clock.share:.1%}",
                "at most 3%",
                0.03 / clock.share,
                1,
            )
            for number, clock in ((0, by_plain), (VIEWS, by_views))
        ),
    ]


def partly_frozen(bench: Bench, name: str, unfreeze: str, target: float) -> list[Row]:
    """An epoch, validation included, where the backbone trains from `unfreeze` on."""
    plain, views = (bench.experiment(name, unfreeze=unfreeze, views=number) for number in (0, VIEWS))
    sides = []
    for experiment in (views, plain):
        plan, recorder = ready(experiment, bench.some)
        recorder.discard()
        sides.append(partial(fit, plan, plan.train_set, validation_data=plan.val_set.dataset()))
    ours, theirs = alternate(*sides)
    what = f"An epoch of {plain.backbone} from {unfreeze} on, {bench.size} px"
    return [speed(what, ours, theirs, len(plan.train_set.labels), "views=0", target)]


def fitting(bench: Bench, views: int, times: int) -> list[Row]:
    """An epoch of `fit`, over the photos several times, beside the same step on one of their batches."""
    paths = bench.faces if views else bench.some
    plan, recorder = ready(bench.experiment("9", views=views), paths)
    recorder.discard()
    trainer, once = plan.trainer, plan.train_set
    arrays = [np.concatenate([array] * times) for array in (*once.views, once.labels)]
    train_set = Batches(arrays[:-1], arrays[-1], BATCH, once.seed, once.augmentation)
    trainer.make_train_function()
    calls = len(train_set) // trainer.steps_per_execution
    photos = calls * trainer.steps_per_execution * BATCH
    bare = bare_steps(plan, train_set, calls)

    turns = []
    for _ in range(1 + TURNS):
        clock = Clock()
        fit(plan, train_set, clock)
        turns.append((clock.epochs[0] * photos / (len(train_set) * BATCH), seconds(bare)))
    # the turn of the median ratio: a shared machine's speed drifts from turn to turn
    ours, theirs = sorted(turns[1:], key=lambda turn: turn[1] / turn[0])[TURNS // 2]
    return [speed(f"fit, views={views}", ours, theirs, photos, "the bare step", 0.95)]


def bare_steps(plan: Plan, train_set: Batches, calls: int) -> Callable[[], object]:
    """A function: so many calls of the plan's compiled step, all on the first batch of `train_set`."""
    batch = tf.nest.map_structure(tf.constant, train_set[0])
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat().map(of_any_length))

    def bare():
        for _ in range(calls):
            logs = plan.trainer.train_function(iterator)
        return [value.numpy() for value in logs.values()]

    return bare


def of_any_length(*batch):
    """The batch with a length that the graph does not know, as `fit` traces its step."""
    return tf.nest.map_structure(
        lambda tensor: tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=[None, *tensor.shape[1:]]), batch
    )


class Clock(keras.callbacks.Callback):
    """The seconds of each epoch, and how many of them a recorder takes, its checkpoints and states."""

    def __init__(self, recorder: Recorder | None = None):
        super().__init__()
        self.recorder, self.recording, self.epochs = recorder, 0.0, []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        if self.recorder:
            self.recorder.set_params(self.params)
            self.recording += seconds(lambda: self.recorder.on_epoch_begin(epoch, logs))

    def on_train_batch_end(self, batch, logs=None):
        if self.recorder:
            self.recording += seconds(lambda: self.recorder.on_train_batch_end(batch, logs))

    def on_epoch_end(self, epoch, logs=None):
        if self.recorder:
            self.recording += seconds(lambda: self.recorder.on_epoch_end(epoch, logs))
        self.epochs.append(time.perf_counter() - self.started)

    @property
    def share(self) -> float:
        """Of the epochs, what the recorder takes here and in its thread."""
        return (self.recording + self.recorder.writer.seconds) / sum(self.epochs)


def recorded(experiment: Experiment, paths: Paths, epochs: int) -> Clock:
    """So many of its epochs, as `train` fits and records them."""
    plan, recorder = ready(experiment, paths)
    clock = Clock(recorder)
    fit(plan, plan.train_set, clock, validation_data=plan.val_set.dataset(), epochs=epochs)
    recorder.writer.close()
    recorder.discard()
    return clock


def half_precision(bench: Bench) -> list[Row]:
    """A training step of all of Xception, in the device's precision and in float32."""
    policy = dtype_policy("auto")
    if policy == "float32":
        return [Row("Mixed precision", "float32, the fastest here", "float32", 1)]
    steps = []
    for precision in ("auto", "float32"):
        experiment = bench.experiment("9", unfreeze="all", precision=precision)
        plan, recorder = ready(experiment, bench.some)
        recorder.discard()
        steps.append(partial(plan.trainer.train_on_batch, *plan.train_set[0]))
    ours, theirs = alternate(*steps)
    return [speed(f"A training step in {policy}", ours, theirs, BATCH, "float32")]


def prediction(bench: Bench) -> list[Row]:
    """Folders of faces and of larger photos, one photo, a start; with Xception."""
    photos = sorted(files_below(bench.some.train))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.h5")
        bench_predict.write_model(model, "xception", bench.size)
        start_ours, start_keras = bench_predict.measure_start(model, photos[0])
        classifier = load_classifier(model)
        folders = {"faces": bench.faces.val, "photos": bench.some.train}
        speeds = {name: bench_predict.measure_folder(classifier, path) for name, path in folders.items()}
        one_ours, one_bare = bench_predict.measure_one(classifier, photos[0])
    return [
        *(
            speed(
                f"predict on a folder of {name}, {bench.size} px",
                1 / ours,
                1 / bare,
                1,
                "the network alone",
                0.95,
            )
            for name, (ours, bare) in speeds.items()
        ),
        Row(
            f"predict on one photo, {bench.size} px",
            f"{1000 * one_ours:.1f} ms",
            f"the network alone: {1000 * one_bare:.1f} ms",
            one_bare / one_ours,
            1 / 1.3,
        ),
        Row(
            "Opening a .h5 and its first answer",
            f"{start_ours:.2f} s",
            f"Keras alone: {start_keras:.2f} s",
            start_keras / start_ours,
            1 / 1.1,
        ),
    ]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "pipeline_96": partial(input_pipeline, size=96, target=5),
    "pipeline_224": partial(input_pipeline, size=224, target=6),
    "frozen": frozen_backbone,
    "conv5": partial(partly_frozen, name="12", unfreeze="conv5", target=2),
    "block14": partial(partly_frozen, name="9", unfreeze="block14", target=4),
    "fit": partial(fitting, views=0, times=1),
    "fit_views": partial(fitting, views=VIEWS, times=7),
    "precision": half_precision,
    "predict": prediction,
}


def new_bench(folder: Path, photos: int, some: int, data: str | None = None, **options) -> Bench:
    """Projects below `folder` with photos of a dataset or drawn ones, a fifth of which validates."""
    faces, few = (get_paths(folder / name) for name in ("faces", "some"))
    if data:
        fetched = get_paths(folder / "data")
        fetch_dataset(data, fetched)
    for paths, count, sides in ((faces, photos, (FACE, FACE)), (few, some, SIDES)):
        source = fetched.train if data else folder / f"{sides[0]}_px"
        if not data:
            draw_photos(source, count, *sides)
        files = sorted(files_below(source))
        chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
        for number, index in enumerate(chosen):
            file = files[index]
            target = (paths.val if number % 5 == 4 else paths.train) / file.parent.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return Bench(faces, few, **options)


def draw_photos(folder: Path, count: int, low: int, high: int) -> None:
    """Noisy gradients as JPEGs of `low` to `high` pixels a side, below `folder/<class>/`."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 12, (1000, 1000, 3)).astype("f4")

    def draw(index: int, side: int, corners: np.ndarray) -> None:
        target = folder / f"class_{index % CLASSES}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC))
        pixels = np.clip(pixels + noise[:side, :side], 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{index:05}.jpg", quality=90)

    sides = random.integers(low, high + 1, count)
    corners = random.integers(0, 256, (count, 6, 6, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, range(count), map(int, sides), corners)
        list(tqdm(drawn, "drawing photos", count, unit="photo"))


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        (r.what, r.ours, r.theirs, number(r.ratio), "" if r.target is None else f"≥ {r.target:.3g}")
        for r in rows
    ]
    return markdown(("What", "Ours", "Compared with", "Ratio", "Target"), lines)


def number(ratio: float) -> str:
    """Three digits at most, or a whole number."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def plot(rows: list[Row], note: str) -> Figure:
    """A bar a ratio on a logarithmic scale, a mark across it where it must reach to."""
    figure, axis = plt.subplots(figsize=(10, 0.55 * len(rows) + 1.1), layout="constrained")
    for place, row in enumerate(rows):
        missed = row.target is not None and row.ratio < row.target
        color = BAD if missed else GOOD if row.target else TRAIN
        axis.barh(place, row.ratio - 1, left=1, height=0.6, color=color)
        if row.target:
            axis.plot([row.target] * 2, [place - 0.42, place + 0.42], color="black", lw=2)
        end = max(row.ratio, row.target or 0, 1)
        axis.annotate(
            f"{number(row.ratio)} ×",
            (end, place),
            (7, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )
        axis.text(
            -0.01, place - 0.17, row.what, transform=axis.get_yaxis_transform(), ha="right", va="center"
        )
        axis.text(
            -0.01,
            place + 0.22,
            f"{row.ours} · {row.theirs}",
            transform=axis.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=8,
            color="dimgrey",
        )
    axis.axvline(1, color="grey", lw=1)
    low, high = min(row.ratio for row in rows), max(row.ratio for row in rows)
    axis.set(xscale="log", yticks=[], xlim=(min(0.5, 0.8 * low), 3 * high), ylim=(len(rows) - 0.4, -0.6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title(
        f"Speed relative to what it is compared with; the black mark is the target\n{note}", fontsize=9
    )
    return figure


def main() -> None:
    """Measures, prints, draws."""
    options = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    options.add_argument("--photos", type=int, default=4800, help="of whole runs (4800)")
    options.add_argument("--some", type=int, default=800, help="of the other rows (800)")
    options.add_argument("--size", type=int, default=96, help="of the networks' pictures, px (96)")
    options.add_argument("--data", help="a zip or folder with photos; without it, photos are drawn")
    options.add_argument("--weights", help="Xception's; without them random ones, which take the same time")
    options.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    chosen = options.parse_args()
    if not chosen.weights:
        print("No --weights: Xception starts from random ones, which take the same time.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = new_bench(
            Path(folder),
            chosen.photos,
            chosen.some,
            chosen.data,
            weights=chosen.weights,
            size=chosen.size,
        )
        for name in chosen.only:
            rows += (measured := MEASURES[name](bench))
            for row in measured:  # at once: the whole takes minutes
                print(f"{row.what}: {row.ours}, {row.theirs}, {number(row.ratio)} ×", flush=True)
    note = f"{device_name()} · {versions()} · {date.today()}"
    print(f"\n{table(rows)}\n\n{note}")
    plot(rows, note).savefig(FIGURE, dpi=100)


if __name__ == "__main__":
    main()
