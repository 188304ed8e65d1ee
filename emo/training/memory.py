"""What to halve where memory ran out."""

from __future__ import annotations

from emo.errors import UserError, is_out_of_memory
from emo.experiments import Experiment
from emo.models.backbones import get_backbone


def in_words(error: Exception, experiment: Experiment, preparing: bool = False) -> Exception:
    """A UserError in the place of one that says that memory ran out; any other as it is.

    `preparing`: before the first step, when photos or their features are read. Raise it outside of `except`:
    the frames of the first error hold the arrays that filled the memory.
    """
    if not is_out_of_memory(error):
        return error
    e, smaller = experiment, []
    if not preparing and e.batch_size >= 4:  # pairs mix, and BatchNormalization dislikes batches of one
        smaller.append(f"batch_size={e.batch_size // 2}")
    if e.image_size // 2 >= get_backbone(e.backbone).min_size:
        smaller.append(f"image_size={e.image_size // 2}")
    if preparing and e.views > 1:
        smaller.append(f"views={e.views // 2}")
    advice = f"try {' or '.join(smaller)}" if smaller else "take a smaller backbone, or fewer photos"
    doing = "was prepared" if preparing else f"was trained in batches of {e.batch_size}"
    return UserError(
        f"Memory ran out while {e.name} ({e.backbone}, {e.image_size} px) {doing}: {advice}, and restart the "
        "kernel where other models are still in its memory."
    )
