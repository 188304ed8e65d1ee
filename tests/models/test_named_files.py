"""Where the files that an experiment names are found."""

import dataclasses

import pytest

from emo.errors import UserError
from emo.experiments import get_experiment
from emo.models.named_files import located, named_file
from emo.paths import EMO_MINI, get_paths


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Photos, results and the current folder are three, as in Colab with USE_DRIVE."""
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    return get_paths(tmp_path / "content", tmp_path / "drive")


def put(file):
    file.parent.mkdir(exist_ok=True)
    file.touch()
    return file


@pytest.mark.parametrize("field", ["weights", "teacher"])
def test_a_file_is_looked_for_here_then_in_the_project_then_among_its_models(field, drive, tmp_path):
    model = put(drive.model / "mine.h5")
    assert named_file(field, "mine.h5", drive) == model  # a bare name
    assert named_file(field, "model/mine.h5", drive) == model  # as the pages have it
    assert named_file(field, "elsewhere/mine.h5", drive) == model
    below_root = put(tmp_path / "content/start/mine.h5")
    assert named_file(field, "start/mine.h5", drive) == below_root
    here = put(tmp_path / "clone/model/mine.h5")
    assert named_file(field, "model/mine.h5", drive) == here
    assert named_file(field, str(model), drive) == named_file(field, str(model)[:-3], drive) == model
    assert named_file(field, "mine", drive) == model  # as the test notebook's MODEL has it
    (tmp_path / "clone/mine").mkdir()
    assert named_file(field, "mine", drive) == model  # a folder of that name is not a model
    assert named_file(field, "emo_mini", drive) == EMO_MINI
    assert named_file(field, None, drive) is None


def test_imagenet_is_no_file(drive):
    assert named_file("weights", "imagenet", drive) is None


def test_what_is_found_as_before_stays_as_it_was_written(drive, tmp_path, capsys):
    put(tmp_path / "clone/here.h5")
    put(drive.model / "mine.h5")
    changes = {"teacher": "here.h5", "teacher_weight": 0.5}
    for weights in ("imagenet", "emo_mini", None, "here.h5"):
        experiment = get_experiment("finetune", weights=weights, **changes)
        assert located(experiment, drive) == experiment
    assert capsys.readouterr().out == ""
    experiment = get_experiment("finetune", weights="model/mine.h5", **changes)
    assert located(experiment, drive) == dataclasses.replace(experiment, weights=str(drive.model / "mine.h5"))
    assert capsys.readouterr().out == f"weights='model/mine.h5' is {drive.model / 'mine.h5'}.\n"


def test_where_nothing_is_found_the_sentence_names_the_field_and_the_folders(drive, tmp_path):
    with pytest.raises(UserError, match=r"^teacher='model/x\.h5': there is no such file in ") as caught:
        named_file("teacher", "model/x.h5", drive)
    for folder in (tmp_path / "clone", drive.results, drive.root, drive.model):
        assert f"{folder}" in str(caught.value)
    put(drive.model / "x.h5")
    with pytest.raises(UserError, match=r"^weights='/nowhere/x\.h5': there is no such file; give"):
        named_file("weights", "/nowhere/x.h5", drive)  # a whole path means that file alone
    with pytest.raises(UserError, match=r"^teacher='~no-one-here/x\.h5': .*home folder"):
        named_file("teacher", "~no-one-here/x.h5", drive)
    (drive.model / "link.h5").symlink_to("gone.h5")
    with pytest.raises(UserError, match=r"^weights='link\.h5': .* is a link to gone\.h5"):
        named_file("weights", "link.h5", drive)
