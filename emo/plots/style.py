"""What figures share: colours, and names as they are written."""

TRAIN, VAL, GOOD, BAD = "#4c72b0", "#dd8452", "#2e8b57", "#c0392b"


def short(text: object, most: int = 24) -> str:
    """A name from outside on one line of at most `most` characters: longer ones leave a figure no room."""
    text = " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(text: object, most: int = 24) -> str:
    """`short`, as matplotlib shows it literally: between two dollar signs it would read a formula."""
    return short(text, most).replace("$", r"\$")
