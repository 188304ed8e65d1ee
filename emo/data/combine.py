"""A further dataset beside the one in `data/`: in its classes, under file names of its own."""

import re
from collections import Counter
from collections.abc import Collection

from emo.data.archives import Member
from emo.data.layouts import UNLABELLED, Plan
from emo.data.vocabulary import emotion_of
from emo.errors import UserError


def check_dataset_name(name: str) -> None:
    """Raises UserError for a name that no file name can begin with."""
    if not re.fullmatch(r"[\w-]{1,40}", name):
        raise UserError(
            f"add={name!r} is not a name for a dataset; give up to 40 letters, digits, - or _, such as "
            "'affectnet'."
        )


def combined(found: Plan, classes: Collection[str], name: str, source: str) -> Plan:
    """The labelled photos of a further dataset as they join the one of `classes`.

    `train/anger/1.jpg` becomes `train/angry/<name>_1.jpg`: a class goes by its name, or by another word for
    the same emotion. Photos of other classes, and those without labels, stay out; the notes say all of it.
    Raises UserError where no class is shared, or two photos would be one file.
    """
    theirs = Counter(place.split("/")[1] for place in found.photos if not place.startswith(UNLABELLED))
    ours = {label: _same_class(label, classes) for label in theirs}
    if not any(ours.values()):
        raise UserError(
            f"{source} has the classes {', '.join(sorted(theirs))}, and data/ has {', '.join(classes)}: they "
            "share none; rename its folders."
        )
    photos: dict[str, Member] = {}
    for place, member in found.photos.items():
        split, label, *rest = place.split("/")
        if split == UNLABELLED or ours[label] is None:
            continue
        joined = "/".join((split, ours[label], f"{name}_{'_'.join(rest)}"))
        if joined in photos:
            raise UserError(f"{source} has two photos that would both be {joined}; rename one of them.")
        photos[joined] = member
    return Plan(photos, [*found.notes, *_notes(ours, theirs, len(found.photos) - theirs.total())])


def _same_class(label: str, classes: Collection[str]) -> str | None:
    """The class of that name, else the one that means the same."""
    meaning = emotion_of(label)
    return (
        label if label in classes else next((ours for ours in classes if emotion_of(ours) == meaning), None)
    )


def _notes(ours: dict[str, str | None], theirs: Counter, unlabelled: int) -> list[str]:
    renamed = [f"{label} → {mine}" for label, mine in sorted(ours.items()) if mine not in (None, label)]
    out = [f"{label} ({theirs[label]:,})" for label, mine in sorted(ours.items()) if mine is None]
    out += [f"photos without labels ({unlabelled:,})"] * bool(unlabelled)
    notes = [f"Classes by their meaning: {', '.join(renamed)}."] * bool(renamed)
    return notes + [f"Left out, as data/class_names.txt has no such class: {', '.join(out)}."] * bool(out)
