"""What the test notebook says of its parameters before it begins."""

import shutil

import pytest

from emo.errors import UserError
from emo.evaluation.evaluate import evaluate
from emo.evaluation.given import check_given, open_models, other_report
from emo.evaluation.report_file import save_report
from emo.paths import EMO_MINI
from tests.fixtures import write_photos


@pytest.fixture
def mine(tmp_path):
    """A photo, a video and a model in a folder of one's own."""
    write_photos(tmp_path / "mine", 1, classes=("sad",))
    for name in ("photo.jpg", "video.mp4", "a.h5", "b_report.json"):
        (tmp_path / "mine" / name).write_bytes(b"x")
    return tmp_path / "mine"


def test_what_is_there_or_empty_passes(paths, mine, capsys):
    empty = dict.fromkeys(
        ("MODEL", "ENSEMBLE", "PHOTO", "VIDEO", "TEST_FOLDER", "COMPARE_WITH", "UNLABELLED_FOLDER"), ""
    )
    check_given(paths, **empty)
    for photo in (f" {mine}/photo.jpg ", "upload", "webcam", "https://example.org/a.jpg"):
        check_given(
            paths,
            MODEL="emo_mini",
            ENSEMBLE=f"{mine}/a.h5, emo_mini",
            PHOTO=photo,
            VIDEO=f"{mine}/video.mp4",
            TEST_FOLDER=str(mine),
            COMPARE_WITH=f"{mine}/b_report.json",
            UNLABELLED_FOLDER=str(mine / "photo.jpg"),
        )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MODEL", "nowhere.h5", "There is no model nowhere.h5, as a path or in .*; choose one of emo_mini"),
        ("ENSEMBLE", "emo_mini, nowhere", "There is no model nowhere"),
        ("COMPARE_WITH", "nowhere.h5", "There is no model nowhere.h5"),
        ("COMPARE_WITH", "nowhere.json", "There is no nowhere.json; check the path"),
        ("PHOTO", "nowhere.jpg", "There is no nowhere.jpg; check the path"),
        ("PHOTO", "{mine}", ".*mine is a folder; give one file"),
        ("PHOTO", "~nosuch/x.jpg", ".*home folder"),
        ("VIDEO", "nowhere.mp4", "There is no nowhere.mp4"),
        ("TEST_FOLDER", "{mine}/photo.jpg", ".*photo.jpg is a file; give the folder"),
        ("UNLABELLED_FOLDER", "nowhere", "There is no nowhere; check the path"),
    ],
)
def test_what_is_not_there_is_one_sentence_that_names_the_parameter(paths, mine, name, value, says):
    with pytest.raises(UserError, match=f"^{name}: {says}") as told:
        check_given(paths, **{name: value.format(mine=mine)})
    assert "\n" not in str(told.value)


def test_what_is_to_lie_in_data_may_come_with_the_source(paths):
    photo, elsewhere = str(paths.test / "sad" / "1.jpg"), str(paths.root / "1.jpg")
    check_given(paths, "sample", PHOTO=photo, TEST_FOLDER=str(paths.test))
    for source, given in (("", photo), ("sample", elsewhere)):
        with pytest.raises(UserError, match=r"^PHOTO: There is no"):
            check_given(paths, source, PHOTO=given)


def test_one_model_opens_as_itself_and_several_as_an_ensemble(paths):
    shutil.copy(EMO_MINI, paths.model / "mine.h5")
    assert open_models("", "", paths).name == "mine.h5"
    both = open_models("emo_mini", " mine ,", paths, flip=True)
    assert both.name.startswith("mean of 2: emo_mini.h5") and "mine.h5" in both.name
    assert all(member.flip for member in both.members)
    with pytest.raises(UserError, match="comes with the project"):
        open_models("emo_mini", "", paths, calibrated=True)


def test_the_report_to_compare_with_is_a_saved_one_or_another_models(paths, tmp_path):
    write_photos(tmp_path / "photos", 2, classes=("happy", "sad"))
    report = evaluate(open_models("emo_mini", "", paths), tmp_path / "photos")
    page = save_report(report, tmp_path / "saved")
    saved = other_report(str(page.with_suffix(".json")), report, paths)
    again = other_report("emo_mini", report, paths)
    assert saved.accuracy == again.accuracy == report.accuracy
    assert list(again.predictions.path) == list(report.predictions.path)
