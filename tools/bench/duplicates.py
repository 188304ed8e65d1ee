"""Measures the search for twins: `python -m tools.bench.duplicates --dataset DIR`.

DIR holds train/, val/ and test/ with a folder a class, such as FER2013's. Printed are the duplicates in it;
recall and false alarms on copies made from 1,000 of its photos that have no identical twin, thresholds chosen
on one half and reported on the other; speed and memory on 3,000 and 30,000 photos, each in its own process.
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

import pandas as pd
import psutil
from PIL import Image, ImageOps

from emo.data.duplicates import DISTANCE, LIKENESS, find_duplicates, summarize_duplicates
from emo.data.manifest import scan_dataset
from emo.paths import PROJECT_ROOT

PHOTOS = 1000
SIZES = (3_000, 30_000)


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
    """Twice 500 photos without an identical twin, each with the manifests of its changed copies."""
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


def measure(dataset: Path, count: int) -> dict[str, float]:
    """Seconds and memory of scan and duplicates on `count` photos, drawn at random."""
    random.seed(1)
    files = random.sample(sorted(path for path in dataset.rglob("*.*") if path.is_file()), count)
    with tempfile.TemporaryDirectory() as folder:
        for index, file in enumerate(files):
            file.read_bytes()  # both sizes from the disk's cache
            (Path(folder) / f"{index}{file.suffix}").symlink_to(file.resolve())
        with peak_memory() as memory:
            start, cpu = time.perf_counter(), time.process_time()
            manifest = scan_dataset(folder)
            scanned, cpu_scanned = time.perf_counter(), time.process_time()
            find_duplicates(manifest)
            end, cpu_end = time.perf_counter(), time.process_time()
    return {
        "photos": count,
        "scan, photos/s": round(count / (scanned - start)),
        "duplicates, s": round(end - scanned, 2),
        "µs a photo": round((end - start) / count * 1e6),
        "CPU µs a photo, scan": round((cpu_scanned - cpu) / count * 1e6),
        "CPU µs a photo, duplicates": round((cpu_end - cpu_scanned) / count * 1e6),
        "MiB before": round(memory[0] / 2**20),
        "MiB at most": round(max(memory) / 2**20),
    }


def main() -> None:
    """Prints everything, or why it cannot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", type=Path, default=Path("data"), help="the folder of train/, val/, test/"
    )
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dataset = options.dataset.expanduser().resolve()
    if not (dataset / "train").is_dir():
        print(f"Skipped: {dataset / 'train'} is not there; give --dataset DIR that holds train/.")
        return
    if options.measure:
        print(json.dumps(measure(dataset, options.measure)))
        return

    manifest = scan_splits(dataset)
    print(summarize_duplicates(find_duplicates(manifest)).T.to_string(), "\n")
    if (~manifest["sha256"].duplicated(keep=False)).sum() < PHOTOS:
        print(f"near copies skipped: {dataset} has fewer than {PHOTOS:,} photos without an identical twin.")
    else:
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

    files = sum(path.is_file() for path in dataset.rglob("*.*"))
    rows = []
    for size in SIZES:
        if files < size:
            print(f"{size:,} photos skipped: {dataset} has only {files:,} files.")
            continue
        command = [
            sys.executable,
            "-m",
            "tools.bench.duplicates",
            f"--dataset={dataset}",
            f"--measure={size}",
        ]
        output = subprocess.run(command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(output.stdout))
    print(pd.DataFrame(rows).T.to_string(header=False))


if __name__ == "__main__":
    main()
