import os
import signal

import matplotlib
import pytest
from hypothesis import settings

from emo.paths import get_paths
from tests.disk import full_disk  # noqa: F401 -- a fixture
from tests.fixtures import write_photos

matplotlib.use("Agg")  # for this process; notebooks under test show their figures
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C

# the same examples each time, as a change must not fail by the luck of the draw; "default" looks for new ones
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
# minutes each: begun first, else one worker is left alone with them at the end
LONGEST = ("tests/notebooks/test_notebooks.py", "tests/test_backend.py", "tests/training/test_train.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture
def paths(tmp_path):
    """An empty project."""
    return get_paths(tmp_path / "project")


@pytest.fixture
def dataset(paths):
    """A project with 12 training and 4 test photos in each of three classes."""
    write_photos(paths.train, 12)
    write_photos(paths.test, 4, seed=1)
    return paths
