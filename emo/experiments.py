"""What a run is made of: Experiment, the eleven of the original project, and our recipes.

Imports no TensorFlow and no pandas, so that a command line starts at once.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import re
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass
from typing import TYPE_CHECKING

from emo.errors import UserError
from emo.fields import FLAG, KeyOf, Number, OneOf, OrNone, Text, check, setting
from emo.models.backbones import BACKBONES, check_unfreeze, get_backbone

if TYPE_CHECKING:
    import pandas as pd

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
MIXES = ("none", "mixup", "cutmix")
CROSSENTROPY = "categorical_crossentropy"  # the one loss of all runs
HEAD_LAYERS = "flatten, avg_pool, dropout RATE, dense UNITS"
# what fields were called until 2026-11-26, in .h5 files and in rows of the table
RENAMED = {
    "average": "ema",
    "balance": "class_balance",
    "color": "color_jitter",
    "erase": "random_erasing",
}


class _Head:
    """The layers of a head, as `parse_head` takes them."""

    def accepts(self, value: object) -> bool:
        parse_head(value)  # has the clearer words
        return True

    def __str__(self) -> str:
        return f"a tuple of layers: {HEAD_LAYERS}"


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run, and nothing else; frozen, so vary one with `dataclasses.replace`.

    What each field means and may hold stands at the field, and in `emo/experiments.md`. Raises UserError
    naming the field, what is wrong and what is allowed.
    """

    name: str = setting("What the run is called: the key of `EXPERIMENTS` it began as.", Text("a name"))
    backbone: str = setting(
        "The network before the head, a key of `emo.BACKBONES`.", KeyOf(BACKBONES), features=True
    )
    head: tuple[str, ...] = setting(
        "The layers between backbone and softmax, such as `('avg_pool', 'dropout 0.2', 'dense 1024')`; dense "
        "layers have ReLU. The softmax layer follows by itself, with a unit per class.",
        _Head(),
    )
    optimizer: str = setting("`adamw`: Loshchilov and Hutter 2019.", OneOf(OPTIMIZERS))
    learning_rate: float = setting("The learning rate, with `cosine` its highest.", Number(0, 10, above=True))
    momentum: float = setting("Of `sgd`.", Number(0, 0.9999), 0.0)
    weight_decay: float = setting("Of `adamw`, not on biases and BatchNormalization.", Number(0, 1), 0.0)
    schedule: str = setting(
        "`cosine`: the learning rate rises from 0 over `warmup_epochs`, then falls to 0 along half a cosine "
        "until the last epoch ends (Loshchilov and Hutter 2017).",
        OneOf(SCHEDULES),
        "constant",
    )
    warmup_epochs: float = setting("Epochs, or parts of one, at most all.", Number(0, 10_000), 0.0)
    label_smoothing: float = setting(
        "The share of each label that is spread over all classes (Szegedy et al. 2016).",
        Number(0, 0.9999),
        0.0,
    )
    class_balance: float = setting(
        "Each class weighs (1 / its share of the training photos) to this power in the loss, 1 per photo on "
        "average: 1 makes classes equal (King and Zeng 2001), 0.5 goes half way (Mahajan et al. 2018).",
        Number(0, 1),
        0.0,
    )
    ema: float = setting(
        "Validate and save the moving average of the weights, which keeps this share of itself at each step; "
        "it averages over about 1 / (1 − ema) steps. 0 turns it off.",
        Number(0, 0.9999),
        0.0,
    )
    augment: bool = setting(
        "Random flip, zoom, shift and rotation at every step, on the device that trains.", FLAG, False
    )
    augment_strength: float = setting(
        "Scales zoom, shift and rotation: 1 is the original project's (±20%, ±20%, ±15°), 0 flips only.",
        Number(0, 2),
        1.0,
    )
    color_jitter: float = setting(
        "With `augment`, brightness and contrast change by up to this share (Howard 2013).", Number(0, 1), 0.0
    )
    random_erasing: float = setting(
        "With `augment`, the chance that a rectangle of 2–33% of a photo is filled with its mean (Zhong et "
        "al. 2020).",
        Number(0, 0.9999),
        0.0,
    )
    mix: str = setting(
        "With `augment`, `mixup` blends each photo and its label with another of the batch (Zhang et al. "
        "2018), `cutmix` pastes a rectangle of that one into it (Yun et al. 2019).",
        OneOf(MIXES),
        "none",
    )
    use_augmented_copy: bool = setting(
        "Train on `data/train_aug` as well, the augmented copy that the prep notebook can write.", FLAG, False
    )
    relabel: bool = setting("Use the corrected labels of `data/relabel.csv`, where there is one.", FLAG, True)
    views: int = setting(
        "0 runs the frozen layers over every photo in every epoch. From 1 on they run once, over each photo "
        "and, with `augment`, over this many augmented views of it, which are cached in `data/.features`; "
        "each epoch takes one of them per photo.",
        Number(0, 1000, whole=True),
        0,
    )
    epochs: int = setting("Passes over the training photos.", Number(1, 10_000, whole=True), 10)
    unfreeze: str = setting(
        "Which layers of the backbone are trained besides the head: `none`, `all`, or those from a block on.",
        Text("'none', 'all' or the name of a block of the backbone"),
        "none",
    )
    freeze_batch_norm: bool = setting(
        "BatchNormalization keeps the statistics and scales that it came with, also where layers train.",
        FLAG,
        False,
    )
    precise_batch_norm: bool = setting(
        "Before each validation, recompute BatchNormalization's statistics from 2,048 unaugmented training "
        "images (Wu and Johnson 2021); training itself does not change.",
        FLAG,
        False,
    )
    weights: str | None = setting(
        "What the network starts from: ImageNet's weights, a file (such as a `.h5` of a run with the "
        "same backbone, whose head comes along where it knows the same classes), the model that comes with "
        "the project (`emo_mini`), or random numbers (None). A relative path counts from the current folder, "
        "else from the project's; a name is looked for in `model/`, too.",
        OrNone(Text("'imagenet', 'emo_mini', a file")),
        "imagenet",
    )
    teacher: str | None = setting(
        "Knowledge distillation: a trained `.h5` of the same classes, found as that of `weights`, or "
        "`emo_mini`, whose answers are soft labels (Hinton, Vinyals and Dean 2015, at temperature 1).",
        OrNone(Text("'emo_mini', a .h5")),
        None,
    )
    teacher_weight: float = setting("The share of a soft label in what is learned.", Number(0, 1), 0.0)
    face_margin: float | None = setting(
        "Crop the one face in each photo and align it, with this share of its side as a margin on each side; "
        "photos with no face or several stay whole, as all do with None.",
        OrNone(Number(0, 2)),
        None,
        features=True,
    )
    image_size: int = setting(
        "Side, in pixels, of the square that photos are resized to.",
        Number(16, 1024, whole=True),
        224,
        features=True,
    )
    batch_size: int = setting("Photos per step.", Number(1, 4096, whole=True), 32)
    precision: str = setting(
        "The Keras dtype policy to compute in; `auto` is the fastest of the device. Softmax, loss and the "
        "saved model are float32 in any case.",
        OneOf(PRECISIONS),
        "auto",
    )
    seed: int = setting("The seed of every random choice.", Number(0, 2**31 - 1, whole=True), 42)
    deterministic: bool = setting(
        "On a GPU too, the same seed gives the same run, bit for bit, several times slower: without XLA, and "
        "with kernels that add up in one order. On a CPU every run is repeatable without it.",
        FLAG,
        False,
    )

    def __new__(cls, *args, **values):
        # the generated __init__ would answer an unknown name with a TypeError that names no alternatives
        allowed = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in allowed:
                raise UserError(f"Experiment has no field {name!r}{_nearest(name, allowed)}")
        return super().__new__(cls)

    def __post_init__(self):
        if isinstance(self.head, list):  # what JSON makes of a tuple
            object.__setattr__(self, "head", tuple(self.head))
        for field in ("learning_rate", "momentum", "weight_decay"):  # Keras's optimizers refuse whole numbers
            if type(getattr(self, field)) is int:
                object.__setattr__(self, field, float(getattr(self, field)))
        check(self)
        check_unfreeze(self.backbone, self.unfreeze)
        for fault in _contradictions(self):
            raise UserError(fault)

    @property
    def title(self) -> str:
        """What figures call it: "experiment 6 · Xception", "finetune_mini · emo_mini", "emo_mini"."""
        name = f"experiment {self.name}" if self.name.isdecimal() else self.name
        backbone = get_backbone(self.backbone)
        network = backbone.application if backbone.imagenet else self.backbone
        return name if name == network else f"{name} · {network}"

    def to_json(self) -> str:
        """One line of JSON that `Experiment.from_json` turns back into an equal experiment."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """The experiment that `to_json` wrote, today or before fields were renamed.

        Raises UserError for fields it does not know.
        """
        values = {RENAMED.get(name, name): value for name, value in json.loads(text).items()}
        if (loss := values.pop("loss", CROSSENTROPY)) != CROSSENTROPY:
            raise UserError(f"loss={loss!r} is no longer supported; runs minimize {CROSSENTROPY}.")
        return cls(**values)

    def changes(self) -> dict:
        """What differs from the experiment of that name, or, for another name, from the defaults."""
        usual = EXPERIMENTS.get(self.name)
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != (getattr(usual, field.name) if usual else field.default)
        }


def _nearest(name: str, allowed: list[str]) -> str:
    """What was probably meant, else all there is."""
    if name in RENAMED:
        return f", it is called {RENAMED[name]!r} now."
    if near := difflib.get_close_matches(name, allowed, n=1, cutoff=0.7):
        return f"; did you mean {near[0]!r}?"
    return f"; its fields are {', '.join(allowed)}."


def _contradictions(e: Experiment):
    """What fields say against each other, a sentence each."""
    if e.image_size < (smallest := get_backbone(e.backbone).min_size):
        yield f"image_size={e.image_size} must be from {smallest} on for {e.backbone}."
    if e.momentum and e.optimizer != "sgd":
        yield f"momentum={e.momentum} belongs to optimizer='sgd'; set it to 0 for {e.optimizer}."
    if e.weight_decay and e.optimizer != "adamw":
        yield f"weight_decay={e.weight_decay} belongs to optimizer='adamw'; set it to 0 for {e.optimizer}."
    if e.warmup_epochs and e.schedule == "constant":
        yield f"warmup_epochs={e.warmup_epochs} belongs to schedule='cosine'; set it to 0."
    if e.warmup_epochs > e.epochs:
        yield f"warmup_epochs={e.warmup_epochs} must be a number from 0 to epochs={e.epochs}."
    for field, off in (("color_jitter", 0), ("random_erasing", 0), ("mix", "none")):
        if (value := getattr(e, field)) != off and not e.augment:
            yield f"{field}={value!r} is part of the augmentation; set augment=True, or {field}={off!r}."
    if e.mix != "none" and e.batch_size % 2:
        yield (
            f"batch_size={e.batch_size} is odd, but mix={e.mix!r} takes a batch's photos in pairs; choose an "
            "even one."
        )
    if (e.teacher is None) != (e.teacher_weight == 0):
        yield (
            f"teacher={e.teacher!r} and teacher_weight={e.teacher_weight} belong together: give a model and "
            "a weight above 0, or None and 0."
        )
    if e.views:
        once = f"views={e.views} passes photos through frozen layers once: set views=0"
        if e.mix != "none":
            yield f"mix={e.mix!r} makes new pictures at every step, but {once}, or mix='none'."
        if e.unfreeze == "all":
            yield f"unfreeze='all' freezes nothing, but {once}, or unfreeze to a block."
        if e.teacher:
            yield (
                f"teacher={e.teacher!r} sees the pictures of every step, but {once}, or teacher=None and "
                "teacher_weight=0."
            )
    if e.face_margin is not None and e.use_augmented_copy:
        yield (
            f"face_margin={e.face_margin} does not go with use_augmented_copy=True: copies are of whole "
            "photos; set face_margin to None, or use augment=True instead."
        )


def get_experiment(name: str, /, **changes) -> Experiment:
    """The experiment of that name with some fields changed.

    `name` may be an entry of `experiment_menu`, too. Raises UserError naming what is allowed.
    """
    key = str(name).partition(":")[0].strip()  # a form or a command line may make a number of "6"
    if key not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}.")
    return dataclasses.replace(EXPERIMENTS[key], **changes)


def parse_changes(changes: dict | str | None) -> dict:
    """The fields to change, from a dict, its text or JSON, or text such as "epochs=3, image_size=96".

    A file needs no quotes where it is the only change, "teacher=model/mine.h5". Raises UserError for
    anything else.
    """
    if isinstance(changes, dict):
        return changes
    with suppress(ValueError, SyntaxError, AttributeError, TypeError):  # of what is not text, too
        text = (changes or "").strip()
        if text.startswith("{"):
            with suppress(json.JSONDecodeError):
                return json.loads(text)
            return dict(**ast.literal_eval(text))  # as Python writes it, with False and None
        call = ast.parse(f"dict({text})", mode="eval").body
        names = [pair.arg for pair in call.keywords]
        if not call.args and all(names) and len(set(names)) == len(names):
            # a bare word, as in unfreeze=conv5, is meant as text
            return {
                pair.arg: pair.value.id if isinstance(pair.value, ast.Name) else ast.literal_eval(pair.value)
                for pair in call.keywords
            }
    if isinstance(changes, str) and (file := re.fullmatch(r"\s*([a-z_]+)\s*=\s*([\w./\\:~ -]+)", changes)):
        return {file[1]: file[2].strip()}
    raise UserError(
        f"changes={changes!r} cannot be read; give a dict such as {{'epochs': 3}}, the same as JSON, or "
        "'epochs=3, image_size=96', with a file in quotes."
    )


def experiment_menu() -> list[str]:
    """An entry per experiment, "name: what it is", for a notebook's form; `get_experiment` takes them."""
    return [f"{name}: {summary}" for name, summary in SUMMARIES.items()]


def describe_experiment(experiment: Experiment) -> pd.DataFrame:
    """What differs from the defaults: a row per field with its value, the default and what it means."""
    import pandas as pd

    rows = [
        (field.name, getattr(experiment, field.name), field.default, field.metadata["description"])
        for field in dataclasses.fields(experiment)
        if getattr(experiment, field.name) != field.default
    ]
    table = pd.DataFrame(rows, columns=["field", "value", "default", "meaning"]).set_index("field")
    return table.assign(default=table["default"].map(lambda value: "" if value is MISSING else value))


def parse_head(head: object) -> list[tuple[str, float | None]]:
    """("avg_pool", "dropout 0.2") → [("avg_pool", None), ("dropout", 0.2)]. Raises UserError."""
    if not isinstance(head, tuple) or not head:
        raise UserError(f"head={head!r} must be a tuple of layers such as ('avg_pool', 'dropout 0.2').")
    parsed: list[tuple[str, float | None]] = []
    for text in head:
        kind, _, value = str(text).partition(" ")
        try:
            if kind in ("flatten", "avg_pool") and not value:
                parsed.append((kind, None))
            elif kind == "dropout" and 0 <= float(value) < 1:
                parsed.append((kind, float(value)))
            elif kind == "dense" and int(value) > 0:
                parsed.append((kind, int(value)))
            else:
                raise ValueError
        except ValueError:
            raise UserError(f"head has {text!r}; a layer is one of: {HEAD_LAYERS}.") from None
    if [kind for kind, _ in parsed if kind in ("flatten", "avg_pool")] != [parsed[0][0]]:
        raise UserError(f"head={head!r} must begin with 'flatten' or 'avg_pool', and hold it once.")
    return parsed


def _original(
    number: int, backbone: str, head: tuple[str, ...], optimizer: str, lr: float, **rest
) -> Experiment:
    return Experiment(str(number), backbone, head, optimizer, lr, 0.9 if optimizer == "sgd" else 0.0, **rest)


# Everything learns, slowly: the ImageNet weights are a start, not the last word on faces. The warm-up keeps
# the new head's first guesses from spoiling them. In the few steps of a small dataset BatchNormalization's
# moving statistics stay near those of ImageNet, and the run at chance: they are recomputed.
_FINETUNE = Experiment(
    "finetune",
    "xception",
    ("avg_pool", "dropout 0.3"),
    "adamw",
    3e-4,
    weight_decay=0.01,
    schedule="cosine",
    warmup_epochs=0.5,
    label_smoothing=0.1,
    ema=0.998,
    augment=True,
    augment_strength=0.5,
    epochs=10,
    unfreeze="all",
    precise_batch_norm=True,
    image_size=128,
)

# A small network for faces of 48 px, from a random start.
_EMO_MINI = Experiment(
    "emo_mini",
    "emo_mini",
    ("avg_pool", "dropout 0.4"),
    "adamw",
    2e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=1,
    label_smoothing=0.1,
    ema=0.998,
    augment=True,
    augment_strength=0.7,
    epochs=32,
    unfreeze="all",
    precise_batch_norm=True,
    weights=None,
    image_size=48,
    batch_size=64,
)

# The table of the original project (2020), row by row; there is no experiment 3. It names neither image size
# nor batch; 224 is the size that ResNet50 and VGG16 were published with, 32 is Keras's default batch.
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        _original(1, "resnet50", ("flatten", "dense 1024"), "sgd", 0.01),
        _original(2, "vgg16", ("flatten", "dense 512"), "sgd", 0.01),
        _original(4, "xception", ("flatten", "dense 1024"), "sgd", 0.01),
        _original(5, "xception", ("flatten", "dense 1024"), "sgd", 0.01, augment=True),
        _original(6, "xception", ("avg_pool", "dropout 0.2"), "adam", 0.001, augment=True),
        _original(7, "xception", ("avg_pool", "dropout 0.2"), "adam", 0.001, augment=True, epochs=15),
        _original(
            8,
            "xception",
            ("avg_pool", "dropout 0.5", "dense 512", "dense 128"),
            "adam",
            0.01,
            augment=True,
            epochs=17,
        ),
        _original(
            9, "xception", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=20
        ),
        _original(
            10, "resnet50", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=20
        ),
        _original(
            11, "resnet50", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=40
        ),
        _original(12, "resnet50", ("avg_pool",), "sgd", 0.01, augment=True, epochs=20, unfreeze="conv5"),
        _FINETUNE,
        # finetune overfits in the end: what keeps it from that, and the time that this takes. The average
        # reaches back over epochs, as in row 68 of FER2013, the best single network there.
        dataclasses.replace(
            _FINETUNE,
            name="finetune_strong",
            head=("avg_pool", "dropout 0.5"),
            learning_rate=4e-4,
            weight_decay=0.05,
            ema=0.9995,
            augment_strength=1.0,
            epochs=30,
            batch_size=64,
        ),
        _EMO_MINI,
        # Hundreds of photos are too few to learn faces from: it starts from the model that knows them.
        dataclasses.replace(
            _EMO_MINI,
            name="finetune_mini",
            learning_rate=1e-3,
            epochs=12,
            weights="emo_mini",
            batch_size=32,
        ),
    )
}


def _summary(e: Experiment) -> str:
    """One of the original eleven in a few words."""
    trained = "frozen" if e.unfreeze == "none" else f"from {e.unfreeze} on"
    rate = f"{e.optimizer} {e.learning_rate:g}"
    how = f"{e.epochs} epochs" + (", augmented" if e.augment else "")
    return f"original project, {e.backbone} {trained}, {', '.join(e.head)}, {rate}, {how}"


SUMMARIES = {
    "finetune": "all layers of Xception learn; the first choice on a GPU",
    "finetune_strong": "the same for three times as long, with stronger regularization",
    "finetune_mini": "the small network from emo_mini's weights; for fewer than 5,000 photos or no GPU",
    "emo_mini": "the small network from a random start, where no pretrained weights may be used",
} | {name: _summary(e) for name, e in EXPERIMENTS.items() if name.isdecimal()}
