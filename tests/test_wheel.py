"""The package as `pip install .` leaves it: alone, in a folder that is not a clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emo import __version__
from emo.paths import EMO_MINI
from tests.fixtures import write_photos

PROJECT = Path(__file__).resolve().parent.parent


def files_of(*places: str) -> list[str]:
    """The tracked files there, and those that are new and not ignored."""
    git = [
        "git",
        "-C",
        PROJECT,
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *places,
    ]
    listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in filter(None, listed.split("\0")) if (PROJECT / name).exists())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the package lies, and the command `emo`."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools builds beside what it reads
    needed = ("emo", "data", "model", "emo_utils.py", "pyproject.toml", "requirements.txt", "README.md")
    for name in files_of(*needed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True
    )
    return folder / "site"


def run(command: list, installed: Path, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_file_of_the_package_and_what_comes_with_the_project_is_in_it(installed):
    missing = [name for name in files_of("emo", "emo_utils.py") if not (installed / name).exists()]
    assert missing == []
    shipped = {file.name for file in (installed / "emo" / "shipped").rglob("*.*")}
    assert shipped == {"sample.zip", EMO_MINI.name, EMO_MINI.with_suffix(".md").name}


def test_it_needs_what_requirements_txt_names(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    needed = [line.split(": ")[1] for line in metadata.read_text().splitlines() if "Requires-Dist" in line]
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    wanted = {line.split("#")[0].strip() for line in lines} - {""}
    assert {line for line in needed if "extra ==" not in line} == wanted
    extras = {line.split(";")[0] for line in needed if "extra ==" in line}
    lines = (PROJECT / "requirements-dev.txt").read_text().splitlines()
    assert extras and extras <= {line.split("#")[0].strip() for line in lines}


@pytest.mark.slow
def test_it_answers_and_writes_in_the_current_folder_alone(installed, tmp_path):
    write_photos(tmp_path / "photos", 1, ("happy",))
    before = sorted(installed.rglob("*"))
    command = installed / "bin" / "emo"
    assert run([command, "--version"], installed, tmp_path).stdout == f"emo {__version__}\n"
    said = run([command, "predict", "photos/happy/happy_000.jpg"], installed, tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[1].startswith("photos/happy/happy_000.jpg")
    said = run([command, "export", "savedmodel"], installed, tmp_path)
    assert said.stdout == f"{EMO_MINI.stem}_savedmodel\n" and (tmp_path / said.stdout.strip()).is_dir()
    code = "import emo_utils as emo; print(emo.__file__, emo.fetch_dataset('sample', emo.get_paths()))"
    said = run([sys.executable, "-c", code], installed, tmp_path)
    counts = {"train": 900, "val": 180, "test": 180}
    assert said.stdout.splitlines()[-1] == f"{installed / 'emo_utils.py'} {counts}", said.stderr
    assert (tmp_path / "data/train").is_dir()
    assert sorted(installed.rglob("*")) == before
