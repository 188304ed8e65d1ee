"""Which photos train, validate and test: `data/split.csv`; and `data/relabel.csv`, laid over their labels.

Both name photos by their path below `data/`. They are small, may be committed, and a person may edit them.
`data/split.json` beside them records what was chosen for the split, so that photos added later follow it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from enum import StrEnum
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from emo.data.duplicates import find_duplicates
from emo.data.image_io import REASONS
from emo.data.install import BY_HAND, datasets, further_datasets, read_record
from emo.data.manifest import class_names, is_photo, no_photos, printable, scan_splits
from emo.errors import UserError
from emo.files import files_below, write_text
from emo.paths import Paths


class Split(StrEnum):
    """What a photo is for: the value names its folder in `data/` and stands in `data/split.csv`."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"

    @property
    def title(self) -> str:
        """The word for a reader."""
        return {"train": "training", "val": "validation"}.get(self.value, self.value)

    @classmethod
    def of(cls, title: str) -> Split | None:
        """The split of that title; None for none."""
        return next((split for split in cls if split.title == title), None)


SPLITS = tuple(split.value for split in Split)
COLUMNS = ["path", "split", "group", "bytes", "source", "left_out"]
DUPLICATE = "has a duplicate in data/"
OLDER_WORDS = "has a twin in data/"  # what CSVs before 2026-11-26 say of it


def split_photos(
    photos: pd.DataFrame,
    duplicates: pd.DataFrame,
    paths: Paths,
    fraction: float = 0.2,
    seed: int = 42,
    leave_out_duplicates: bool = False,
    test: float = 0.0,
) -> pd.DataFrame:
    """Writes `data/split.csv`, a row per file, and gives it back as `load_split` does.

    `photos` comes from `scan_splits`, `duplicates` from `find_duplicates`. `data/val` and `data/test` stay as
    they are. Without photos in `data/val`, `fraction` (0…1) of each class of `data/train` is set aside to
    validate, and without photos in `data/test` the share `test` (0…1) to test: duplicates on one side, drawn
    by `seed` and content, so that neither the files' order nor the folder's place matters. Of several
    datasets (column `source`, `fetch_dataset(…, add=…)`) each has what it brought, or its own draw. What an
    older `split.csv` says stays; photos new to it join their duplicates or are drawn. `leave_out_duplicates`
    leaves out what has a duplicate in `data/val` or `data/test` and would train on it, or in `data/test` and
    would validate. UserError when a class has too few different photos to split.
    """
    if not 0 < fraction < 1:
        raise UserError(f"fraction is {fraction}; give the share of validation photos between 0 and 1.")
    if not 0 <= test < 1:
        raise UserError(f"test is {test}; give the share of test photos, 0 for none, below 1.")
    old = _read_split(paths)
    table, said = _with_what_was_said(photos, duplicates, old, paths)
    folder = table["path"].str.split("/").str[0]
    usable = table["left_out"] == ""
    table["split"] = said["split"].fillna(folder)
    shares = {
        source: _shares_to_draw(set(folder[rows.index]), val=fraction, test=test)
        for source, rows in table[usable].groupby("source")
    }
    if any(sum(wanted.values()) >= 1 for wanted in shares.values()):
        raise UserError(
            f"fraction {fraction} and test {test} leave no photos to train on; lower one of them."
        )
    mine, elsewhere = usable & (folder == "train"), usable & (folder != "train")
    bound = set(table.loc[elsewhere & (table["group"] > 0), "group"].astype(str))
    table.loc[mine, "split"] = _draw(table[mine], said.loc[mine, "split"], shares, seed, bound)
    if leave_out_duplicates:
        _leave_out_duplicates(table, usable, folder)
    gone = old[~old["path"].isin(table["path"])]  # stays: the disk of these photos may only be away
    gone, table["group"] = _renumbered(gone, table, said["group"])
    table = pd.concat([table, gone], ignore_index=True)
    write_text(paths.split, table[COLUMNS].to_csv(index=False, lineterminator="\n"))
    chosen = {"fraction": fraction, "test": test, "seed": seed, "leave_out_duplicates": leave_out_duplicates}
    write_text(paths.split_record, json.dumps(chosen, indent=2))
    _tell(table, paths)
    _tell_untested(table, said["split"].notna(), shares, test > 0, paths)
    _tell_away(gone, table.iloc[: len(photos)], paths)
    return _loaded(table.iloc[: len(photos)], paths)


def _shares_to_draw(folders: set[str], **shares: float) -> dict[str, float]:
    """What is drawn of a dataset's `data/train`: the shares above 0 for which it has no folder."""
    return {split: share for split, share in shares.items() if share and split not in folders}


def _with_what_was_said(
    photos: pd.DataFrame, duplicates: pd.DataFrame, old: pd.DataFrame, paths: Paths
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of `photos` with their groups and who is left out; what the older file says of each."""
    table = photos[["path", "label", "split", "bytes", "sha256"]].assign(left_out=photos["problem"])
    table["group"] = table["path"].map(duplicates.set_index("path")["group"]).fillna(0).astype(int)
    table["path"] = _relative(table["path"], paths)
    first, further = datasets(paths)
    known = table["path"].map(further).fillna(table["path"].map(old.set_index("path")["source"]))
    table["source"] = known.fillna(first).replace(BY_HAND, first)  # fetched since
    said = old.set_index("path").reindex(table["path"]).set_axis(table.index)
    said[said["bytes"] != table["bytes"]] = None  # another photo under that name
    # what a person wrote stays; what an earlier scan or split found is found again, or repaired
    theirs = (
        said["left_out"]
        .where(~said["left_out"].str.startswith((DUPLICATE, OLDER_WORDS, *REASONS), na=False))
        .fillna("")
    )
    table["left_out"] = table["left_out"].where(table["left_out"] != "", theirs)
    return table, said


def _leave_out_duplicates(table: pd.DataFrame, usable: pd.Series, folder: pd.Series) -> None:
    """Marks in `table` what has a duplicate in a folder that tests what it would train or validate."""
    for split, other in (("train", "val"), ("train", "test"), ("val", "test")):
        beyond = table.loc[usable & (folder == other) & (table["group"] > 0), "group"]
        leaks = usable & (table["split"] == split) & table["group"].isin(beyond)
        table.loc[leaks, "left_out"] = DUPLICATE + other


def _renumbered(gone: pd.DataFrame, table: pd.DataFrame, before: pd.Series) -> tuple[pd.DataFrame, pd.Series]:
    """Rows of photos that are away, and the groups of those that are here: the same duplicates as before.

    `before` are the older groups of the rows of `table`, by which those that are away still go.
    """
    away = sorted(set(gone["group"]) - {0})
    numbers = table["group"].groupby(before).max().reindex(away, fill_value=0)
    alone = numbers.index[numbers == 0]
    numbers[alone] = table["group"].max() + 1 + np.arange(len(alone))
    groups = table["group"].where(table["group"] > 0, before.map(numbers).fillna(0)).astype(int)
    return gone.assign(group=gone["group"].map(numbers).fillna(0).astype(int)), groups


def _tell(table: pd.DataFrame, paths: Paths) -> None:
    """Prints the counts."""
    counts = table.loc[table["left_out"] == "", "split"].value_counts()
    told = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if split in counts)
    print(f"{paths.split}: {told}, {(table['left_out'] != '').sum():,} left out.")


def _tell_untested(
    table: pd.DataFrame, placed: pd.Series, shares: dict[str, dict[str, float]], asked: bool, paths: Paths
) -> None:
    """Prints a sentence for each dataset without photos to test on that was to have some, and why.

    `placed` tells of the first rows of `table`, those of files that are here, whether the older CSV has them.
    Where no share was `asked` for, a dataset is told of only beside one that brought its own.
    """
    used = table[table["left_out"] == ""]
    tested = set(used.loc[used["split"] == "test", "source"])
    name = paths.split.name
    for source, wanted in shares.items():
        if source in tested or not ("test" in wanted if asked else tested):
            continue
        if not asked:
            why = (
                f"no test share was chosen: delete {name} and choose one (TEST in the prep notebook, emo "
                "prepare --test) before you train."
            )
        elif placed[placed.index.isin(used.index[used["source"] == source])].all():
            why = (
                f"{name} has given them all a place: what has trained must not test. Delete the file to draw "
                "again, and train again then."
            )
        else:
            why = "its classes have too few different photos without a duplicate elsewhere; add some."
        print(f"No photos{f' of {source}' * (len(shares) > 1)} are set aside to test, as {why}")


def _tell_away(gone: pd.DataFrame, here: pd.DataFrame, paths: Paths) -> None:
    """Prints a sentence for each further dataset of which no photo is here, where nobody removed them.

    `gone` and `here` are the rows of `data/split.csv` without and with a file.
    """
    fetched = further_datasets(read_record(paths.dataset_record))  # what lacks of these, a person removed
    for source, rows in gone.groupby("source"):
        further = source and rows["path"].str.rsplit("/").str[-1].str.startswith(f"{source}_").all()
        if further and source not in fetched and source not in set(here["source"]):
            print(
                f"{paths.split.name} has {len(rows):,} photos of {source}, which are not in data/: fetch "
                f"that dataset, too (ADD_SOURCE and ADD_NAME = {source!r} in the notebook, or emo prepare "
                f"SOURCE --add {source})."
            )


def _draw(
    photos: pd.DataFrame, said: pd.Series, shares: dict[str, dict[str, float]], seed: int, bound: set[str]
) -> pd.Series:
    """A split per row: what was said of it or its duplicates, else by the order of seeded hashes.

    `shares` has those of each source. Groups in `bound` have duplicates outside `data/train`: they test
    nothing.
    """
    unit = photos["sha256"].where(photos["group"] == 0, photos["group"].astype(str))
    units = photos.assign(unit=unit, said=said).sort_values(["sha256", "label"]).groupby("unit")
    units = units.agg(
        **{name: (name, "first") for name in ("source", "label", "sha256")}, said=("said", list)
    )
    # a photo that trained a model once must not validate the next
    units["split"] = [next((split for split in SPLITS if split in said), None) for said in units["said"]]
    units["rank"] = [hashlib.sha256(f"{seed} {digest}".encode()).digest() for digest in units["sha256"]]
    if len(shares) == 1 and any(shares.values()):  # else there are photos of another folder or dataset
        _check_enough(units["label"].value_counts(), sorted(photos["label"].unique()), *shares.values())
    for (source, _), some in units.groupby(["source", "label"]):
        room = len(some) - len(shares[source])  # a photo of each class trains, the other shares get theirs
        for split, share in shares[source].items():
            wanted = max(min(max(round(share * len(some)), 1), room), 0)
            room += 1 - wanted
            free = some.index[units.loc[some.index, "split"].isna()]
            free = free.difference(bound, sort=False) if split == "test" else free
            chosen = some.loc[free].sort_values("rank").index
            units.loc[chosen[: max(wanted - (some["split"] == split).sum(), 0)], "split"] = split
    return unit.map(units["split"].fillna("train"))


def _check_enough(counts: pd.Series, labels: list[str], shares: dict[str, float]) -> None:
    """Raises UserError for a class of which no photo would train, or none be in one of the shares."""
    counts = counts.reindex(labels, fill_value=0)
    if few := list(counts.index[counts <= len(shares)]):
        needed = f"at least {len(shares) + 1}{', one less without a test share' * ('test' in shares)}"
        raise UserError(f"Class {few[0]!r} has too few different photos to split ({needed}); add some.")


def load_split(paths: Paths, tell: bool = True) -> pd.DataFrame:
    """`data/split.csv` as a table: path (absolute), label (the folder's), split, group, left_out, source.

    A row per file that is there. split is "train", "val" or "test"; photos of one group > 0 are duplicates;
    left_out is "" or why a file is not used; source names the dataset. Where the CSV is missing, or photos
    are new or changed, all are read and the CSV written or brought up to date, as in the prep notebook.
    With `tell` a sentence is printed where the CSV has photos of a dataset that was not fetched here.
    UserError for a broken CSV.
    """
    class_names(paths)  # first, as it has the clearer words for folders that are not right
    table = _read_split(paths)
    files = [file for split in SPLITS for file in files_below(paths.data / split)]
    if not files:
        raise no_photos(paths)
    found = pd.DataFrame({"path": [printable(file.as_posix()) for file in files]}, dtype=str)
    found = found.assign(path=_relative(found["path"], paths), bytes=[_size(file) for file in files])
    both = found.merge(table, "left", on=["path", "bytes"])
    if fresh := int(both["split"].isna().sum()):
        if len(table):
            print(f"{fresh:,} files are new or changed since data/split.csv was written: reading all photos.")
        photos = scan_splits(paths)
        return split_photos(photos, find_duplicates(photos), paths, **_chosen(table, paths))
    both["label"] = both["path"].str.extract(r"^[^/]+/([^/]+)/", expand=False).fillna("")
    if tell:
        _tell_away(table[~table["path"].isin(both["path"])], both, paths)
    return _loaded(both, paths)


def _chosen(table: pd.DataFrame, paths: Paths) -> dict:
    """What `split_photos` was told when it wrote the CSV."""
    kinds = {"fraction": float, "test": float, "seed": int, "leave_out_duplicates": bool}
    try:
        said = json.loads(paths.split_record.read_text(encoding="utf-8"))
        return {name: kind(said[name]) for name, kind in kinds.items()}
    except (OSError, ValueError, KeyError, TypeError):  # none before 2026-11-28, or one that is damaged
        shares = {"fraction": _drawn_share(table, "val"), "test": _drawn_share(table, "test")}
        left_out = table["left_out"].str.startswith((DUPLICATE, OLDER_WORDS)).any()
        drawn = {name: share for name, share in shares.items() if 0 < share < 1}
        return drawn | {"leave_out_duplicates": bool(left_out)}


def _drawn_share(table: pd.DataFrame, split: str) -> float:
    """The share of `data/train` that is in the split, of the datasets that brought no folder for it."""
    brought = table.loc[table["path"].str.startswith(f"{split}/"), "source"].unique()
    drawn = table[table["path"].str.startswith("train/") & ~table["source"].isin(brought)]
    return float((drawn.loc[drawn["left_out"] == "", "split"] == split).mean())


def training_manifests(paths: Paths, relabel: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photos (train, val) as tables of path, label, given (the folder's label), group and source.

    `data/relabel.csv`, where there is one and `relabel` is True, is laid over the labels. Prints what is left
    out and what is relabelled. UserError when a class has no photo to train on, or there is none to validate.
    """
    table = load_split(paths)
    table["given"] = table["label"]
    bad = table[(table["left_out"] != "") & table["split"].isin(("train", "val"))]
    if len(bad):
        first = ", ".join(_relative(bad["path"], paths).head(3) + ": " + bad["left_out"].head(3))
        print(f"Left out {len(bad):,} of {len(table):,} files ({first}{', …' if len(bad) > 3 else ''}).")
    if relabel:
        table = relabelled(table, paths)
    table = table[table["left_out"] == ""]
    train, val = (
        table.loc[table["split"] == split, ["path", "label", "given", "group", "source"]].reset_index(
            drop=True
        )
        for split in ("train", "val")
    )
    if empty := [name for name in class_names(paths) if name not in set(train["label"])]:
        raise UserError(f"{paths.train / empty[0]} has no readable photos to train on; add some.")
    if val.empty:
        raise UserError(
            f"{paths.val} has no readable photos; add some, or delete it and data/split.csv to split again."
        )
    return train, val


def held_out_manifest(paths: Paths) -> pd.DataFrame:
    """The photos to test on, which training never sees: path, label (the folder's), source. May be empty."""
    table = load_split(paths, tell=False)  # those to train and validate on, asked for beside, tell it
    table = table[(table["split"] == "test") & (table["left_out"] == "")]
    return table[["path", "label", "source"]].reset_index(drop=True)


def leaked_photos(paths: Paths, near: bool = True) -> list[str] | None:
    """The photos to validate and to test on with a duplicate among those to train on, by `data/split.csv`.

    Without `near` only those count that are the same file. None where the photos to train on are away,
    so that nobody can tell.
    """
    if not any(map(is_photo, files_below(paths.train))):
        return None
    table = load_split(paths, tell=False)
    leaks = table.loc[_leaks(table), "path"]
    if not near:
        contents = {Path(path).read_bytes() for path in table.loc[_trained_duplicates(table), "path"]}
        leaks = leaks[[Path(path).read_bytes() in contents for path in leaks]]
    return list(leaks)


def _leaks(table: pd.DataFrame) -> pd.Series:
    trained = table.loc[_trained_duplicates(table), "group"]
    return (table["left_out"] == "") & (table["split"] != "train") & table["group"].isin(trained)


def _trained_duplicates(table: pd.DataFrame) -> pd.Series:
    return (table["left_out"] == "") & (table["group"] > 0) & (table["split"] == "train")


def summarize_split(table: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """The dataset in one table: files, what is left out and why, splits and duplicates by folder of `data/`.

    `table` comes from `split_photos` or `load_split`. The last column sums up; a group of
    duplicates that lies in two folders counts in both and once in the sum.
    """
    folder, used = _relative(table["path"], paths).str.split("/").str[0], table["left_out"] == ""
    reason = table["left_out"].str.split(" (", regex=False).str[0]  # without its figures
    duplicates = used & (table["group"] > 0)
    rows = {"files": table["path"].notna()}
    rows |= {f"left out: {why}": reason == why for why in reason[~used].value_counts().index}
    rows |= {f"{Split(split).title} photos": used & (table["split"] == split) for split in SPLITS}
    rows |= {
        "photos with a duplicate": duplicates,
        "held-out photos with a duplicate in training": _leaks(table),
    }
    counts = pd.DataFrame({name: mask.groupby(folder).sum() for name, mask in rows.items()}).T
    counts = counts.reindex(columns=[split for split in SPLITS if split in counts])
    counts = counts.rename_axis(columns=None).assign(all=counts.sum(axis=1))
    groups = table["group"][duplicates]
    counts.loc["groups of duplicates"] = groups.groupby(folder[duplicates]).nunique().reindex(counts.columns)
    counts.loc["groups of duplicates", "all"] = groups.nunique()
    return counts.fillna(0).astype(int)


def relabelled(photos: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    """A table with path, label and split, its labels replaced where `data/relabel.csv` names another.

    Photos to test on keep theirs: a test whose labels follow the model's answers is none.

    The CSV's columns path and label count, others are for the reader; an empty label changes nothing. Without
    the file the table comes back as it is. UserError for a class that is not in the dataset, and for a photo
    that neither `data/` nor `data/split.csv` has.
    """
    if not paths.relabel.exists():
        return photos
    lines = _read_csv(paths.relabel, ["path", "label"])
    new = lines[lines["label"] != ""].set_index("path")["label"]
    here = _relative(photos["path"], paths)
    names = class_names(paths)
    for path, label in new.items():
        if label not in names:
            fault = f"calls {printable(path)} {label!r}, which is not a class"
            raise UserError(f"{paths.relabel} {fault}; choose one of {', '.join(names)}.")
    if twice := list(new.index[new.index.duplicated()]):
        raise UserError(f"{paths.relabel} names {printable(twice[0])} twice; keep one of the lines.")
    away = set(new.index) - set(here)
    known = set(_read_split(paths)["path"]) if away else set()  # of those no file may be on this machine
    if unknown := sorted(away - known):
        raise UserError(
            f"{paths.relabel} names {printable(unknown[0])}, which is not in data/; correct or delete the "
            "line."
        )
    label = here.map(new).fillna(photos["label"])
    changed = photos.loc[label != photos["label"], "split"].value_counts()
    tested, told = changed.pop("test") if "test" in changed else 0, f"{changed.get('train', 0):,} train"
    print(
        f"{paths.relabel.name} changes the labels of {changed.sum():,} photos ({told}, "
        f"{changed.get('val', 0):,} val)."
        + (f" {tested:,} photos to test on keep their folder's label." if tested else "")
        + (f" {len(away):,} photos that it names are not in data/ at present." if away else "")
    )
    return photos.assign(label=label.where(photos["split"] != "test", photos["label"]))


def count_splits(paths: Paths) -> dict[str, int]:
    """The photos that `data/split.csv` has in each split, those left out not counted; {} without the file."""
    table = _read_split(paths)
    return table.loc[table["left_out"] == "", "split"].value_counts().to_dict()


def known_sizes(paths: Paths) -> dict[str, int]:
    """The bytes of the photos in `data/split.csv`, by their places below `data/`; {} without the file."""
    return _read_split(paths).set_index("path")["bytes"].to_dict()


def _relative(path: pd.Series, paths: Paths) -> pd.Series:
    return path.str.removeprefix(f"{paths.data.as_posix()}/")


def _loaded(table: pd.DataFrame, paths: Paths) -> pd.DataFrame:
    # in one order, whoever listed the files: a seeded shuffle starts from it
    table = table[["path", "label", "split", "group", "left_out", "source"]].sort_values(
        "path", ignore_index=True
    )
    return table.assign(path=f"{paths.data.as_posix()}/" + table["path"], group=table["group"].astype(int))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read_split(paths: Paths) -> pd.DataFrame:
    if not paths.split.exists():
        return pd.DataFrame(columns=COLUMNS).astype({"bytes": int, "group": int})
    older = [name for name in COLUMNS if name != "source"]  # before 2026-11-27
    table = _read_csv(paths.split, older, optional="source")
    if (unnamed := table["source"] == "").any():
        first, further = datasets(paths)
        table.loc[unnamed, "source"] = table.loc[unnamed, "path"].map(further).fillna(first)
    for name in ("group", "bytes"):
        wrong = ~table[name].str.fullmatch(r"[0-9]{1,15}")  # more would not be a size of any file
        if wrong.any():
            fault = (
                f"has no whole number from 0 up in {name!r} of {printable(table.loc[wrong, 'path'].iloc[0])}"
            )
            raise UserError(f"{paths.split} {fault}; correct the line, or delete the file to split again.")
        table[name] = table[name].astype(int)
    wrong = table[~table["split"].isin(SPLITS) | table["path"].duplicated()]
    if len(wrong):
        row = wrong.iloc[0]
        path = printable(row.path)
        fault = f"puts {path} into {row.split!r}" if row.split not in SPLITS else f"names {path} twice"
        raise UserError(f"{paths.split} {fault}; correct the line: {', '.join(SPLITS)} are the splits.")
    return table


def _read_csv(path: Path, columns: list[str], optional: str | None = None) -> pd.DataFrame:
    """A CSV of text cells, as spreadsheets write it: with commas or semicolons; `optional` may be missing."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as “CSV UTF-8”.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct or delete it.") from None
    head = text.split("\n", 1)[0]
    separator = ";" if head.count(";") > head.count(",") else ","
    # index_col: else a separator at each line's end would shift all columns by one
    options = {"dtype": str, "keep_default_na": False, "quoting": csv.QUOTE_MINIMAL, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of such a separator
            table = pd.read_csv(StringIO(text), sep=separator, **options)
    except ValueError as error:  # pandas' parser errors are of that kind
        raise UserError(f"{path} cannot be read ({str(error).strip()}); correct or delete it.") from None
    if missing := [name for name in columns if name not in table]:
        raise UserError(
            f"{path} lacks the column {missing[0]!r}; its first line must name {', '.join(columns)}."
        )
    columns = [*columns, *filter(None, [optional])]
    # a line that ends early lacks cells
    table = table.reindex(columns=columns).fillna("").astype(str).apply(lambda column: column.str.strip())
    return table[table["path"] != ""].reset_index(drop=True)
