"""The setup cell from an empty folder: in a stand-in Colab, as on Kaggle, and elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).resolve().parents[2]
SETUP = nbformat.read(PROJECT / "emo_classificator_train.ipynb", as_version=4).cells[1].source
REPOSITORY = SETUP.split('repository = "')[1].split('"')[0]
COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],  # with -c, as in a notebook, imports look into the current folder
        cwd=folder,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def published(tmp_path):
    """The project as a git repository to clone, whatever state this checkout is in."""
    source = tmp_path / "published"
    source.mkdir()
    files = subprocess.run(
        ["git", "-C", PROJECT, "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for name in filter(None, files.stdout.split("\0")):
        if not name.startswith(("tests/", "data/", "images/")) and (PROJECT / name).exists():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((PROJECT / name).read_bytes())
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", source, *command], check=True)
    return source


@pytest.mark.parametrize("kaggle", [False, True])
def test_hosted_it_clones_installs_and_says_where_it_is_and_can_run_again(tmp_path, published, kaggle):
    folder = tmp_path / "content"
    folder.mkdir()
    # git takes the repository from this disk, pip finds everything installed: no network is needed
    offline = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{published.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "PIP_NO_INDEX": "1",
    }
    hosted = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"} if kaggle else {}
    again = "\nimport os\nos.chdir('..')\nassert os.path.isdir('emo_classificator')\n"
    told = "\nprint(environment)\nemo.results_folder('.', False)"
    code = ("" if kaggle else COLAB) + SETUP + again + SETUP + told
    result = run(code, folder, **offline, **hosted)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (folder / "emo_classificator" / "emo_utils.py").exists()
    assert f"colab={not kaggle}" in result.stdout
    assert "Keras" in result.stdout
    assert "GPU" in result.stdout and ("Settings → Accelerator" in result.stdout) is kaggle
    assert f"this {'Kaggle' if kaggle else 'Colab'} machine and VANISH" in result.stdout


def test_without_the_repository_the_reason_is_shown(tmp_path):
    nowhere = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{(tmp_path / 'nowhere').as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    result = run(SETUP, tmp_path, KAGGLE_KERNEL_RUN_TYPE="Interactive", **nowhere)
    assert result.returncode == 1
    assert "nowhere" in result.stderr and "Traceback" not in result.stderr
    assert "on Kaggle turn on Settings → Internet" in result.stderr.splitlines()[-1]


def test_elsewhere_in_an_empty_folder_it_says_where_to_start(tmp_path):
    result = run(SETUP, tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines() == [
        "emo_utils.py is not here: start Jupyter in the project's folder and open this notebook there."
    ]


def test_in_the_projects_folder_it_just_works(tmp_path):
    (tmp_path / "emo_utils.py").symlink_to(PROJECT / "emo_utils.py")
    (tmp_path / "emo").symlink_to(PROJECT / "emo")
    result = run(SETUP + "\nprint(environment)", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "colab=False" in result.stdout
    assert not (tmp_path / "emo_classificator").exists()
