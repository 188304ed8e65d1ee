"""In which letters were the names in a zip written? Many archives do not say."""

import codecs
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence

from emo.data.vocabulary import is_emotion
from emo.errors import UserError

UTF8_FLAG = 0x800
UNICODE_PATH = 0x7075  # the extra field of Info-ZIP: APPNOTE.TXT 4.6.9
CODE_PAGES = (  # those of DOS and Windows by country, the common ones first
    *("cp866", "cp1251", "koi8_r", "cp437", "cp1252", "cp850", "cp1250", "cp852", "cp1254", "cp857"),
    *("cp1253", "cp737", "cp1255", "cp862", "cp932", "gbk", "big5", "cp949"),
)
SURE = 0.45  # a word in its own language scores above, on average; see `_score`
MARGIN = 0.05  # by which the best reading must lead
CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"  # Russian letters by how frequent they are
LATIN = set("äöüßéèêëàâçñáíóúãõåæøœîïôûùąęłńśźżčšžřýěůőűğışşţăâîș")
SIGNS = set(" ._-–—()[]{}'’,;&+№!~#@$%=«»、。・（）ー")


def decode_names(
    archive: zipfile.ZipFile, encoding: str | None, name: str
) -> tuple[dict[zipfile.ZipInfo, str], str]:
    """Every entry's name as text, and a sentence where its letters were guessed.

    A name with the UTF-8 flag or the extra field 0x7075 says what it is; the others are UTF-8 where all of
    them are, else in `encoding`, else in the code page that makes words of them. Raises UserError where none
    does and a folder's name depends on it.
    """
    told, raw = {}, {}
    for info in archive.infolist():
        # zipfile has read bytes without the flag as cp437, which holds all 256: this gives them back
        data = None if info.flag_bits & UTF8_FLAG else info.orig_filename.encode("cp437")
        if data is None or data.isascii():
            told[info] = info.orig_filename
        elif (field := _unicode_path(info.extra, data)) is not None:
            told[info] = field
        else:
            raw[info] = data
    chosen, note = _encoding(list(raw.values()), encoding, name) if raw else ("ascii", "")
    return told | {info: data.decode(chosen, "replace") for info, data in raw.items()}, note


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in the extra field 0x7075, where it belongs to the name as it stands."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and field[0] == 1:
            if struct.unpack("<L", field[1:5])[0] != zlib.crc32(raw):
                return None
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _encoding(names: Sequence[bytes], wanted: str | None, source: str) -> tuple[str, str]:
    """The encoding that all the names are in, and a sentence about it where it is a guess."""
    if wanted:
        if not _decoded(names, wanted):
            raise UserError(
                f"{source} has names that are not {wanted}; give another encoding=, or leave it out."
            )
        return wanted, ""
    if _decoded(names, "utf-8"):
        return "utf-8", ""
    readings = {page: text for page in CODE_PAGES if (text := _decoded(names, page))}
    ranked = sorted(readings, key=lambda page: _score(readings[page]), reverse=True)
    if ranked:
        best = readings[ranked[0]]
        others = [page for page in ranked if readings[page] != best]
        lead = _score(best) - (_score(readings[others[0]]) if others else 0)
        if (_score(best) >= SURE and lead >= MARGIN) or not _in_folders(best):
            shown = _some(best, 3)
            note = f"Names in {source} are read as {ranked[0]} ({shown}); encoding= takes another code page."
            return ranked[0], note
    shown = " or ".join(f'encoding="{page}" for {_some(readings[page], 2)}' for page in ranked[:3])
    raise UserError(
        f"{source} does not say in which letters its names are written; pass {shown or 'encoding='}, or zip "
        "the photos again."
    )


def check_encoding(encoding: str | None) -> None:
    """Raises UserError for an encoding that Python does not know."""
    try:
        "".encode(codecs.lookup(encoding or "utf-8").name)
    except (LookupError, ValueError):
        raise UserError(
            f'encoding={encoding!r} is not an encoding of text; give one such as "cp866" or leave it out.'
        ) from None


def _decoded(names: Sequence[bytes], encoding: str) -> list[str]:
    try:
        return [name.decode(encoding) for name in names]
    except UnicodeDecodeError:
        return []


def _in_folders(names: Iterable[str]) -> bool:
    """Whether a folder's name has letters beyond ASCII: a photo's own name decides nothing."""
    return any(not name.replace("\\", "/").rpartition("/")[0].isascii() for name in names)


def _foreign_words(names: Iterable[str]) -> list[str]:
    """The different parts of paths with letters beyond ASCII, folders first."""
    folders, files = {}, {}
    for name in names:
        *above, file = re.split(r"[/\\]", name)
        folders.update(dict.fromkeys(part for part in above if not part.isascii()))
        files.update({} if file.isascii() else {file: None})
    return [*folders, *files]


def _some(names: Iterable[str], count: int) -> str:
    """A few of them, to be shown: damaged ones may hold any sign, and be of any length."""
    words = (word if len(word) <= 40 else f"{word[:40]}…" for word in _foreign_words(names)[:count])
    return ", ".join("".join(c if c.isprintable() else "?" for c in word) for word in words)


def _score(names: Sequence[str]) -> float:
    """How much the names look like words: 0 to 1, and more where a word for an emotion is among them."""
    words = _foreign_words(names)[:500]
    scores = [_word_score(word) for word in words]
    known = sum(map(is_emotion, words)) / len(words)
    return sum(scores) / len(scores) + known / 2 if min(scores) > 0 else min(scores)


def _word_score(name: str) -> float:
    """0 to 1 for letters of one script in a plausible order, below 0 for what no name holds."""
    name = unicodedata.normalize("NFC", name)
    letters = [char for char in name if char.isalpha()]
    scripts = {unicodedata.name(char, "?").split()[0] for char in letters if not char.isascii()}
    scripts -= {"FULLWIDTH", "KATAKANA-HIRAGANA"}
    if any(not (char.isalnum() or char in SIGNS or unicodedata.combining(char)) for char in name):
        return -1  # box drawing, currency, control characters
    for word in re.findall(r"[^\W\d_]+", name):
        if not (word.islower() or word.isupper() or word[1:].islower() or word.upper() == word.lower()):
            return -0.5  # a capital within a word
        if scripts != {"LATIN"} and not word.isascii() and any(map(str.isascii, word)):
            return -0.5  # two scripts within a word
    if scripts == {"CYRILLIC"}:
        places = [CYRILLIC.find(char) for char in name.casefold() if not char.isascii() and char.isalpha()]
        return sum(1 - place / 33 if place >= 0 else -0.5 for place in places) / len(places)
    if scripts == {"LATIN"}:
        foreign = [char for char in letters if not char.isascii()]
        usual = sum(char in LATIN for char in name.lower()) / len(foreign)
        return usual * min(1, 1.8 * (1 - len(foreign) / len(letters)))
    if len(scripts) == 1 or scripts <= {"CJK", "HIRAGANA", "KATAKANA"}:
        return 0.5 if scripts else -1
    return -0.5
