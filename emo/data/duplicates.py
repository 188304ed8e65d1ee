"""What is wrong with a data set: the same photo twice, in two classes, in training and in test."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from emo.data.manifest import THUMBNAIL

# Chosen on one half of 1,000 FER2013 photos, tested on the other: `python -m tools.bench.duplicates`.
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


def example_pairs(groups: pd.DataFrame, count: int = 16) -> pd.DataFrame:
    """Rows of `find_duplicates` to show side by side: two neighbours a pair, one pair a group, `count` pairs.

    Pairs with two labels come first, then those across splits.
    """
    pairs = groups.merge(groups.drop_duplicates("group"), on="group", suffixes=("", "_first"))
    pairs = pairs[pairs["path"] != pairs["path_first"]]
    pairs["labels"] = pairs["label"] != pairs["label_first"]
    pairs["splits"] = pairs["split"] != pairs["split_first"]
    pairs = pairs.sort_values(["labels", "splits"], ascending=False, kind="stable").drop_duplicates("group")
    order = pairs[["path_first", "path"]].head(count).to_numpy().ravel()
    return groups.set_index("path").loc[order].reset_index()


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
    contrast = [pixels[part].std(axis=(1, 2), dtype=np.float32) for part in _parts(len(pixels))]
    varied = np.flatnonzero(np.concatenate(contrast) >= CONTRAST)
    if len(varied) < 2:
        return np.empty((0, 2), int)
    pixels = pixels[varied]
    plain, mirrored = (
        np.array([int(code, 16) for code in photos[column].iloc[varied]], np.uint64)
        for column in ("phash", "phash_mirrored")
    )
    whole = np.empty((len(pixels), DETAIL**2), np.float32)
    for part in _parts(len(pixels)):
        whole[part] = _normalized(_views(pixels[part], WHOLE)[:, 0])
    rows = max(1, 2**18 // len(plain))  # keeps what is compared at a time within a processor's cache

    def candidates(start: int) -> list[np.ndarray]:
        """(n, 3) of first photo, second photo, and whether the second is mirrored."""
        found = []
        for mirror, codes in enumerate((plain, mirrored)):
            apart = np.bitwise_count(plain[start : start + rows, None] ^ codes[None, start:])
            first, second = np.divmod(np.flatnonzero(apart <= distance), len(plain) - start)
            first, second = (first + start)[second > first], (second + start)[second > first]
            views = _turned(whole[second]) if mirror else whole[second]
            alike = np.einsum("ij,ij->i", whole[first], views) >= ROUGH_LIKENESS
            found.append(np.column_stack((first, second, np.full(len(first), mirror)))[alike])
        return found

    def same(part: slice) -> np.ndarray:
        """Whether one photo of a pair correlates with a crop of the other."""
        first, second, mirror = pairs[part].T
        here, there = pixels[first], pixels[second]
        there[mirror == 1] = there[mirror == 1, :, ::-1]
        views = whole[second]
        views[mirror == 1] = _turned(views[mirror == 1])
        best = np.maximum(_best_crop(here, views), _best_crop(there, whole[first]))
        return best >= likeness

    with ThreadPoolExecutor() as pool:  # NumPy lets go of Python's lock
        starts = range(0, len(plain), rows)
        found = tqdm(pool.map(candidates, starts), "comparing photos", len(starts))
        pairs = np.concatenate([np.empty((0, 3), int), *(pairs for some in found for pairs in some)])
        parts = _parts(len(pairs))
        found = tqdm(pool.map(same, parts), "checking candidates", len(parts))
        chosen = np.concatenate([np.empty(0, bool), *found])
    return varied[pairs[chosen, :2]]


def _best_crop(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) highest correlation of a photo or one of its crops with another, which is normalized."""
    best = np.full(len(pixels), -1, np.float32)
    for resampling in (WHOLE, *CROPPED):
        views = _views(pixels, resampling)
        products = np.matmul(views, others[:, :, None])[..., 0]
        variance = np.einsum("nvd,nvd->nv", views, views) - DETAIL**2 * views.mean(axis=-1) ** 2
        best = np.maximum(best, (products / np.sqrt(np.maximum(variance, 1e-6))).max(axis=1))
    return best


def _parts(count: int, size: int = 128) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _resampling(*crops: tuple[float, float]) -> np.ndarray:
    """(crops · DETAIL, THUMBNAIL): what makes a line of DETAIL pixels from each (start, share) of a line."""
    identity = Image.fromarray(np.eye(THUMBNAIL, dtype=np.float32))
    ends = [(start * THUMBNAIL, (start + share) * THUMBNAIL) for start, share in crops]
    lines = [
        identity.resize((DETAIL, THUMBNAIL), Image.Resampling.BILINEAR, box=(start, 0, end, THUMBNAIL))
        for start, end in ends
    ]
    return np.concatenate([np.asarray(line).T for line in lines])


WHOLE = _resampling((0, 1))
CROPPED = [_resampling(*((place * crop, 1 - crop) for place in (0, 0.5, 1))) for crop in CROPS]


def _views(pixels: np.ndarray, resampling: np.ndarray) -> np.ndarray:
    """(n, crops², DETAIL²) float32 of (n, THUMBNAIL, THUMBNAIL): each crop of columns with each of rows.

    A product a photo, as one large product would start BLAS threads that fight with ours.
    """
    count, crops = len(pixels), len(resampling) // DETAIL
    across = np.ascontiguousarray(pixels.astype(np.float32).transpose(0, 2, 1))
    views = np.matmul(np.matmul(resampling, across), resampling.T)
    views = views.reshape(count, crops, DETAIL, crops, DETAIL).transpose(0, 1, 3, 2, 4)  # columns come first
    return views.reshape(count, crops**2, DETAIL**2)


def _turned(views: np.ndarray) -> np.ndarray:
    """(n, DETAIL²) of the mirrored photos."""
    return views.reshape(-1, DETAIL, DETAIL)[:, ::-1].reshape(-1, DETAIL**2)


def _normalized(views: np.ndarray) -> np.ndarray:
    """Of mean 0 and length 1, so that a product of two is their correlation."""
    views = views - views.mean(axis=-1, keepdims=True)
    return views / np.maximum(np.linalg.norm(views, axis=-1, keepdims=True), 1e-6)
