"""Measures the search for duplicates: `python -m tools.bench.duplicates --dataset DIR`.

DIR holds train/, val/ and test/ with a folder per class, such as FER2013's. Printed are the duplicates in it;
recall and false pairs on copies made from 1,000 of its photos that have no identical file, thresholds chosen
on one half and reported on the other; speed and memory on 3,000 and 30,000 of its photos, and on 3,000,
30,000 and 100,000 generated ones, each in its own process. `--speed` prints the last part alone.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image, ImageOps

from emo.data.duplicates import DISTANCE, LIKENESS, find_duplicates, summarize_duplicates
from emo.data.manifest import scan_dataset
from emo.paths import PROJECT_ROOT

PHOTOS = 1000
SIZES = (3_000, 30_000)
GENERATED = (3_000, 30_000, 100_000)
GENERATED_SIDE = 80  # pixels


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Cuts `share` of the width and of the height away, at a random place."""

    def crop(image: Image.Image) -> Image.Image:
        width, height = (round(side * (1 - share)) for side in image.size)
        left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
        return image.crop((left, top, left + width, top + height))

    return crop


CHANGES = {  # of the picture, and the JPEG quality of the copy
    "resized to 75%": (lambda image: image.resize([round(side * 0.75) for side in image.size]), 90),
    "recompressed, q50": (lambda image: image, 50),
    "mirrored": (ImageOps.mirror, 90),
    "cropped by 3%": (cropped(0.03), 90),
    "cropped by 6%": (cropped(0.06), 90),
}


def scan_splits(dataset: Path) -> pd.DataFrame:
    """The manifest of the folders train, val and test that are there."""
    folders = [dataset / name for name in ("train", "val", "test") if (dataset / name).is_dir()]
    return pd.concat([scan_dataset(folder).assign(split=folder.name) for folder in folders])


def halves(manifest: pd.DataFrame, folder: Path) -> list[tuple[pd.DataFrame, dict[str, pd.DataFrame]]]:
    """Twice 500 photos without an identical file, each with the manifests of its changed copies."""
    random.seed(0)
    alone = manifest[(manifest["problem"] == "") & ~manifest["sha256"].duplicated(keep=False)]
    chosen = random.sample(sorted(alone["path"]), PHOTOS)
    parts = []
    for paths in (chosen[: PHOTOS // 2], chosen[PHOTOS // 2 :]):
        copies = {}
        for name, (change, quality) in CHANGES.items():
            place = folder / f"{len(parts)} {name}"
            place.mkdir()
            for index, path in enumerate(paths):
                with Image.open(path) as image:
                    change(image).save(place / f"{index:04d}.jpg", quality=quality)
            copies[name] = scan_dataset(place)
        parts.append((manifest.set_index("path").loc[paths].reset_index(), copies))
    return parts


def near_copies(originals: pd.DataFrame, copies: dict[str, pd.DataFrame], **thresholds) -> dict[str, str]:
    """The recall of each change, and how many pairs of different photos were taken for one."""
    result = {}
    for name, changed in copies.items():
        both = pd.concat([originals, changed], ignore_index=True)
        both["photo"] = list(range(len(originals))) * 2
        groups = find_duplicates(both, **thresholds).merge(both[["path", "photo"]], on="path")
        together = groups.groupby(["group", "photo"]).size()
        found = int((together == 2).sum())
        result[name] = f"{found / len(originals):.1%}"
        wrong = groups.groupby("group")["photo"].nunique()
        result[f"{name}, false"] = int((wrong * (wrong - 1) // 2).sum())
    return result


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """This process's memory in bytes, first and then whenever it has grown."""
    process, over = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not over.wait(0.01):
            if (now := process.memory_info().rss) > seen[-1]:
                seen.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def measure(photos: list[Path]) -> dict[str, float]:
    """Seconds and memory of scan and search on `photos`."""
    with tempfile.TemporaryDirectory() as folder:
        for index, file in enumerate(photos):
            file.read_bytes()  # all sizes from the disk's cache
            (Path(folder) / f"{index}{file.suffix}").symlink_to(file.resolve())
        with peak_memory() as memory:
            start, cpu = time.perf_counter(), time.process_time()
            manifest = scan_dataset(folder)
            scanned, cpu_scanned = time.perf_counter(), time.process_time()
            find_duplicates(manifest)
            end, cpu_end = time.perf_counter(), time.process_time()
    count = len(photos)
    return {
        "photos": count,
        "scan, photos/s": round(count / (scanned - start)),
        "scan and search, s": round(end - start, 1),
        "search, s": round(end - scanned, 1),
        "µs per photo": round((end - start) / count * 1e6),
        "CPU µs per photo, scan": round((cpu_scanned - cpu) / count * 1e6),
        "CPU µs per photo, search": round((cpu_end - cpu_scanned) / count * 1e6),
        "MiB before": round(memory[0] / 2**20),
        "MiB at most": round(max(memory) / 2**20),
    }


def drawn(dataset: Path, count: int) -> list[Path]:
    """`count` of its photos, at random."""
    random.seed(1)
    return random.sample(sorted(path for path in dataset.rglob("*.*") if path.is_file()), count)


def generated(folder: Path, count: int) -> list[Path]:
    """`count` different photos: soft light, coarse and fine."""
    noise = np.random.default_rng(0)
    for index in range(count):
        layers = [
            Image.fromarray(noise.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
                (GENERATED_SIDE, GENERATED_SIDE), Image.Resampling.BICUBIC
            )
            for cells in (5, 16)
        ]
        Image.blend(*layers, 0.3).save(folder / f"{index}.jpg", quality=85)
    return sorted(folder.iterdir())


def measured_apart(source: str | Path, count: int) -> dict[str, float]:
    """`measure` in a process of its own, so that no other's memory counts."""
    command = [sys.executable, "-m", "tools.bench.duplicates", f"--dataset={source}", f"--measure={count}"]
    output = subprocess.run(command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout)


def print_speed(dataset: Path) -> None:
    """The table of speed and memory, of the dataset's photos and of generated ones."""
    files = sum(path.is_file() for path in dataset.rglob("*.*"))
    rows = {f"{size:,} of {dataset.name}": measured_apart(dataset, size) for size in SIZES if size <= files}
    with tempfile.TemporaryDirectory() as folder:
        generated(Path(folder), max(GENERATED))
        rows |= {f"{size:,} generated": measured_apart(folder, size) for size in GENERATED}
    print(pd.DataFrame(rows).to_string(float_format="{:,.10g}".format))


def print_thresholds(manifest: pd.DataFrame) -> None:
    """Recall and false pairs over a grid of thresholds, and those chosen on the other half."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = halves(manifest, Path(folder))
        grid = product((10, 12, 14, 16), (0.94, 0.955, 0.965, 0.975))
        rows = [
            {"distance": distance, "likeness": likeness}
            | near_copies(*first, distance=distance, likeness=likeness)
            for distance, likeness in grid
        ]
        print(f"Thresholds, on {PHOTOS // 2} photos and their copies (false: pairs of different photos):")
        print(pd.DataFrame(rows).to_string(index=False), "\n")
        print(f"distance={DISTANCE}, likeness={LIKENESS}, on the other {PHOTOS // 2}:")
        print(pd.Series(near_copies(*second)).to_string(), "\n")


def main() -> None:
    """Prints everything, or why it cannot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", type=Path, default=Path("data"), help="the folder of train/, val/, test/"
    )
    parser.add_argument("--speed", action="store_true", help="measure speed and memory alone")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dataset = options.dataset.expanduser().resolve()
    if options.measure:
        print(json.dumps(measure(drawn(dataset, options.measure))))
        return
    if not (dataset / "train").is_dir():
        print(f"Skipped: {dataset / 'train'} is not there; give --dataset DIR that holds train/.")
        return
    if not options.speed:
        manifest = scan_splits(dataset)
        print(summarize_duplicates(find_duplicates(manifest)).T.to_string(), "\n")
        if (~manifest["sha256"].duplicated(keep=False)).sum() < PHOTOS:
            print(
                f"near-duplicates skipped: fewer than {PHOTOS:,} photos in {dataset} have no identical file."
            )
        else:
            print_thresholds(manifest)
    print_speed(dataset)


if __name__ == "__main__":
    main()
