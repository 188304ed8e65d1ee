"""Every folder and file name of the project, once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from emo.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SAMPLE_ZIP = PROJECT_ROOT / "data" / "sample.zip"
EMO_MINI = PROJECT_ROOT / "model" / "emo_mini_fer2013.h5"  # the one model that comes with the project
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)


@dataclass(frozen=True)
class Paths:
    """Where a project keeps its things: photos below `root`, models and the table below `results`."""

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
    def class_names(self) -> Path:
        """`data/class_names.txt`: one class per line, in the order of the model's outputs."""
        return self.data / "class_names.txt"

    @property
    def split(self) -> Path:
        """`data/split.csv`: which photo trains, validates and tests."""
        return self.data / "split.csv"

    @property
    def relabel(self) -> Path:
        """`data/relabel.csv`: labels that a person has corrected."""
        return self.data / "relabel.csv"

    @property
    def suspects(self) -> Path:
        """`data/suspects.csv`: the photos, the ones with the most doubtful labels first."""
        return self.data / "suspects.csv"

    @property
    def suspects_sheet(self) -> Path:
        """`data/suspects.png`: the first of them, to look through."""
        return self.data / "suspects.png"

    @property
    def dataset_record(self) -> Path:
        """`data/dataset.json`: where the photos in `data/` were fetched from."""
        return self.data / "dataset.json"

    @property
    def set_aside(self) -> Path:
        """`data/.set_aside/<date>/`: datasets that made room for another."""
        return self.data / ".set_aside"

    @property
    def fetch_lock(self) -> Path:
        """`data/.fetch.lock`: held while photos move in `data/`; empty, and may stay."""
        return self.data / ".fetch.lock"

    @property
    def features(self) -> Path:
        """`data/.features/`: outputs of frozen layers, computed once and reused; safe to delete."""
        return self.data / ".features"

    @property
    def faces(self) -> Path:
        """`data/faces.csv`: where `find_faces` saw the face in each photo."""
        return self.data / "faces.csv"

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
    disk, models and the table outlive it on Google Drive.
    """
    root = _folder(root)
    paths = Paths(root, _folder(results) if results else root)
    for folder in (paths.data, paths.model):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file has that name, the path is too long, the disk is full or read-only
            fault = f"{str(folder)[:200]} cannot be made ({error.strerror})"
            raise UserError(f"{fault}; give another root, or move what has that name.") from None
    return paths


def _folder(given: str | Path) -> Path:
    try:
        return Path(given).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # ~nobody, a link to itself, a null character
        raise UserError(f"{str(given)[:200]!r} is no folder ({error}); give another path.") from None


def numbered(wanted: Path) -> Iterator[Path]:
    """`name.csv`, `name_2.csv`, `name_3.csv`, … without end."""
    yield wanted
    for number in count(2):
        yield wanted.with_stem(f"{wanted.stem}_{number}")


def free_path(wanted: Path) -> Path:
    """`wanted`, or where a file has that name already, the same with the first free number."""
    return next(path for path in numbered(wanted) if not path.exists())
