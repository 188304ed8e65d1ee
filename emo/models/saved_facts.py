"""What a model file must tell to be used, and where it is found when the file is not one of `train`'s."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo.data.manifest import check_class_names, read_class_names
from emo.errors import UserError
from emo.models.backbones import BACKBONES, get_backbone
from emo.models.build import PREPROCESSING, PREPROCESSING_LAYER
from emo.models.loading import SavedModel
from emo.models.saved_config import IDENTITIES
from emo.models.saving import MAX_SIDE
from emo.paths import Paths

MOVES = frozenset({"CenterCrop", "Channels", "Resizing", "Slice"})  # which change no level of a pixel
GREY = ("none", "rescale", "tf")  # the modes of `preprocess` for a network of one channel
# layers of the original project's backbones that no other network of keras.applications has: (has, lacks)
SIGNATURES = {
    "resnet50": ({"conv4_block6_out", "conv5_block3_out"}, {"conv4_block7_out", "post_bn"}),
    "vgg16": ({"block5_conv3"}, {"block5_conv4"}),
    "xception": ({"block14_sepconv2"}, set()),
}


@dataclass(frozen=True)
class Facts:
    """`preprocessing` is the mode of `preprocess` that the network lacks; `metadata` tells all."""

    class_names: tuple[str, ...]
    class_names_from: str
    image_size: int
    preprocessing: str
    metadata: dict


def find_facts(
    saved: SavedModel,
    class_names: Sequence[str] | Mapping | str | Path | None = None,
    image_size: int | None = None,
    preprocessing: str | None = None,
    backbone: str | None = None,
) -> Facts:
    """What is given, else what the file says, else what its project and its layers suggest.

    `class_names` in the order of the outputs: any sequence (a list, an array, a pandas Index), Keras's
    `class_indices` (name → number, or the reverse), or a file (one a line, after running numbers or not, or
    JSON).
    Raises UserError for what cannot be, and one that names every keyword that is still to be passed.
    """
    size = _image_size(saved, image_size)
    names, source = _class_names(saved, class_names)
    if "class_names" in saved.metadata:
        if preprocessing or backbone:
            raise UserError(
                f"{saved.path.name} has its preprocessing inside; leave out preprocessing= and backbone=."
            )
        mode, metadata = "none", saved.metadata
    else:
        mode, backbone, told = _preparation(saved, preprocessing, backbone)
        metadata = {"class_names": names, "image_size": size, "backbone": backbone, "preprocessing": mode}
        metadata["assumed"] = f"{told}, classes {source}"
    missing = []
    if names is None:
        missing.append("class_names=, a list or a file, in the order of its outputs")
    if size is None:
        missing.append("image_size=, the side in pixels of the pictures it was trained on")
    if mode is None:
        missing.append(f"preprocessing=, how they were prepared: {', '.join(_modes(saved))}")
    if missing:
        raise UserError(
            f"{saved.path.name} does not say all that is needed, as what train() saves does: "
            f"pass {'; '.join(missing)}."
        )
    return Facts(names, source, size, mode, metadata)


def find_backbone(saved: SavedModel) -> tuple[str, str] | None:
    """A key of BACKBONES and where it was found: the network's layers, or else the file's name."""
    names = saved.network.names()
    for backbone, (has, lacks) in SIGNATURES.items():
        if backbone in names or (has <= names and not lacks & names):
            return backbone, "from its layers"
    for backbone in BACKBONES:
        if re.search(rf"(?<![a-z0-9]){backbone}(?![a-z0-9])", saved.path.stem.lower()):
            return backbone, "from the file name"
    return None


def prepares_its_input(saved: SavedModel) -> bool:
    """True where the network begins with a layer that scales its input."""
    leaves = (leaf for leaf in saved.network.leaves() if leaf.kind not in IDENTITIES | MOVES)
    first = next(leaves, None)
    return first is not None and (
        first.kind in ("Rescaling", "Normalization") or first.name == PREPROCESSING_LAYER
    )


def _image_size(saved: SavedModel, given: int | None) -> int | None:
    height, width, channels = saved.input_shape
    file = saved.path.name
    if channels not in (1, 3):
        first = " (channels_first)" if height in (1, 3) else ""
        raise UserError(
            f"{file} takes input of {height} × {width} × {channels}{first}; "
            "only RGB or grey pictures, colours last, can be fed to it."
        )
    if height != width:
        raise UserError(f"{file} takes pictures of {height} × {width} px; only squares can be fed to it.")
    allowed = (height,) if height else range(1, MAX_SIDE + 1)
    if given is not None and (isinstance(given, bool) or given not in allowed):
        raise UserError(f"image_size={given!r}: {file} takes {height or f'1 to {MAX_SIDE}'} px a side.")
    return height or given


def _class_names(saved: SavedModel, given) -> tuple[tuple[str, ...] | None, str]:
    """The names, None where there are none, and where they were found."""
    project = saved.path.resolve().parent.parent  # of a file in <project>/model/
    in_project = Paths(project, project).class_names
    if isinstance(given, (str, Path)):
        names, source = _names_in(Path(given).expanduser()), f"from {given}"
    elif given is not None:
        names, source = given, "as given"
    elif "class_names" in saved.metadata:
        names, source = saved.metadata["class_names"], "from the file itself"
    elif in_project.is_file():
        return read_class_names(in_project), f"from {in_project.relative_to(project).as_posix()}"
    else:
        return None, ""
    names = _as_names(names)
    if not names or not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise UserError(
            f"The class names of {saved.path.name} ({source}) are to be a list of names, each once; "
            f"they are {given if given is not None else names!r:.80}."
        )
    check_class_names(names, f"{saved.path.name} (class names {source})")
    return names, source


def _names_in(file: Path) -> tuple[str, ...] | dict | list:
    if not file.is_file():
        raise UserError(f"class_names={str(file)!r}: there is no such file; give a file or a list.")
    if file.suffix.lower() == ".json":
        try:
            return json.loads(file.read_text(encoding="utf-8-sig"))
        except ValueError:
            raise UserError(
                f"class_names={str(file)!r} is not JSON; give a file with one name per line."
            ) from None
    return read_class_names(file, numbered=True)


def _as_names(given) -> tuple[str, ...]:
    """() for what is not a list of names."""
    if isinstance(given, Mapping):
        pairs = list(given.items())
        if all(isinstance(key, str) and not isinstance(value, str) for key, value in pairs):
            pairs = [(value, key) for key, value in pairs]  # Keras's class_indices
        try:
            pairs = sorted((int(number), name) for number, name in pairs)
        except (TypeError, ValueError):
            return ()
        if [number for number, _ in pairs] != list(range(len(pairs))):
            return ()
        given = [name for _, name in pairs]
    elif isinstance(given, (str, bytes, set, frozenset)) or not hasattr(given, "__iter__"):
        return ()
    names = list(given)
    return tuple(map(str, names)) if all(isinstance(name, (str, np.str_)) for name in names) else ()


def _modes(saved: SavedModel) -> tuple[str, ...]:
    """The `preprocessing` that the file's network can be given."""
    return GREY if saved.input_shape[2] == 1 else PREPROCESSING


def _preparation(
    saved: SavedModel, preprocessing: str | None, backbone: str | None
) -> tuple[str | None, str | None, str]:
    """The preprocessing (None where nothing tells it), the backbone, and in words how both were found."""
    grey = saved.input_shape[2] == 1
    if preprocessing is not None and preprocessing not in PREPROCESSING:
        raise UserError(
            f"preprocessing={preprocessing!r} is unknown; choose one of {', '.join(_modes(saved))}."
        )
    if preprocessing is not None and preprocessing not in _modes(saved):
        raise UserError(
            f"preprocessing={preprocessing!r} is for RGB, but {saved.path.name} takes grey pictures; choose "
            f"one of {', '.join(GREY)}."
        )
    found = (backbone, "as given") if backbone is not None else find_backbone(saved)
    usual = get_backbone(found[0]).preprocessing if found and not grey else None
    if preprocessing is not None:
        mode, why = preprocessing, "as given"
    elif prepares_its_input(saved):
        mode, why = "none", "its first layer scales"
    else:
        mode, why = usual, "assumed"
    told = f"{'no' if mode == 'none' else mode} preprocessing outside the model ({why})"
    if found is None:
        return mode, None, told
    return mode, found[0], f"backbone {found[0]} ({found[1]}), {told}"
