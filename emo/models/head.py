"""The head of a finished model as the start of a new one's: its classes are told by name."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from emo.data.vocabulary import emotion_of
from emo.errors import UserError
from emo.experiments import Experiment, parse_head
from emo.models.backbones import weights_file
from emo.models.loading import read_model
from emo.models.saved_file import holds_weights_alone, numbers, open_model, sentences
from emo.models.saved_weights import weights_of


def bring_head(model: keras.Model, experiment: Experiment, class_names: Sequence[str]) -> None:
    """Gives the head of a new model what the file in `experiment.weights` has learned for it; says so.

    For a model that `train` saved, whose head has the same dense layers: these, and the outputs of the
    classes that have the same name, or a word for the same emotion. Others keep their random start. Nothing
    happens where the file holds no such head.
    """
    file = weights_file(experiment.weights)
    if file is None:
        return
    with sentences(file), open_model(file) as opened:
        if holds_weights_alone(opened):
            return
    saved = read_model(file)
    names = [emotion_of(name) for name in saved.metadata.get("class_names", ())]
    pairs = _pairs(class_names, names)
    head = saved.metadata.get("experiment", {}).get("head")
    if not pairs or not head or _dense(tuple(head)) != _dense(experiment.head):
        return
    with sentences(file), open_model(file) as opened:
        arrays = weights_of(opened, saved.network)
        found = [
            [numbers(array, layer.name) for array in arrays[layer]]
            for layer in saved.network.layers
            if layer in arrays and layer.kind == "Dense"
        ]
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    if len(found) != len(dense):
        raise UserError(
            f"{file.name} says that its head is {', '.join(head)}, and holds another: copy it again."
        )
    kernel, bias = dense[-1].get_weights()
    takes = [layer.kernel.shape for layer in dense[:-1]]  # "flatten" has more rows of larger pictures
    has = [values[0].shape for values in found[:-1]]
    if takes != has or len(kernel) != len(found[-1][0]):
        return
    for layer, values in zip(dense[:-1], found, strict=False):
        layer.set_weights(values)
    columns, places = zip(*pairs, strict=True)
    kernel[:, columns], bias[list(columns)] = found[-1][0][:, places], found[-1][1][list(places)]
    dense[-1].set_weights([kernel, bias])
    print(
        f"The head starts from {file.name}, too, which knows {len(pairs)} of the {len(class_names)} classes."
    )


def _dense(head: tuple[str, ...]) -> list:
    return [value for kind, value in parse_head(head) if kind == "dense"]


def _pairs(class_names: Sequence[str], known: Sequence[str]) -> list[tuple[int, int]]:
    """(place of a class, place of the same one among the known), for each that is known."""
    words = [emotion_of(name) for name in class_names]
    return [(place, known.index(word)) for place, word in enumerate(words) if word in known]
