"""What a run is made of, the seed's eleven, and our recipes. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from emo.errors import UserError
from emo.models.backbones import check_unfreeze, get_backbone

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
LOSSES = ("categorical_crossentropy", "categorical_focal_crossentropy")
MIXES = ("none", "mixup", "cutmix")
HEAD_LAYERS = "flatten, avg_pool, dropout RATE, dense UNITS"


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run, and nothing else. Vary one with `dataclasses.replace`.

    - backbone: a key of `emo.BACKBONES`; weights: "imagenet", a file, or None; unfreeze: "none", "all"
      or a block name (that block and all after it train).
    - head: the layers between backbone and softmax, e.g. ("avg_pool", "dropout 0.2", "dense 1024");
      dense layers have ReLU; the softmax layer is added with as many units as there are classes.
    - freeze_batch_norm: BatchNormalization keeps the statistics and scales that it came with in the unfrozen
      part too.
    - precise_batch_norm: before each validation BatchNormalization's statistics are taken anew, where it
      learns, from training photos as they lie on disk (Wu and Johnson 2021); training is as without.
    - optimizer: "sgd", "adam" or "adamw"; learning_rate > 0; momentum in [0, 1), for sgd; weight_decay in
      [0, 1], for adamw (Loshchilov and Hutter 2019).
    - schedule: "constant", or "cosine": the learning rate rises from 0 over `warmup_epochs`, then falls to 0
      along half a cosine until the last epoch ends (Loshchilov and Hutter 2017).
    - label_smoothing in [0, 1): the share of each label that is spread over all classes (Szegedy 2016).
    - balance in [0, 1]: each class weighs (1 / its share of the training photos) ** balance in the loss, 1 a
      photo on average; 1 makes classes equal (King and Zeng 2001), 0.5 goes half way (Mahajan 2018).
    - average in [0, 1): validate and save not the last weights but their moving average, which keeps this
      share of itself at each step, e.g. 0.999; 0 is off.
    - augment: the seed's random flip, zoom, shift and rotation at every step, on the training device;
      augment_strength scales zoom, shift and rotation (1: the seed's, 0: flip alone).
    - color in [0, 1]: with augment, brightness and contrast change by up to this share (Howard 2013).
    - erase in [0, 1): with augment, the chance that a rectangle of 2–33% of a photo is lost (Zhong 2020).
    - mix: with augment, "mixup" blends each photo and its label with another of the batch (Zhang 2018),
      "cutmix" pastes a rectangle of that one into it (Yun 2019), "none" is off.
    - use_augmented_copy: train on `data/train_aug` as well, the copy written by the prep notebook.
    - relabel: lay `data/relabel.csv`, where there is one, over the labels.
    - views: 0 runs the frozen layers over every photo in every epoch. From 1 on they run once, over each
      photo and, with augment, over `views` augmented copies of it: an epoch takes one of these a photo.
    - teacher: a `.h5` whose answers make up `teacher_weight`, in (0, 1], of what is to be learned, the labels
      the rest (Hinton 2015); None is off.
    - precision: a Keras dtype policy to compute in, or "auto", the fastest of this device. Softmax, loss and
      the saved model are float32 in any case.
    - face_margin: None takes photos whole; a number crops and levels the one face in each, with this share
      of its side added on each side (0.3: 30%). Photos with no face or several stay whole.
    - image_size in pixels (square); batch_size in photos; seed: everything random comes from it.

    Raises UserError naming the field, what is wrong and what is allowed.
    """

    name: str
    backbone: str
    head: tuple[str, ...]
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    loss: str = "categorical_crossentropy"
    label_smoothing: float = 0.0
    balance: float = 0.0
    average: float = 0.0
    augment: bool = False
    augment_strength: float = 1.0
    color: float = 0.0
    erase: float = 0.0
    mix: str = "none"
    use_augmented_copy: bool = False
    relabel: bool = True
    views: int = 0
    epochs: int = 10
    unfreeze: str = "none"
    freeze_batch_norm: bool = False
    precise_batch_norm: bool = False
    weights: str | None = "imagenet"
    teacher: str | None = None
    teacher_weight: float = 0.0
    face_margin: float | None = None
    image_size: int = 224
    batch_size: int = 32
    precision: str = "auto"
    seed: int = 42

    def __new__(cls, *args, **fields):
        # the generated __init__ would answer an unknown name with a TypeError that names no alternatives
        allowed = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in allowed:
                raise UserError(f"Experiment has no field {name!r}; its fields are {', '.join(allowed)}.")
        return super().__new__(cls)

    def __post_init__(self):
        if isinstance(self.head, list):  # what JSON makes of a tuple
            object.__setattr__(self, "head", tuple(self.head))
        for field in ("learning_rate", "momentum", "weight_decay"):  # Keras's optimizers refuse whole numbers
            if type(getattr(self, field)) is int:
                object.__setattr__(self, field, float(getattr(self, field)))
        backbone = get_backbone(self.backbone)
        check_unfreeze(self.backbone, self.unfreeze)
        parse_head(self.head)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("loss", self.loss, LOSSES)
        _one_of("augment", self.augment, (True, False))
        _one_of("mix", self.mix, MIXES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("use_augmented_copy", self.use_augmented_copy, (True, False))
        _one_of("relabel", self.relabel, (True, False))
        _one_of("freeze_batch_norm", self.freeze_batch_norm, (True, False))
        _one_of("precise_batch_norm", self.precise_batch_norm, (True, False))
        _number("learning_rate", self.learning_rate, float, 0, 10, above=True)
        _number("momentum", self.momentum, float, 0, 0.9999)
        if self.momentum and self.optimizer != "sgd":
            raise UserError(
                f"momentum={self.momentum} belongs to optimizer='sgd'; set it to 0 for {self.optimizer}."
            )
        _number("weight_decay", self.weight_decay, float, 0, 1)
        if self.weight_decay and self.optimizer != "adamw":
            raise UserError(
                f"weight_decay={self.weight_decay} belongs to optimizer='adamw'; set it to 0 for "
                f"{self.optimizer}."
            )
        _number("label_smoothing", self.label_smoothing, float, 0, 0.9999)
        _number("average", self.average, float, 0, 0.9999)
        _number("balance", self.balance, float, 0, 1)
        _number("augment_strength", self.augment_strength, float, 0, 2)
        _number("color", self.color, float, 0, 1)
        _number("erase", self.erase, float, 0, 0.9999)
        for field, off in (("color", 0), ("erase", 0), ("mix", "none")):
            if (value := getattr(self, field)) != off and not self.augment:
                raise UserError(
                    f"{field}={value!r} is part of the augmentation; set augment=True, or {field}={off!r}."
                )
        _number("views", self.views, int, 0, 1000)
        if self.views and self.mix != "none":
            raise UserError(
                f"mix={self.mix!r} makes new pictures at every step, but views={self.views} passes them "
                "through frozen layers once: set views=0, or mix='none'."
            )
        if self.views and self.unfreeze == "all":
            raise UserError(
                f"views={self.views} reuses what frozen layers give, but unfreeze='all' freezes none: "
                "set views=0, or unfreeze to a block."
            )
        _file("weights", self.weights, "'imagenet', a file or None")
        _file("teacher", self.teacher, "a .h5 or None")
        _number("teacher_weight", self.teacher_weight, float, 0, 1)
        if (self.teacher is None) != (self.teacher_weight == 0):
            raise UserError(
                f"teacher={self.teacher!r} and teacher_weight={self.teacher_weight} belong together: give a "
                "model and a weight above 0, or None and 0."
            )
        if self.views and self.teacher:
            raise UserError(
                f"teacher={self.teacher!r} sees the pictures of every step, but views={self.views} passes "
                "them through frozen layers once: set views=0, or teacher=None and teacher_weight=0."
            )
        if self.face_margin is not None:
            _number("face_margin", self.face_margin, float, 0, 2)
            if self.use_augmented_copy:
                raise UserError(
                    f"face_margin={self.face_margin} does not go with use_augmented_copy=True: copies are of "
                    "whole photos; set face_margin to None, or use augment=True instead."
                )
        _number("epochs", self.epochs, int, 1, 10_000)
        _number("warmup_epochs", self.warmup_epochs, float, 0, self.epochs)
        if self.warmup_epochs and self.schedule == "constant":
            raise UserError(f"warmup_epochs={self.warmup_epochs} belongs to schedule='cosine'; set it to 0.")
        _number("image_size", self.image_size, int, backbone.min_size, 1024)
        _number("batch_size", self.batch_size, int, 1, 4096)
        if self.mix != "none" and self.batch_size % 2:
            raise UserError(
                f"batch_size={self.batch_size} is odd, but mix={self.mix!r} takes a batch's photos in pairs; "
                "choose an even one."
            )
        _number("seed", self.seed, int, 0, 2**31 - 1)

    def to_json(self) -> str:
        """One line of JSON that `Experiment.from_json` turns back into an equal experiment."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """The experiment that `to_json` wrote. Raises UserError for fields it does not know."""
        return cls(**json.loads(text))


def get_experiment(name: str, /, **changes) -> Experiment:
    """The experiment of that name with some fields changed. Raises UserError naming what is allowed."""
    name = str(name)  # a form or a command line may make a number of "6"
    if name not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}.")
    return dataclasses.replace(EXPERIMENTS[name], **changes)


def parse_head(head: tuple[str, ...]) -> list[tuple[str, float | None]]:
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


def _one_of(field: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise UserError(f"{field}={value!r} is unknown; choose one of {', '.join(map(str, allowed))}.")


def _file(field: str, value: object, allowed: str) -> None:
    if not (value is None or (isinstance(value, str) and value)):
        raise UserError(f"{field}={value!r} is no file name; give {allowed}.")


def _number(field: str, value: object, kind: type, low: float, high: float, above: bool = False) -> None:
    right_kind = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not right_kind or math.isnan(value) or not low <= value <= high or (above and value == low):
        what = "a whole number" if kind is int else "a number"
        start = f"above {low}" if above else f"from {low}"
        raise UserError(f"{field}={value!r} must be {what} {start} to {high}.")


def _seed(number: int, backbone: str, head: tuple[str, ...], optimizer: str, lr: float, **rest) -> Experiment:
    return Experiment(str(number), backbone, head, optimizer, lr, 0.9 if optimizer == "sgd" else 0.0, **rest)


# Everything learns, slowly: the ImageNet weights are a start, not the last word on faces. The warm-up keeps
# the new head's first guesses from spoiling them.
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
    average=0.998,
    augment=True,
    augment_strength=0.5,
    epochs=10,
    unfreeze="all",
    image_size=128,
)

# The table of the seed's README, row by row (there is no experiment 3). It names neither image size nor
# batch; 224 is the size that ResNet50 and VGG16 were published with, 32 is Keras's default batch.
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        _seed(1, "resnet50", ("flatten", "dense 1024"), "sgd", 0.01),
        _seed(2, "vgg16", ("flatten", "dense 512"), "sgd", 0.01),
        _seed(4, "xception", ("flatten", "dense 1024"), "sgd", 0.01),
        _seed(5, "xception", ("flatten", "dense 1024"), "sgd", 0.01, augment=True),
        _seed(6, "xception", ("avg_pool", "dropout 0.2"), "adam", 0.001, augment=True),
        _seed(7, "xception", ("avg_pool", "dropout 0.2"), "adam", 0.001, augment=True, epochs=15),
        _seed(
            8,
            "xception",
            ("avg_pool", "dropout 0.5", "dense 512", "dense 128"),
            "adam",
            0.01,
            augment=True,
            epochs=17,
        ),
        _seed(9, "xception", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=20),
        _seed(
            10, "resnet50", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=20
        ),
        _seed(
            11, "resnet50", ("avg_pool", "dropout 0.2", "dense 1024"), "sgd", 0.01, augment=True, epochs=40
        ),
        _seed(12, "resnet50", ("avg_pool",), "sgd", 0.01, augment=True, epochs=20, unfreeze="conv5"),
        _FINETUNE,
        # finetune learns its training photos by heart: what keeps it from that, and the time that this takes.
        dataclasses.replace(
            _FINETUNE,
            name="finetune_strong",
            head=("avg_pool", "dropout 0.5"),
            learning_rate=4e-4,
            weight_decay=0.05,
            augment_strength=1.0,
            epochs=30,
            precise_batch_norm=True,
            batch_size=64,
        ),
        # A small network from a random start, for faces of 48 px and for computers without a GPU.
        Experiment(
            "emo_mini",
            "emo_mini",
            ("avg_pool", "dropout 0.4"),
            "adamw",
            2e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup_epochs=1,
            label_smoothing=0.1,
            average=0.998,
            augment=True,
            augment_strength=0.7,
            epochs=32,
            unfreeze="all",
            weights=None,
            image_size=48,
            batch_size=64,
        ),
    )
}
