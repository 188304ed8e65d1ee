"""How fast a GPU trains, with XLA and without: `python -m tools.bench.gpu`, a part of `make bench`.

For each network: images per second of `fit` as `train` calls it, beside the bare step on one batch, and the
seconds of the first epoch, which compiles. Then the augmentation alone, and a step with a teacher. Photos are
drawn. Skips, and says so, where there is no GPU; --anyway takes the CPU.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf

from emo.backend import accelerators, is_jax
from emo.environment import device_name, versions
from emo.experiments import Experiment, get_experiment
from emo.files import files_below
from emo.models.augmentation import RandomAugmentation, resample, resample_by_gathers
from emo.paths import EMO_MINI, Paths, get_paths
from emo.training import plan as plan_module
from emo.training.plan import Plan, prepare_run
from emo.training.train import compile_trainer
from tools.bench.speed import alternate, bare_steps, draw_photos, fit, seconds
from tools.readme.markdown import markdown

SIDE = 224  # pixels of the drawn photos
NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # emo_mini's, which teaches
TURNS = 3
CASES = {
    "Xception, all layers, 96 px": get_experiment("finetune", image_size=96, batch_size=64, weights=None),
    "ResNet50 from conv5, 224 px": get_experiment("12", batch_size=64, weights=None),
    "emo_mini, 48 px": get_experiment("emo_mini"),
    "Xception, 96 px, with a teacher": get_experiment(
        "finetune", image_size=96, batch_size=64, weights=None, teacher=str(EMO_MINI), teacher_weight=0.5
    ),
}


def ready(experiment: Experiment, paths: Paths, xla: bool) -> Plan:
    """The run as `train` makes it, with XLA or without, whatever it would decide."""
    with patch.object(plan_module, "use_xla", lambda *_: xla):
        plan = prepare_run(replace(experiment, precision="auto"), paths)
    compile_trainer(plan)
    return plan


def measured(experiment: Experiment, paths: Paths, xla: bool) -> tuple[float, float, float]:
    """Images per second of `fit` and of the bare step, and the first epoch's seconds."""
    plan = ready(experiment, paths, xla)
    steps = len(plan.train_set)
    photos = steps * experiment.batch_size
    first = seconds(lambda: fit(plan, plan.train_set))
    bare = bare_steps(plan, plan.train_set, steps)
    whole, step = alternate(lambda: fit(plan, plan.train_set), bare, repeats=TURNS)
    return photos / whole, photos / step, first


def augmented(xla: bool, count: int) -> float:
    """Images per second of the augmentation alone, 64 of 224 px at a time."""
    layer = RandomAugmentation(resampling=resample_by_gathers if xla else resample)
    step = tf.function(lambda images, draws: layer(images, draws, training=True), jit_compile=xla)
    images = tf.zeros((64, SIDE, SIDE, 3), tf.uint8)
    draws = tf.constant(layer.draw(np.random.default_rng(0), 64))

    def some():
        for _ in range(count):
            last = step(images, draws)
        return last.numpy()

    (took,) = alternate(some, repeats=TURNS)
    return 64 * count / took


def draw(paths: Paths, count: int) -> None:
    """Photos of the classes that the teacher knows, all to train on but one in ten."""
    draw_photos(paths.root / "drawn", count, SIDE, SIDE)
    for number, file in enumerate(sorted(files_below(paths.root / "drawn"))):
        split = paths.val if number % 10 == 9 else paths.train
        target = split / NAMES[int(file.parent.name.rpartition("_")[2])] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


def main() -> None:
    """Prints one table."""
    options = argparse.ArgumentParser(prog="tools.bench.gpu", description=__doc__.splitlines()[0])
    options.add_argument("--photos", type=int, default=7200)
    options.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--anyway", action="store_true", help="without a GPU, too")
    chosen = options.parse_args()
    if is_jax() or not (accelerators() or chosen.anyway):
        sys.exit(print("GPU: skipped, as TensorFlow sees none here."))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(Path(folder))
        draw(paths, chosen.photos)
        for name in chosen.only:
            for xla in (True, False):
                keras.utils.clear_session()
                whole, step, first = measured(CASES[name], paths, xla)
                rows.append((name, "yes" if xla else "no", f"{whole:,.0f}", f"{step:,.0f}", f"{first:.0f}"))
                print(*rows[-1], sep=" · ", flush=True)
    for xla in (True, False):
        alone = f"{augmented(xla, 50 if accelerators() else 2):,.0f}"
        rows.append(("The augmentation alone, 224 px", "yes" if xla else "no", "", alone, ""))
    headings = ("What", "XLA", "fit, images/s", "bare step, images/s", "first epoch, s")
    print(f"\n{markdown(headings, rows)}\n\n{device_name()} · {versions()} · {date.today()}")


if __name__ == "__main__":
    main()
