"""Knowledge distillation: a trained model's answers as soft labels (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.h5_loader import load_model


def load_teacher(experiment: Experiment, class_names: Sequence[str]) -> keras.Model:
    """The experiment's. Raises UserError where it does not open, or does not fit the photos or the run."""
    teacher, metadata = load_model(experiment.teacher)
    said = f"teacher={experiment.teacher!r}"
    known = tuple(metadata.get("class_names", ()))
    if known != tuple(class_names):
        raise UserError(
            f"{said} answers with {', '.join(known) or 'classes that it does not name'}, the photos have "
            f"{', '.join(class_names)}: give a model that was trained here on the same classes."
        )
    margin = metadata.get("experiment", {}).get("face_margin")
    if margin != experiment.face_margin:
        raise UserError(
            f"{said} was trained with face_margin={margin}, this run has {experiment.face_margin}: both must "
            "see the same of a photo, so give them the same."
        )
    return teacher


def soft_labels(teacher: keras.Model) -> Callable:
    """A function of (n, h, w, 3) pictures in 0–255: the teacher's probabilities, (n, classes).

    The teacher sees each picture as the network that learns does, augmented alike ("consistent", Beyer et al.
    2022, arXiv:2106.05237), in its own size. A function, as Keras would count a model's weights in.
    """
    size = teacher.input_shape[1:3]

    def answer(pictures):
        pictures = ops.cast(pictures, "float32")
        if tuple(pictures.shape[1:3]) != size:
            pictures = ops.image.resize(pictures, size, antialias=True)
        return teacher(pictures, training=False)

    return answer
