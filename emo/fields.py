"""What the fields of a settings class may hold: each says it in words and checks it, at the field itself."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

from emo.errors import UserError


class Allowed(Protocol):
    """`str()` of it is what a reference page and an error message say is allowed."""

    def accepts(self, value: object) -> bool: ...


@dataclass(frozen=True)
class Number:
    """A finite number between two bounds; `above` leaves the lower one out, `whole` allows integers alone."""

    low: float
    high: float
    whole: bool = False
    above: bool = False

    def accepts(self, value: object) -> bool:
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        return f"{what} {'above' if self.above else 'from'} {self.low:g} to {self.high:,}"


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple

    def accepts(self, value: object) -> bool:
        # 1 == True, and a list cannot be looked up: types count
        return any(type(value) is type(each) and value == each for each in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class KeyOf:
    """A key of a registry, whatever that holds when it is asked."""

    registry: dict

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and value in self.registry

    def __str__(self) -> str:
        return f"one of {', '.join(self.registry)}"


@dataclass(frozen=True)
class Text:
    """A string that is not empty, of which `what` says more."""

    what: str

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and bool(value.strip())

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class OrNone:
    """What another allows, or None."""

    other: Allowed

    def accepts(self, value: object) -> bool:
        return value is None or self.other.accepts(value)

    def __str__(self) -> str:
        return f"{self.other} or None"


FLAG = OneOf((True, False))


def setting(
    description: str, allowed: Allowed, default: Any = dataclasses.MISSING, *, features: bool = False
) -> Any:
    """A dataclass field with its description (a sentence, Markdown) and what it may hold.

    `features`: whether it changes what frozen layers make of photos, so that cached features depend on it.
    """
    metadata = {"description": description, "allowed": allowed, "features": features}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any) -> None:
    """Raises UserError for the first field of a dataclass of `setting`s that holds what it may not."""
    for field in dataclasses.fields(settings):
        value, allowed = getattr(settings, field.name), field.metadata["allowed"]
        if not allowed.accepts(value):
            raise UserError(f"{field.name}={value!r} must be {allowed}.")
