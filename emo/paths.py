"""Every folder and file name of the project, once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from filecmp import cmp
from itertools import count
from pathlib import Path

from emo.errors import UserError
from emo.files import write_bytes

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "shipped"  # of an installed package alone: what lies beside `emo/` in a clone
PROJECT_ROOT = SHIPPED if SHIPPED.is_dir() else _PACKAGE.parent
SAMPLE_ZIP = PROJECT_ROOT / "data" / "sample.zip"
EMO_MINI = PROJECT_ROOT / "model" / "emo_mini.h5"  # the one model that comes with the project
# what the panel of a Colab machine shows, and the inputs of a notebook on Kaggle
NOTEBOOK_FILES = (Path("/content"), Path("/kaggle/input"))
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)


@dataclass(frozen=True)
class Paths:
    """Where a project keeps its things: photos below `root`, models, table and decisions below `results`."""

    root: Path
    results: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def train(self) -> Path:
        """`data/train/<class>/…`, the labelled training photos."""
        return self.data / "train"

    @property
    def train_aug(self) -> Path:
        """`data/train_aug/<class>/…`, augmented copies of the training photos."""
        return self.data / "train_aug"

    @property
    def augmentation_record(self) -> Path:
        """`data/train_aug.json`: how many copies per photo `train_aug` holds, and their seed."""
        return self.data / "train_aug.json"

    @property
    def val(self) -> Path:
        """`data/val/<class>/…`; where it is missing, validation is split off from `train`."""
        return self.data / "val"

    @property
    def test(self) -> Path:
        """`data/test/<class>/…`, labelled photos that no training run has seen."""
        return self.data / "test"

    @property
    def test_kaggle(self) -> Path:
        """`data/test_kaggle/`, the unlabelled photos of the competition."""
        return self.data / "test_kaggle"

    @property
    def sample_submission(self) -> Path:
        """`data/sample_submission.csv`: the competition's own example, for `write_submission`."""
        return self.data / "sample_submission.csv"

    @property
    def decisions(self) -> Path:
        """`data/` of `results`: what was decided and found out about the photos outlives their machine.

        It is `data/` itself where the photos lie below the results.
        """
        return self.data if self.root.is_relative_to(self.results) else self.results / "data"

    @property
    def class_names(self) -> Path:
        """`data/class_names.txt`: one class per line, in the order of the model's outputs."""
        return self.decisions / "class_names.txt"

    @property
    def split(self) -> Path:
        """`data/split.csv`: which photo trains, validates and tests."""
        return self.decisions / "split.csv"

    @property
    def split_record(self) -> Path:
        """`data/split.json`: the shares, the seed and more that were chosen for `split`."""
        return self.decisions / "split.json"

    @property
    def relabel(self) -> Path:
        """`data/relabel.csv`: labels that a person has corrected."""
        return self.decisions / "relabel.csv"

    @property
    def suspects(self) -> Path:
        """`data/suspects.csv`: the photos, the ones with the most doubtful labels first."""
        return self.decisions / "suspects.csv"

    @property
    def suspects_sheet(self) -> Path:
        """`data/suspects.png`: the first of them, to look through."""
        return self.decisions / "suspects.png"

    @property
    def faces(self) -> Path:
        """`data/faces.csv`: where `find_faces` saw the face in each photo."""
        return self.decisions / "faces.csv"

    @property
    def decided(self) -> tuple[Path, ...]:
        """The files in `decisions`."""
        tables = (self.class_names, self.split, self.split_record, self.relabel, self.suspects)
        return (*tables, self.suspects_sheet, self.faces)

    @property
    def dataset_record(self) -> Path:
        """`data/dataset.json`: where the photos in `data/` were fetched from."""
        return self.data / "dataset.json"

    @property
    def shelves(self) -> tuple[Path, ...]:
        """`.set_aside/` in `data` and in `decisions`, where that is another: datasets that made room."""
        return tuple(dict.fromkeys(folder / ".set_aside" for folder in (self.data, self.decisions)))

    @property
    def fetch_lock(self) -> Path:
        """`data/.fetch.lock`: held while photos move in `data/`; empty, and may stay."""
        return self.data / ".fetch.lock"

    @property
    def features(self) -> Path:
        """`data/.features/`: outputs of frozen layers, computed once and reused; safe to delete."""
        return self.data / ".features"

    @property
    def model(self) -> Path:
        return self.results / "model"

    @property
    def experiments(self) -> Path:
        """`experiments.xlsx`, the table people open: runs and, on a second sheet, ablations."""
        return self.results / "experiments.xlsx"

    @property
    def experiments_csv(self) -> Path:
        """`experiments.csv`, the table's runs as text."""
        return self.results / "experiments.csv"

    @property
    def ablations_csv(self) -> Path:
        """`experiments_ablations.csv`, its ablations."""
        return self.results / "experiments_ablations.csv"


def get_paths(root: str | Path = ".", results: str | Path | None = None) -> Paths:
    """The project's folders; `data/` and `model/` are made where missing. UserError where they cannot be.

    `results` (`root`, where it is None) may lie elsewhere: photos are read fast from a Colab machine's own
    disk; models, the table and what was decided about the photos outlive it on Google Drive.
    """
    root = _folder(root)
    paths = Paths(root, _folder(results) if results else root)
    for folder in (paths.data, paths.decisions, paths.model):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file has that name, the path is too long, the disk is full or read-only
            fault = f"{str(folder)[:200]} cannot be made ({error.strerror})"
            raise UserError(f"{fault}; give another root, or move what has that name.") from None
    if paths.decisions != paths.data:
        _keep_with_results(paths)
    return paths


def project_of(folder: str | Path) -> Paths | None:
    """The project that a folder belongs to: the one that holds `data/`, or lies below it; None for others.

    A `data/` is a project's where it has photos to train, validate or test on, or `model/` beside it. Nothing
    is made.
    """
    folder = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 -- a linked folder stays in data/
    for data in (folder / "data", folder, *folder.parents):
        paths = Paths(data.parent.resolve(), data.parent.resolve())
        if data.name == "data" and any(
            part.is_dir() for part in (paths.train, paths.val, paths.test, paths.model)
        ):
            return paths
    return None


def _keep_with_results(paths: Paths) -> None:
    """Copies the decisions in `data/`, of runs whose results lay there too, to where they count now."""
    copied, split_is_theirs = [], paths.split.exists()
    for file in paths.decided:
        older = paths.data / file.name
        if not older.is_file() or (file == paths.split_record and split_is_theirs):
            continue
        if not file.exists():
            write_bytes(file, older.read_bytes())
            copied.append(file.name)
        elif file in (paths.class_names, paths.split, paths.relabel) and not cmp(file, older, shallow=False):
            print(f"{older} is not read: {file}, which lies with the results, says otherwise.")
    if copied:
        print(f"Copied from {paths.data} to {paths.decisions}, where they count now: {', '.join(copied)}.")


def _folder(given: str | Path) -> Path:
    try:
        return Path(given).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # ~nobody, a link to itself, a null character
        raise UserError(f"{str(given)[:200]!r} is not a folder ({error}); give another path.") from None


def is_fetched(model: Path) -> bool:
    """Whether it lies in huggingface_hub's cache, whose files are what their checksums say."""
    folders = model.absolute().parts
    return "snapshots" in folders and any(name.startswith("models--") for name in folders)


def results_beside(model: Path) -> Path:
    """The folder for what is made of a model: its own; the current for one in an installed package, or in the
    Hub's cache, where nobody looks.
    """
    return Path() if model.resolve().is_relative_to(SHIPPED) or is_fetched(model) else model.parent


def numbered(wanted: Path) -> Iterator[Path]:
    """`name.csv`, `name_2.csv`, `name_3.csv`, … without end."""
    yield wanted
    for number in count(2):
        yield wanted.with_stem(f"{wanted.stem}_{number}")


def free_path(wanted: Path) -> Path:
    """`wanted`, or where a file has that name already, the same with the first free number."""
    return next(path for path in numbered(wanted) if not path.exists())
