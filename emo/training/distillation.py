"""Knowledge distillation: a trained model's answers as soft labels (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from emo.data.geometry import resampling_matrix
from emo.errors import UserError
from emo.experiments import Experiment
from emo.models.backbones import weights_file
from emo.models.build import copy_in
from emo.models.loading import load_model
from emo.precision import dtype_policy


def load_teacher(experiment: Experiment, class_names: Sequence[str]) -> keras.Model:
    """The experiment's, computing in its precision.

    Raises UserError where it does not open, or does not fit the photos or the run.
    """
    said = f"teacher={experiment.teacher!r}"
    try:
        teacher, metadata = load_model(weights_file(experiment.teacher))
    except UserError as error:
        raise UserError(f"{said}: {error}") from error.__cause__
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
    policy = dtype_policy(experiment.precision)
    return teacher if policy == "float32" else copy_in(policy, teacher)


def soft_labels(teacher: keras.Model) -> Callable:
    """A function of (n, h, w, 3) pictures in 0–255: the teacher's probabilities, (n, classes).

    The teacher sees each picture as the network that learns does, augmented alike ("consistent", Beyer et al.
    2022, arXiv:2106.05237), in its own size. A function, as Keras would count a model's weights in.
    """
    size = teacher.input_shape[1:3]

    def answer(pictures):
        pictures = ops.cast(pictures, "float32")
        if (given := tuple(pictures.shape[1:3])) != size:
            # TensorFlow's own resizing without aliasing has neither a GPU's kernel nor XLA's
            rows, columns = (resampling_matrix(*lengths) for lengths in zip(given, size, strict=True))
            pictures = ops.einsum("hi,nijc,wj->nhwc", rows, pictures, columns)
        return ops.cast(teacher(pictures, training=False), "float32")

    return answer
