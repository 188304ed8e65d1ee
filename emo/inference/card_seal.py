"""The comment that ends a model card: whether anybody has edited the card, and its figures for programs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from emo.files import encoded

SEAL = "<!-- Written by emo.write_card, which replaces this file only while nobody has edited it: "
COMMENT = re.compile(rf"\n\n{re.escape(SEAL)}(?P<digest>[0-9a-f]{{64}})(?:\n(?P<facts>\{{.*\}}))? -->\n?")


class Card(NamedTuple):
    """A card without its comment; `facts` are those of `sealed`, {} for an older or a handwritten card."""

    text: str
    facts: dict
    edited: bool


def sealed(text: str, facts: dict) -> str:
    """A card's text with the comment, which holds `facts` as one line of JSON."""
    line = json.dumps(facts, ensure_ascii=False).replace(">", r"\u003e")  # else a name could end the comment
    return f"{text}\n\n{SEAL}{_digest(text + line)}\n{line} -->\n"


def read_card(file: Path) -> Card:
    """A card that lies there."""
    content = file.read_text(encoding="utf-8", errors="replace")
    comment = COMMENT.search(content)
    if comment is None:
        return Card(content, {}, edited=True)
    text, line = content[: comment.start()] + content[comment.end() :], comment["facts"] or ""
    try:
        facts = json.loads(line or "{}")
    except ValueError:  # somebody has edited it
        facts = {}
    return Card(text, facts, edited=comment["digest"] != _digest(text + line))


def _digest(text: str) -> str:
    return hashlib.sha256(encoded(text)).hexdigest()
