"""Several models that answer as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emo.data.geometry import Crop
from emo.errors import UserError
from emo.inference.classifier import Classifier, load_classifier
from emo.inference.predictor import Predictor


class Ensemble(Predictor):
    """The mean of its members' probabilities.

    Members are classifiers, or paths that `load_classifier` opens. They may differ in backbone and image
    size; their classes must be the same, in any order. A file that is given twice counts once, and that is
    said. Raises UserError for no members, or members of different classes.
    """

    def __init__(self, members: Sequence[Predictor | str | Path]):
        if isinstance(members, (str, Path, Predictor)):
            members = [members]
        opened = [each if isinstance(each, Predictor) else load_classifier(each) for each in members]
        self.members, self.metadata = tuple(_without_repetition(opened)), {}
        if not self.members:
            raise UserError("An ensemble needs members: give a list of classifiers.")
        first = self.members[0]
        self.class_names = first.class_names
        self.image_size = max(member.image_size for member in self.members)
        for member in self.members:
            if odd := sorted(set(member.class_names) ^ set(self.class_names)):
                raise UserError(
                    f"{member.name} and {first.name} cannot answer as one: only one of them knows "
                    f"{', '.join(odd)}; choose models of the same classes."
                )

    @property
    def name(self) -> str:
        return f"mean of {len(self.members)}: {', '.join(member.name for member in self.members)}"

    def __repr__(self) -> str:
        return f"{self.name}; {len(self.class_names)} classes"

    @property
    def face_margin(self) -> float | None:
        """That of the first member with one."""
        margins = (member.face_margin for member in self.members)
        return next((margin for margin in margins if margin is not None), None)

    def with_flip(self) -> Ensemble:
        return Ensemble([member.with_flip() for member in self.members])

    def crops(self, images: Sequence, faces: Sequence[Crop | None] | None = None) -> list[Crop | None]:
        """Of what the members see of each picture, the largest part."""
        of_each_picture = zip(*(member.crops(images, faces) for member in self.members), strict=True)
        return [None if None in crops else max(crops, key=lambda c: c.side) for crops in of_each_picture]

    def load(self, sources: Sequence, faces: Sequence[Crop | None] | None = None) -> list:
        return [member.load(sources, faces) for member in self.members]

    def answer(self, loaded: list) -> np.ndarray:
        answers = []
        for member, of_member in zip(self.members, loaded, strict=True):
            order = [member.class_names.index(name) for name in self.class_names]
            answers.append(member.answer(of_member)[:, order])
        return np.mean(answers, axis=0)


def _without_repetition(members: Sequence[Predictor]) -> list[Predictor]:
    """The members, of those that answer alike by the same file only the first."""
    kept = {}
    for member in members:
        same = member
        if isinstance(member, Classifier):
            same = member.path.resolve(), member.image_size, member.flip
        if same in kept:
            print(
                f"{member.name} is given twice and counts once (where MODEL is empty in the test notebook, "
                "the newest model is a member)."
            )
        kept.setdefault(same, member)
    return list(kept.values())
