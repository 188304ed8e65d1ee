"""Several models that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emo.data.geometry import Crop
from emo.errors import UserError
from emo.inference.classifier import Classifier


class Committee(Classifier):
    """Asks every member and gives the mean of their probabilities, or with `vote` their majority.

    Members may differ in backbone and image size; their classes must be the same, in any order. A vote's
    probabilities are (votes + mean) / (members + 1): the mean decides ties alone, and rows add up to 1.
    For the rest it is a Classifier, but without a model, path and image size of its own. Raises UserError
    for no members, or members of different classes.
    """

    def __init__(self, members: Sequence[Classifier], vote: bool = False):
        self.members, self.vote, self.metadata = tuple(members), vote, {}
        if not self.members:
            raise UserError("A committee needs members: give a list of classifiers.")
        first = self.members[0]
        self.class_names = first.class_names
        for member in self.members:
            if odd := sorted(set(member.class_names) ^ set(self.class_names)):
                raise UserError(
                    f"{member.name} and {first.name} cannot answer as one: only one of them knows "
                    f"{', '.join(odd)}; choose models of the same classes."
                )

    @property
    def name(self) -> str:
        kind = "vote" if self.vote else "mean"
        return f"{kind} of {len(self.members)}: {', '.join(member.name for member in self.members)}"

    def __repr__(self) -> str:
        return f"{self.name}; {len(self.class_names)} classes"

    def with_flip(self) -> Committee:
        return Committee([member.with_flip() for member in self.members], self.vote)

    def crops(self, images: Sequence, faces: Sequence[Crop | None] | None = None) -> list[Crop | None]:
        """Of what the members see of each picture, the largest part."""
        of_each_picture = zip(*(member.crops(images, faces) for member in self.members), strict=True)
        return [None if None in crops else max(crops, key=lambda c: c.side) for crops in of_each_picture]

    @property
    def face_margin(self) -> float | None:
        """That of the first member with one."""
        margins = (member.face_margin for member in self.members)
        return next((margin for margin in margins if margin is not None), None)

    def export(self, kind: str, path=None, pictures=None):
        raise UserError("A committee is no single network: export each of its members, committee.members.")

    def _load(self, chunk: Sequence, faces: Sequence[Crop | None] | None = None) -> list:
        return [member._load(chunk, faces) for member in self.members]

    def _answers(self, loaded: list) -> tuple[np.ndarray, list[int]]:
        answers, unreadable = [], set()
        for member, of_member in zip(self.members, loaded, strict=True):
            probabilities, bad = member._answers(of_member)
            answers.append(probabilities[:, [member.class_names.index(name) for name in self.class_names]])
            unreadable |= set(bad)
        answers = np.stack(answers)
        mean = answers.mean(axis=0)
        if self.vote:
            votes = np.eye(len(self.class_names))[answers.argmax(axis=2)].sum(axis=0)
            mean = (votes + mean) / (len(self.members) + 1)
        return mean, sorted(unreadable)
