"""The first evening with one's own photos: a messy zip beside the notebook, a model, and the next machine."""

import shutil
import unicodedata
import zipfile
from io import BytesIO
from types import SimpleNamespace

import pytest

import emo_utils as emo
from tests.fixtures import COLORS, picture

CLASSES = dict(zip(("грустный", "злой", "happy"), COLORS.values(), strict=True))
CLONE, DRIVE, ZIP = "content/emo_classificator", "drive/MyDrive/emo_classificator", "content/мои фото.zip"


def jpeg(color, seed: int) -> bytes:
    file = BytesIO()
    picture(color, seed).save(file, "JPEG", quality=95)
    return file.getvalue()


def messy_zip(path) -> None:
    """Twenty photos in each of three classes as macOS zips a folder, and what lies about in such folders."""
    files = {
        f"Мои лица/{name}/{n:02d}.jpg": jpeg(color, 100 * place + n)
        for place, (name, color) in enumerate(CLASSES.items())
        for n in range(20)
    }
    files |= {
        "Мои лица/злой/00 (копия).jpg": files["Мои лица/злой/00.jpg"],
        "Мои лица/happy/не радость.jpg": files["Мои лица/злой/01.jpg"],  # one photo, two labels
        "Мои лица/happy/broken.jpg": files["Мои лица/happy/00.jpg"][:300],
        "Мои лица/happy/empty.png": b"",
        "Мои лица/.DS_Store": b"\0",
        "Мои лица/злой/Thumbs.db": b"\0",
        "Мои лица/заметки.txt": "откуда фотографии".encode(),
        "__MACOSX/Мои лица/злой/._00.jpg": b"\0\5\x16\7",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(unicodedata.normalize("NFD", name), content)  # й as two letters


def next_machine(folder, number: int):
    """A Colab machine with USE_DRIVE: its own disk is empty but for what was dragged into the file panel."""
    content = folder / f"machine {number}"
    (content / CLONE).mkdir(parents=True)
    messy_zip(content / ZIP)
    return emo.get_paths(content / CLONE, results=folder / DRIVE)


def by_place(split, paths) -> dict[str, str]:
    """What each photo is for, by its place in `data/`."""
    return dict(zip(split.path.str.removeprefix(f"{paths.data}/"), split.split + split.left_out, strict=True))


@pytest.fixture(scope="module")
def evening(tmp_path_factory):
    """What the three notebooks do, with `sample` before; the outcome of each step by its name."""
    folder = tmp_path_factory.mktemp("evening")
    paths = next_machine(folder, 1)
    emo.fetch_dataset("sample", paths)
    with pytest.raises(emo.UserError) as refused:
        emo.fetch_dataset("мои фото.zip", paths)
    emo.set_aside_dataset(paths)
    fetched = emo.fetch_dataset("мои фото.zip", paths)

    photos = emo.scan_splits(paths)
    duplicates = emo.find_duplicates(photos)
    split = emo.split_photos(photos, duplicates, paths, test=0.1)
    run = emo.train(emo.get_experiment("emo_mini", epochs=1, batch_size=8), paths)

    classifier = emo.load_classifier(emo.find_model("", paths.model))
    report = emo.report_on(classifier, *emo.labelled_photos("", classifier, paths), paths)
    selfie = folder / "selfie.jpg"
    selfie.write_bytes(jpeg(CLASSES["happy"], 999))
    answered = emo.classify_faces(classifier, selfie)
    return SimpleNamespace(**locals())


def test_sample_is_in_the_way_of_ones_own_photos_in_one_sentence(evening):
    told = str(evening.refused.value)
    assert told.count("\n") == 0 and "ROOT" in told and "emo.set_aside_dataset(paths)" in told
    assert all(
        name in told for name in ("train", "val/", "test/", "class_names.txt", "sample", "мои фото.zip")
    )


def test_the_messy_zip_arrives_as_its_photos(evening):
    assert evening.fetched == {"train": 64}
    assert emo.class_names(evening.paths) == ("happy", "грустный", "злой")
    problems = evening.photos.set_index("path")["problem"]
    problems = problems[problems != ""].rename(lambda path: path.rsplit("/", 1)[1])
    assert set(problems.index) == {"broken.jpg", "empty.png"} and problems["empty.png"] == "empty file"
    summary = emo.summarize_duplicates(evening.duplicates)
    assert summary["groups with conflicting labels"].tolist() == [1, 1]


def test_duplicates_lie_on_one_side_and_each_class_trains_validates_and_tests(evening):
    used = evening.split[evening.split.left_out == ""]
    assert used.groupby("label").split.nunique().tolist() == [3, 3, 3]
    groups = used[used.group > 0].groupby("group")
    assert groups.size().tolist() == [2, 2] and groups.split.nunique().tolist() == [1, 1]


def test_training_saw_no_photo_that_tests(evening):
    held_out = set(emo.held_out_manifest(evening.paths).path)
    train, val = emo.training_manifests(evening.paths)
    assert len(held_out) >= 6 and not held_out & {*train.path, *val.path}
    assert set(evening.report.predictions.path) == held_out
    assert str(evening.run).startswith("Run 13 finished") and "best epoch 1 of 1" in str(evening.run)


def test_one_photo_is_answered(evening):
    (answer,) = evening.answered.answers.to_dict("records")
    assert answer["emotion"] in CLASSES and 1 / 3 <= answer["confidence"] <= 1


def test_the_table_is_the_original_eleven_and_this_run(evening):
    table = emo.read_table(evening.paths)
    assert table.number.tolist() == [1, 2, *range(4, 14)]
    assert table.test_accuracy.iloc[-1] == round(100 * evening.report.accuracy, 1)
    assert not list(evening.paths.root.glob("experiments*"))


def test_the_next_machine_goes_on_where_this_one_was(evening, capsys):
    shutil.rmtree(evening.folder / "machine 1")
    paths = next_machine(evening.folder, 2)
    assert emo.fetch_dataset("мои фото.zip", paths) == evening.fetched
    assert by_place(emo.load_split(paths), paths) == by_place(evening.split, evening.paths)
    assert emo.class_names(paths) == emo.class_names(evening.paths)
    assert emo.read_table(paths).equals(emo.read_table(evening.paths))
    assert emo.find_model("", paths.model) == evening.run.model_path
    told = capsys.readouterr().out
    assert "new or changed" not in told and "is not read" not in told
    assert {file.name for file in paths.data.iterdir()} == {"train", "dataset.json", ".fetch.lock"}
