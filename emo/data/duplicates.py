"""What is wrong with a dataset: the same photo twice, in two classes, in training and in test."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from emo.data.geometry import resampling_matrix
from emo.data.image_io import thread_pool
from emo.data.manifest import THUMBNAIL

# Chosen on one half of 1,000 FER2013 photos, tested on the other: `python -m tools.bench.duplicates`.
# DEVIATION is the strictest that changes nothing there; it was chosen on aligned faces (AffectNet), where
# LIKENESS alone put 2,309 of 6,000 into one group.
DISTANCE = 14  # of 64 hash bits: above it, a pair is not looked at
LIKENESS = 0.965  # correlation of two thumbnails, laid over each other as well as a crop may need
ROUGH_LIKENESS = 0.85  # the same before a crop is tried
DEVIATION = 0.94  # correlation of what sets the two apart from the mean photo: aligned faces are all alike
CONTRAST = 2.0  # grey levels of standard deviation; flatter pictures are all alike
CROPS = (0.03, 0.06)  # shares of width and height that a copy may lack
DETAIL = 16  # pixels a side that are compared
SHORT = 15  # coordinates that rule most pairs out; with one more they fill a processor's cache line
MANY = 1000  # pairs that are linked at once: linking goes over all photos
TILE = 2**15  # hashes that are compared at a time: they fit a processor's cache
SAMPLE = 1000  # photos that the mean photo is made of


def find_duplicates(
    manifest: pd.DataFrame, near: bool = True, distance: int = DISTANCE, likeness: float = LIKENESS
) -> pd.DataFrame:
    """The photos that have a duplicate or near-duplicate, one row each; copies of one photo share a number.

    `manifest` is that of `scan_dataset`, of any folders, with a column split where there are several.
    Columns: group (1, 2, …), path, label, split ("" without that column), kind ("identical" where another
    file has the same bytes, else "near": resized, recompressed, mirrored or slightly cropped) and sha256.
    `near=False` finds identical files alone. `distance` is in bits of 64, `likeness` a correlation (0…1).
    Where the photos are much alike, as aligned faces are, a copy must also share what sets it apart from
    their mean (DEVIATION). Python's threads use all cores; memory is about 3 kB per photo.
    """
    photos = manifest[manifest["problem"] == ""].sort_values("path", ignore_index=True)
    if "split" not in photos:
        photos["split"] = ""
    content, _ = pd.factorize(photos["sha256"])
    group = content
    if near and len(photos):
        different = photos.drop_duplicates("sha256", ignore_index=True)  # in the order of `content`
        group = _near_components(different, distance, likeness)[content]
    photos["group"] = group
    photos["kind"] = np.where(photos["sha256"].duplicated(keep=False), "identical", "near")
    groups = photos[photos["group"].duplicated(keep=False)].copy()
    groups["group"] = pd.factorize(groups["group"])[0] + 1
    columns = ["group", "path", "label", "split", "kind", "sha256"]
    return groups.sort_values(["group", "path"], ignore_index=True)[columns]


def summarize_duplicates(groups: pd.DataFrame) -> pd.DataFrame:
    """Counts over `find_duplicates`: of identical files (first row), and with near-duplicates (second)."""
    identical = groups[groups["kind"] == "identical"]
    return pd.DataFrame(
        [_counts(identical, "sha256"), _counts(groups, "group")], index=["identical", "identical or near"]
    )


def example_pairs(groups: pd.DataFrame, count: int = 16) -> pd.DataFrame:
    """Rows of `find_duplicates` to show side by side, two neighbours per pair: `count` pairs, one per group.

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
        "test files with a duplicate in training": len(_duplicated_in_training(files, by)),
    }


def _duplicated_in_training(files: pd.DataFrame, by: str) -> pd.DataFrame:
    trained = files.loc[files["split"] == "train", by]
    return files[(files["split"] == "test") & files[by].isin(trained)]


def _near_components(photos: pd.DataFrame, distance: int, likeness: float) -> np.ndarray:
    """(n,) a number each of `photos`, the same where pairs that look the same connect them."""
    component = np.arange(len(photos))
    pixels = np.frombuffer(b"".join(photos["thumbnail"]), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)
    contrast = [pixels[part].std(axis=(1, 2), dtype=np.float32) for part in _parts(len(pixels))]
    varied = np.flatnonzero(np.concatenate(contrast) >= CONTRAST)
    parts = _parts(len(varied))
    # NumPy lets go of Python's lock; threads of BLAS would fight with these
    with threadpool_limits(1, "blas"), thread_pool() as pool:
        if len(varied) > 1:
            search = _Search(pixels[varied], distance, likeness, pool)
            for _ in tqdm(pool.map(search.compare, parts), "comparing photos", len(parts)):
                pass
            component[varied] = varied[search.component]
    return component


class _Search:
    """Lays every photo's crops over every other photo, plain and mirrored; cheap tests come first.

    1. Their hashes differ in `distance` bits at most: about a nanosecond per pair.
    2. They are not linked yet: frames of one video are compared with one another once, not all with all.
    3. An upper bound of their correlation, from few numbers per photo: it loses no pair.
    4. The correlations, of the photos and of their deviations from the mean photo.
    """

    def __init__(self, pixels: np.ndarray, distance: int, likeness: float, pool: ThreadPoolExecutor):
        self.pixels, self.distance, self.likeness = pixels, distance, likeness
        self.deviation = min(DEVIATION, likeness)
        self.component, self.linking = np.arange(len(pixels)), threading.Lock()
        described = pool.map(_described, (pixels[part] for part in _parts(len(pixels))))
        described = tqdm(described, "describing photos", len(_parts(len(pixels))))
        hashes, whole = zip(*described, strict=True)
        self.codes = np.concatenate(hashes, axis=1).ravel()
        self.whole = np.concatenate(whole)
        self.mean = _mean_photo(self.whole, likeness)
        self.basis = _basis(_unit(_sample(self.whole) - self.mean))
        turns = (np.asarray, _turned)
        shorts = [self._shorten(_unit(turn(part) - self.mean)) for turn in turns for part in whole]
        self.short = np.concatenate(shorts)

    def compare(self, part: slice) -> None:
        """Links each photo in `part` with those that look like one of its crops."""
        crops = [_views(self.pixels[part], resampling) for resampling in (WHOLE, *CROPPED)]
        crops = _normalized(np.concatenate(crops, axis=1))
        deviations = _unit(crops - self.mean)
        found = []
        views = zip(crops, deviations, self._shorten(deviations), strict=True)
        for photo, some in enumerate(views, part.start):
            found.append(self._alike(photo, *some))
            if sum(map(len, found)) > MANY:
                self._link(np.concatenate(found))
                found.clear()
        if found:
            self._link(np.concatenate(found))

    def _link(self, pairs: np.ndarray) -> None:
        """Makes one component of those that the pairs (n, 2) connect, numbered as the first in it."""
        with self.linking:
            first, second = self.component[pairs].T
            new = first != second
            if new.any():
                links = coo_array((new[new], (first[new], second[new])), shape=(len(self.component),) * 2)
                label = connected_components(links, directed=False)[1]
                self.component = np.unique(label, return_index=True)[1][label[self.component]]

    def _alike(self, photo: int, crops: np.ndarray, deviations: np.ndarray, shorts: np.ndarray) -> np.ndarray:
        """(n, 2) of the photo and those that look like one of its crops, but for linked ones."""
        code, tiles = self.codes[photo], _parts(len(self.codes), TILE)
        apart = np.concatenate([np.bitwise_count(self.codes[tile] ^ code) for tile in tiles])
        near = np.flatnonzero(apart <= self.distance)
        component, count = self.component, len(self.whole)
        near = near[component[near % count] != component[photo]]
        bound = (shorts @ self.short.take(near, axis=0, mode="clip").T).max(axis=0)  # "clip" is the fast one
        near = near[bound >= self.deviation - ROUNDING]
        same = [self._same(near[part], crops, deviations) for part in _parts(len(near))]
        others = near[np.concatenate([np.empty(0, bool), *same])] % count
        return np.column_stack((np.full(len(others), photo), others))

    def _same(self, others: np.ndarray, crops: np.ndarray, deviations: np.ndarray) -> np.ndarray:
        """(n,) whether one of `crops` looks like each of `others`, which count mirrored photos last."""
        mirrored, index = np.divmod(others, len(self.whole))
        views = self.whole[index]
        views[mirrored == 1] = _turned(views[mirrored == 1])
        correlation = views @ crops.T
        same = correlation >= self.likeness
        same &= _unit(views - self.mean) @ deviations.T >= self.deviation
        return same.any(axis=1) & (correlation[:, 0] >= ROUGH_LIKENESS)

    def _shorten(self, units: np.ndarray) -> np.ndarray:
        """(…, SHORT + 1) of unit vectors (…, DETAIL²): some coordinates, and the length of what these lack.

        By Cauchy and Schwarz the product of two is no smaller than that of the vectors.
        """
        some = units @ self.basis
        lacking = 1 - np.einsum("...d,...d->...", some, some)
        return np.concatenate((some, np.sqrt(np.maximum(lacking, 0))[..., None]), axis=-1)


def _described(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, n) hashes of the photos and of the same mirrored, and (n, DETAIL²) normalized pictures."""
    return _hashes(pixels), _normalized(_views(pixels, WHOLE)[:, 0])


def _hashes(pixels: np.ndarray) -> np.ndarray:
    """(2, n) uint64: the perceptual hash, bit for bit imagehash's `phash`, of each photo and mirrored photo.

    For many photos at once, as imagehash takes longer for one than decoding it.
    """
    larger = [Image.fromarray(photo).resize((32, 32), Image.Resampling.LANCZOS) for photo in pixels]
    low = WAVES @ np.stack(larger).astype(float) @ WAVES.T
    both = np.stack((low, low * (-1.0) ** np.arange(8)))  # mirroring turns the sign of each odd wave
    both = both.reshape(2, -1, 64)
    bits = both > np.median(both, axis=-1, keepdims=True)
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def _sample(photos: np.ndarray) -> np.ndarray:
    return photos[:: -(-len(photos) // SAMPLE)]


def _mean_photo(whole: np.ndarray, likeness: float) -> np.ndarray:
    """(DETAIL²,) the mean of different photos, near 0 where there are few.

    Else the frames of one scene would be their own mean, and their deviations from it noise.
    """
    photos = _sample(whole)
    photos = photos[~np.triu(photos @ photos.T >= likeness, 1).any(axis=0)]
    mean = photos.sum(axis=0) / (len(photos) + 10)  # so that no photo makes up more than 1/11
    return (mean + _turned(mean)[0]) / 2  # mirrored copies are compared with the same one


def _basis(units: np.ndarray) -> np.ndarray:
    """(DETAIL², SHORT) orthonormal: along these directions the photos, also mirrored, differ most."""
    units = np.concatenate((units, _turned(units)))
    return np.linalg.eigh(units.T @ units)[1][:, -SHORT:]


def _parts(count: int, size: int = 128) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


ROUNDING = 1e-4  # of products of float32
WAVES = dct(np.eye(32), axis=0)[:8]
# (crops · DETAIL, THUMBNAIL): what makes a line of DETAIL pixels of each crop of a line
WHOLE = resampling_matrix(THUMBNAIL, DETAIL)
CROPPED = [
    np.concatenate([resampling_matrix(THUMBNAIL, DETAIL, place * crop, 1 - crop) for place in (0, 0.5, 1)])
    for crop in CROPS
]


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
    return _unit(views - views.mean(axis=-1, keepdims=True))


def _unit(views: np.ndarray) -> np.ndarray:
    return views / np.maximum(np.linalg.norm(views, axis=-1, keepdims=True), 1e-6)
