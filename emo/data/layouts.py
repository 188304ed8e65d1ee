"""Which split and class each photo of a source belongs to: the layouts in which datasets are handed out."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from emo.data.archives import Member
from emo.data.manifest import check_class_names, is_photo
from emo.data.vocabulary import SPLITS, is_emotion, is_part, named_classes, split_of
from emo.errors import UserError
from emo.files import is_junk

WANTED = "it must hold train/<class>/ or <class>/ folders with photos"
UNLABELLED = "test_kaggle"
FOLDERS = (*SPLITS, UNLABELLED)


class Placed(NamedTuple):
    """A photo with its split, its class ("" where it has none) and its path below the class folder."""

    split: str
    label: str
    rest: str
    member: Member


@dataclass
class Layout:
    """The photos of a source in their places, what is left out (photos by folder), and what to tell of it."""

    placed: list[Placed] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    lists: tuple[str, ...] = ()  # the paths of those that label the photos
    bare: bool = False  # nothing says that the folders are classes: there is no train/ and no list of labels


class Plan(NamedTuple):
    """The photos by their place below `data/`, such as `train/happy/1.jpg`, and sentences about them."""

    photos: dict[str, Member]
    notes: list[str]


def visible(members: Iterable[Member]) -> list[Member]:
    """The files that are neither hidden nor what a system leaves behind, nor in such folders."""
    return [member for member in members if member.path and not any(map(is_junk, parts_of(member)))]


def photos_among(members: Iterable[Member]) -> list[Member]:
    """The files with a photo's name."""
    return [member for member in members if is_photo(Path(member.path))]


def parts_of(member: Member) -> list[str]:
    """The folders and the name in a member's path."""
    return [part for part in member.path.split("/") if part not in ("", ".")]


# ---------------------------------------------------------------- folders


def by_folders(photos: list[Member], name: str) -> Layout:
    """Train, val and test folders of any usual name with class folders, or class folders alone.

    Both may lie below other folders; class folders may hold the splits as well (`happy/train/1.jpg`). Raises
    UserError where that does not tell one class for each photo.
    """
    roots = _roots(photos)
    complete = {root for root, splits in roots.items() if "train" in splits}
    if not complete:
        if roots:
            folders = parts_of(next(photo for photo in photos if any(map(split_of, parts_of(photo)[:-1]))))
            found = next(filter(split_of, folders))
            raise UserError(f"{name} has {found}/ but no train/ beside it; {WANTED}.")
        return _by_classes(photos, _single_folder(photos), name)
    depth = min(map(len, complete))
    highest = sorted(root for root in complete if len(root) == depth)
    if len(highest) == 1:
        return _by_splits(photos, highest[0], name)
    if depth and len({root[:-1] for root in highest}) == 1 and any(is_emotion(root[-1]) for root in highest):
        return _by_classes_with_splits(photos, depth, name)
    shown = ", ".join("/".join(root) for root in highest[:3])
    raise UserError(
        f"{name} holds {len(highest)} datasets ({shown}); give one of these folders as the source."
    )


def _roots(photos: Iterable[Member]) -> dict[tuple[str, ...], set[str]]:
    """The folders that have a split's folder in them, and which splits."""
    roots = defaultdict(set)
    for photo in photos:
        folders = parts_of(photo)[:-1]
        for depth, folder in enumerate(folders):
            if split := split_of(folder):
                roots[tuple(folders[:depth])].add(split)
    return roots


def _single_folder(photos: Iterable[Member]) -> int:
    """How deep the photos' folders begin to differ."""
    depth = 0
    while True:
        folders = {folders[depth] for photo in photos if len(folders := parts_of(photo)[:-1]) > depth}
        if len(folders) != 1:
            return depth
        depth += 1


def _by_splits(photos: list[Member], root: tuple[str, ...], name: str) -> Layout:
    """The folders train/, val/ and test/ below `root`, however they are called."""
    layout, depth = Layout(), len(root)
    below, spelled = {split: [] for split in FOLDERS}, {split: {} for split in FOLDERS}
    for photo in photos:
        parts = parts_of(photo)
        inside = tuple(parts[:depth]) == root and len(parts) > depth + 1
        folder = parts[depth] if inside else ""
        split = UNLABELLED if folder.lower() == UNLABELLED else split_of(folder)
        if split:
            below[split].append((parts[depth + 1 :], photo))
            spelled[split][folder.casefold()] = folder
        else:
            layout.left_out["/".join(parts[: depth + 1] if inside else parts[:-1]) or "no folder"] += 1
    for split, folders in spelled.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder}/" for folder in folders.values())
            raise UserError(f"{name} has {both}, which both mean {split}; put all of it into one of them.")
    classes = {parts[0].casefold() for parts, _ in _without_wrappers(below["train"]) if len(parts) > 1}
    for split, entries in below.items():
        entries = entries if split == UNLABELLED else _without_wrappers(entries)
        if split == "test" and entries and not _has_classes(entries, classes):
            shown = next(iter(spelled["test"].values()))
            layout.notes.append(
                f"The {len(entries):,} photos in {shown} have no class folders: they go to {UNLABELLED}."
            )
            split = UNLABELLED
        for parts, photo in entries:
            if split == UNLABELLED:
                layout.placed.append(Placed(split, "", "/".join(parts), photo))
            elif len(parts) < 2:
                raise UserError(f"{name} has {'/'.join(parts_of(photo))!r} in no class folder; {WANTED}.")
            else:
                layout.placed.append(Placed(split, parts[0], "/".join(parts[1:]), photo))
    return layout


def _without_wrappers(entries: list) -> list:
    """The entries without folders that all of them share above their classes, as in train/images/<class>."""
    while entries and min(len(parts) for parts, _ in entries) > 2:
        folders = {parts[0] for parts, _ in entries}
        if len(folders) > 1 or is_emotion(*folders):
            break
        entries = [(parts[1:], photo) for parts, photo in entries]
    return entries


def _has_classes(entries: list, classes: Collection[str]) -> bool:
    """Whether photos to test on lie in class folders: not in none, and not all in one that is not a class."""
    folders = {parts[0].casefold() if len(parts) > 1 else "" for parts, _ in entries}
    return folders != {""} and (len(folders) > 1 or bool(folders & classes))


def _by_classes(photos: list[Member], depth: int, name: str) -> Layout:
    """Class folders with photos at `depth`."""
    layout = Layout(bare=True)
    for photo in photos:
        parts = parts_of(photo)
        if len(parts) < depth + 2:
            layout.left_out["/".join(parts[:-1]) or "no folder"] += 1  # lies beside the folders
        elif len(parts) > depth + 2:
            raise UserError(f"{name} has {'/'.join(parts)!r}, too deep for <class>/<photo>; {WANTED}.")
        else:
            layout.placed.append(Placed("train", parts[depth], parts[-1], photo))
    return layout


def _by_classes_with_splits(photos: list[Member], depth: int, name: str) -> Layout:
    """Splits within classes: <class>/train/<photo>."""
    layout = Layout()
    for photo in photos:
        parts = parts_of(photo)
        split = split_of(parts[depth]) if len(parts) > depth + 1 else None
        if split:
            layout.placed.append(Placed(split, parts[depth - 1], "/".join(parts[depth + 1 :]), photo))
        else:
            layout.left_out["/".join(parts[:-1]) or "no folder"] += 1
    return layout


# ---------------------------------------------------------------- what comes of it


def plan(layout: Layout, name: str) -> Plan:
    """Where each photo goes. Raises UserError for classes and names that `data/` cannot have.

    Numbered classes get their dataset's names, and the classes of val and test are spelled as train's.
    """
    labels = {split: {} for split in FOLDERS}
    for photo in layout.placed:
        labels[photo.split].setdefault(photo.label)
    check_class_names(labels["train"], name)
    if len(labels["train"]) < 2:
        raise UserError(f"{name} has fewer than two class folders for training; {WANTED}.")
    hints = {Path(name).name, *layout.lists, *(parts_of(photo.member)[-1] for photo in layout.placed[:1])}
    hints |= {part for photo in layout.placed for part in parts_of(photo.member)[:-1]}
    named, note = named_classes({*labels["train"], *labels["val"], *labels["test"]}, " ".join(hints))
    _check_are_classes(list(labels["train"]), layout.bare and not named, name)
    spelled = _spelled_alike(labels, name) | named
    photos, known = {}, {}
    for split, label, rest, member in layout.placed:
        parts = [part for part in (split, spelled.get(label, label), *rest.split("/")) if part]
        _claim(parts, photos, known, name)
        photos["/".join(parts)] = member
    notes = [*layout.notes, note] if note else layout.notes
    if layout.left_out:
        shown = ", ".join(f"{folder} ({count:,})" for folder, count in layout.left_out.most_common(8))
        notes = [*notes, f"Left out {sum(layout.left_out.values()):,} photos: {shown}."]
    return Plan(photos, notes)


def _check_are_classes(labels: list[str], bare: bool, name: str) -> None:
    """Raises UserError for folders that may be parts of one set of photos as well as classes."""
    parts = [label for label in labels if is_part(label)]
    if parts and (bare or len(parts) == len(labels)):
        raise UserError(
            f"{name} has the folder {parts[0]!r}, which reads like a part of a dataset and not like a class; "
            "take it out, or rename it if all its photos are of one class."
        )
    if bare and not any(map(is_emotion, labels)):
        shown = ", ".join(map(repr, labels[:5]))
        raise UserError(
            f"{name} has the folders {shown}, and nothing tells whether these are classes; if they are, put "
            "them below a folder named train, else sort the photos into one folder per class."
        )


def _spelled_alike(labels: dict[str, dict[str, None]], name: str) -> dict[str, str]:
    """The spelling in train of the classes of val and test; UserError for one that train lacks."""
    by_case = {label.casefold(): label for label in labels["train"]}
    spelled = {}
    for split in ("val", "test"):
        for label in labels[split]:
            if label not in labels["train"]:
                spelled[label] = by_case.get(label.casefold())
                if not spelled[label]:
                    raise UserError(
                        f"{name} has {split}/{label} but no train/{label}; add that or take it out."
                    )
    return spelled


def _claim(parts: list[str], photos: Collection[str], known: dict[str, str], name: str) -> None:
    """Raises UserError where a disk without upper and lower case would hold another file in that place."""
    place = ""
    for part in parts:
        place = f"{place}/{part}" if place else part
        other = known.setdefault(place.casefold(), place)
        if other != place or place in photos:
            fault = f"has both {other!r} and {place!r}, one and the same file on many disks"
            raise UserError(f"{name} {fault}; rename one and make it again.")
    if len(place.encode(errors="replace")) > 1000 or any(
        len(part.encode(errors="replace")) > 255 for part in parts
    ):
        raise UserError(f"{name} has a path that is too long for a disk ({place[:60]}…); shorten it.")
