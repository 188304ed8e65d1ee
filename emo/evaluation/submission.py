"""The competition's CSV."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from emo.errors import UserError
from emo.files import BOM, write_text
from emo.paths import free_path


def write_submission(predictions: pd.DataFrame, path: str | Path, sample: str | Path | None = None) -> Path:
    """The competition's CSV: `image_path,emotion`, a row per photo, `image_path` the file's name.

    Where there is a file `sample` (`Paths.sample_submission`), its rows decide: the same photos by name, in
    its order, spelled as there, under its header, with a byte order mark only if it has one; without it there
    is one, for Excel. A photo that could not be read has an empty emotion, and is named. An existing file is
    kept: the new one gets the next free number in its name. Raises UserError where `sample` names other
    photos, or is not a table of two columns.
    """
    rows = pd.DataFrame(
        {"image_path": [Path(file).name for file in predictions.path], "emotion": predictions.emotion}
    )
    mark = BOM
    if sample is not None and Path(sample).is_file():
        rows = _as_in_sample(rows, Path(sample))
        mark = BOM if Path(sample).read_bytes().startswith(BOM.encode()) else ""
    path = free_path(Path(path))
    write_text(path, mark + rows.to_csv(index=False, lineterminator="\n"))
    if unread := rows.iloc[:, 0][rows.iloc[:, 1].isna()].tolist():
        print(
            f"{_first(unread)} could not be read: the emotion is empty in {path.name}; write one there "
            "by hand, as competitions refuse a row without."
        )
    return path


def _as_in_sample(rows: pd.DataFrame, sample: Path) -> pd.DataFrame:
    """`rows` (image_path, emotion) in the order and with the spelling of the competition's own example."""
    try:
        wanted = pd.read_csv(sample, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own, and of bytes that are not text
        reason = str(error).strip()
        raise UserError(f"{sample} is not a CSV ({reason}); download it again, or take it away.") from None
    if wanted.shape[1] != 2:
        raise UserError(
            f"{sample} has the columns {', '.join(wanted)}, where a submission has two (the photo and its "
            "emotion); download it again, or take it away."
        )
    photo, emotion = wanted.columns
    names = wanted[photo].map(lambda path: Path(path).name)
    if twice := sorted(rows.image_path[rows.image_path.duplicated()].unique()):
        raise UserError(
            f"{_first(twice)} twice among the photos, in two folders: {sample} does not say which is meant; "
            "answer for the photos of one folder."
        )
    expected, answered = Counter(names), Counter(rows.image_path)
    missing, extra = list((expected - answered).elements()), list((answered - expected).elements())
    if missing or extra:
        differs = [f"{_first(missing)} missing"] * bool(missing) + [f"{_first(extra)} too many"] * bool(extra)
        raise UserError(
            f"{sample} has {len(wanted):,} rows and there are {len(rows):,} answers: {', '.join(differs)}; "
            "answer for the photos of that competition, or take the file away."
        )
    answers = rows.set_index("image_path").emotion
    return pd.DataFrame({photo: wanted[photo], emotion: answers.loc[names].to_numpy()})


def _first(names: list[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
