import pytest

from emo.paths import get_paths


@pytest.fixture
def paths(tmp_path):
    """An empty project whose results lie in another folder, as on Google Drive."""
    return get_paths(tmp_path / "code", results=tmp_path / "drive")
