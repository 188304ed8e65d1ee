"""Tables for the pages."""

import re
from collections.abc import Iterable, Sequence


def markdown(headings: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(text: object, language: str) -> str:
    """A number, or text around one, as "en" or "ru" writes it: 28,709 and 0.5 become 28 709 and 0,5."""
    text = str(text).replace("-", "−")
    if language == "en":
        return text
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\d)\.(?=\d)", ",", text)
