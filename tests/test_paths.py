"""Where a project's files lie: decisions about the photos with the results, wherever these are."""

import sys
import types

import pytest

from emo.environment import results_folder
from emo.paths import PROJECT_ROOT, get_paths, project_of


def decided_names(paths):
    return sorted(file.name for file in paths.decisions.iterdir())


def test_without_other_results_everything_lies_in_data(tmp_path):
    paths = get_paths(tmp_path)
    assert {file.parent for file in (*paths.decided, paths.dataset_record)} == {tmp_path / "data"}
    assert paths.shelves == (tmp_path / "data/.set_aside",)


def test_photos_below_the_results_outlive_what_they_do_and_keep_their_decisions(tmp_path):
    paths = get_paths(tmp_path / "2000_photos", tmp_path)
    assert paths.split == tmp_path / "2000_photos/data/split.csv"
    assert not (tmp_path / "data").exists()


def test_decisions_lie_with_the_results_and_photos_do_not(tmp_path):
    paths = get_paths(tmp_path / "machine", tmp_path / "drive")
    assert {file.parent for file in paths.decided} == {tmp_path / "drive/data"}
    assert {file.name for file in paths.decided} == {
        *(
            "class_names.txt",
            "split.csv",
            "split.json",
            "relabel.csv",
            "suspects.csv",
            "suspects.png",
            "faces.csv",
        )
    }
    assert paths.train == tmp_path / "machine/data/train"
    assert paths.decisions.is_dir()


def test_what_was_decided_before_the_results_lay_elsewhere_goes_on_there(tmp_path, capsys):
    before = get_paths(tmp_path / "machine")
    before.split.write_text("mine")
    before.class_names.write_text("a\nb\n")
    capsys.readouterr()
    paths = get_paths(tmp_path / "machine", tmp_path / "drive")
    assert (paths.split.read_text(), paths.class_names.read_text()) == ("mine", "a\nb\n")
    assert before.split.read_text() == "mine"  # git or the next run there may want it
    told = capsys.readouterr().out
    assert "class_names.txt, split.csv" in told and str(paths.decisions) in told
    get_paths(tmp_path / "machine", tmp_path / "drive")
    assert capsys.readouterr().out == ""

    paths.split.write_text("edited on the Drive")
    get_paths(tmp_path / "machine", tmp_path / "drive")
    told = capsys.readouterr().out
    assert f"{before.split} is not read: {paths.split}" in told and told.count("\n") == 1
    assert paths.split.read_text() == "edited on the Drive"
    before.split_record.write_text("{}")  # of the split that is not read
    get_paths(tmp_path / "machine", tmp_path / "drive")
    assert not paths.split_record.exists()


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Colab's own module, mounting a Drive that lies in this machine's tmp folder."""
    drive = types.SimpleNamespace(mount=lambda place: None)
    module = types.ModuleType("google.colab")
    module.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr("emo.environment.DRIVE", tmp_path / "MyDrive")
    (tmp_path / "MyDrive").mkdir()
    return tmp_path / "MyDrive"


def test_each_root_has_a_folder_of_its_own_on_drive(colab, tmp_path):
    home = colab / "emo_classificator"
    assert results_folder(PROJECT_ROOT, True) == home
    assert results_folder(tmp_path / "my_photos", True) == home / "my_photos"


def test_without_drive_what_vanishes_is_named(colab, tmp_path, capsys):
    assert results_folder(tmp_path, False) == tmp_path
    told = capsys.readouterr().out
    assert all(word in told for word in ("VANISH", "model/", "experiments.xlsx", "data/*.csv"))


def test_the_project_of_a_folder_is_that_of_the_data_in_it_or_above_it(tmp_path):
    photos = tmp_path / "faces/data/test/happy"
    photos.mkdir(parents=True)
    for folder in (tmp_path / "faces", tmp_path / "faces/data", photos, photos / "../../train"):
        project = project_of(folder)
        assert (project.root, project.results) == (tmp_path / "faces", tmp_path / "faces")
    (tmp_path / "disk/sad").mkdir(parents=True)
    (tmp_path / "faces/data/val").symlink_to(tmp_path / "disk")
    assert project_of(tmp_path / "faces/data/val").root == tmp_path / "faces"
    (tmp_path / "other/data/photos").mkdir(parents=True)  # a folder that is called so
    for folder in (tmp_path, tmp_path / "disk", tmp_path / "other/data/photos"):
        assert project_of(folder) is None
    (tmp_path / "other/model").mkdir()
    assert project_of(tmp_path / "other/data/photos").root == tmp_path / "other"
    assert not (tmp_path / "faces/model").exists()
