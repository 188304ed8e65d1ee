"""What is wrong with a data set: the same photo twice, in two classes, in training and in test."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from emo.dataset import THUMBNAIL

# Chosen on one half of 1,000 FER2013 photos, tested on the other: `python -m tools.bench_quality`.
DISTANCE = 14  # of 64 hash bits: above it, a pair is not looked at
LIKENESS = 0.965  # correlation of two thumbnails, laid over each other as well as a crop may need
ROUGH_LIKENESS = 0.85  # the same before a crop is tried, to try few
CONTRAST = 2.0  # grey levels of standard deviation; flatter pictures are all alike
CROPS = (0.03, 0.06)  # shares of width and height that a copy may lack
DETAIL = 16  # pixels a side that are compared


def find_duplicates(
    manifest: pd.DataFrame, near: bool = True, distance: int = DISTANCE, likeness: float = LIKENESS
) -> pd.DataFrame:
    """The photos that have a twin, one row each, twins of one another under one number.

    `manifest` is that of `scan_dataset`, of any folders, with a column split where there are several.
    Columns: group (1, 2, …), path, label, split ("" without that column), kind ("identical" where another
    file has the same bytes, else "near": resized, recompressed, mirrored or slightly cropped) and sha256.
    `near=False` finds identical files alone. `distance` is in bits of 64, `likeness` a correlation (0…1).
    """
    photos = manifest[manifest["problem"] == ""].sort_values("path", ignore_index=True)
    if "split" not in photos:
        photos["split"] = ""
    content, _ = pd.factorize(photos["sha256"])
    group = content
    if near and len(photos):
        different = photos.drop_duplicates("sha256", ignore_index=True)  # in the order of `content`
        first, second = _near_pairs(different, distance, likeness).T
        links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(different),) * 2)
        group = connected_components(links, directed=False)[1][content]
    photos["group"] = group
    photos["kind"] = np.where(photos["sha256"].duplicated(keep=False), "identical", "near")
    groups = photos[photos["group"].duplicated(keep=False)].copy()
    groups["group"] = pd.factorize(groups["group"])[0] + 1
    columns = ["group", "path", "label", "split", "kind", "sha256"]
    return groups.sort_values(["group", "path"], ignore_index=True)[columns]


def summarize_duplicates(groups: pd.DataFrame) -> pd.DataFrame:
    """Counts over `find_duplicates`: of identical files alone (first row), and with near copies (second)."""
    identical = groups[groups["kind"] == "identical"]
    return pd.DataFrame(
        [_counts(identical, "sha256"), _counts(groups, "group")], index=["identical", "identical or near"]
    )


def leaked(groups: pd.DataFrame) -> pd.DataFrame:
    """The rows of `find_duplicates` that are test files with a twin in training."""
    return _with_twin_in_training(groups, "group")


def _counts(files: pd.DataFrame, by: str) -> dict[str, int]:
    groups = files.groupby(by)
    return {
        "groups": groups.ngroups,
        "files": len(files),
        "groups across splits": int((groups["split"].nunique() > 1).sum()),  # noqa: PD101
        "groups with conflicting labels": int((groups["label"].nunique() > 1).sum()),  # noqa: PD101
        "test files with a twin in train": len(_with_twin_in_training(files, by)),
    }


def _with_twin_in_training(files: pd.DataFrame, by: str) -> pd.DataFrame:
    trained = files.loc[files["split"] == "train", by]
    return files[(files["split"] == "test") & files[by].isin(trained)]


def _near_pairs(photos: pd.DataFrame, distance: int, likeness: float) -> np.ndarray:
    """(n, 2) positions in `photos` of pairs that look the same, perhaps mirrored or slightly cropped."""
    pixels = np.frombuffer(b"".join(photos["thumbnail"]), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)
    varied = np.flatnonzero(pixels.std(axis=(1, 2), dtype=np.float32) >= CONTRAST)
    if len(varied) < 2:
        return np.empty((0, 2), int)
    pixels = pixels[varied]
    plain, mirrored = (
        np.array([int(code, 16) for code in photos[column].iloc[varied]], np.uint64)
        for column in ("phash", "phash_mirrored")
    )
    whole = _normalized(_cut(pixels, CUTS[:1]))[:, 0]
    turned = _normalized(_cut(pixels[:, :, ::-1], CUTS[:1]))[:, 0]

    def candidates(start: int) -> list[np.ndarray]:
        """(n, 3) of first photo, second photo, and whether the second is mirrored."""
        found = []
        for mirror, (codes, views) in enumerate(((plain, whole), (mirrored, turned))):
            apart = np.bitwise_count(plain[start : start + rows, None] ^ codes[None, start:])
            first, second = np.divmod(np.flatnonzero(apart <= distance), len(plain) - start)
            first, second = (first + start)[second > first], (second + start)[second > first]
            for part in _parts(len(first)):
                alike = np.einsum("ij,ij->i", whole[first[part]], views[second[part]]) >= ROUGH_LIKENESS
                pairs = np.column_stack((first[part][alike], second[part][alike]))
                found.append(np.insert(pairs, 2, mirror, axis=1))
        return found

    rows = max(1, 2**19 // len(plain))  # keeps what is compared at a time within a processor's cache
    with ThreadPoolExecutor() as pool:  # NumPy lets go of Python's lock
        starts = range(0, len(plain), rows)
        found = tqdm(pool.map(candidates, starts), "comparing photos", len(starts))
        pairs = np.concatenate([np.empty((0, 3), int), *(pairs for some in found for pairs in some)])
        parts = _parts(len(pairs))
        same = pool.map(lambda part: _same(pixels, pairs[part], likeness), parts)
        same = np.concatenate([*tqdm(same, "checking candidates", len(parts)), np.empty(0, bool)])
    return varied[pairs[same, :2]]


def _parts(count: int, size: int = 256) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _same(pixels: np.ndarray, pairs: np.ndarray, likeness: float) -> np.ndarray:
    """Whether one photo of a pair correlates with a crop of the other."""
    first, second, mirror = pairs.T
    others = np.where(mirror[:, None, None] == 1, pixels[second][:, :, ::-1], pixels[second])
    first, second = _normalized(_cut(pixels[first], CUTS)), _normalized(_cut(others, CUTS))
    one = np.einsum("ikd,id->ik", first, second[:, 0]).max(axis=1)
    other = np.einsum("ikd,id->ik", second, first[:, 0]).max(axis=1)
    return np.maximum(one, other) >= likeness


def _cuts() -> list[tuple[np.ndarray, np.ndarray]]:
    """The whole and its crops, each as the two matrices that resample rows and columns to DETAIL pixels."""
    identity = Image.fromarray(np.eye(THUMBNAIL, dtype=np.float32))

    def resampling(start: float, share: float) -> np.ndarray:
        box = (0, start * THUMBNAIL, THUMBNAIL, (start + share) * THUMBNAIL)
        return np.asarray(identity.resize((THUMBNAIL, DETAIL), Image.Resampling.BILINEAR, box=box))

    cuts = [(resampling(0, 1), resampling(0, 1))]
    for crop in CROPS:
        places = [resampling(place * crop, 1 - crop) for place in (0, 0.5, 1)]
        cuts += [(rows, columns) for rows in places for columns in places]
    return cuts


CUTS = _cuts()


def _cut(pixels: np.ndarray, cuts: list) -> np.ndarray:
    """(n, cuts, DETAIL²) float32 of (n, THUMBNAIL, THUMBNAIL)."""
    pixels = pixels.astype(np.float32)
    views = [(rows @ pixels @ columns.T).reshape(len(pixels), -1) for rows, columns in cuts]
    return np.stack(views, axis=1)


def _normalized(views: np.ndarray) -> np.ndarray:
    """Of mean 0 and length 1, so that a product of two is their correlation."""
    views = views - views.mean(axis=-1, keepdims=True)
    return views / np.maximum(np.linalg.norm(views, axis=-1, keepdims=True), 1e-6)
