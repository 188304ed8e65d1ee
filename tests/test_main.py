"""The command line: a mistake is one sentence and exit code 2."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emo import __version__
from emo.__main__ import main
from emo.paths import EMO_MINI
from tests.data.test_faces import FLOWER, hopper
from tests.fixtures import write_photos

PROJECT = Path(__file__).resolve().parents[1]


def emo(*arguments, folder=PROJECT):
    command = [sys.executable, "-m", "emo", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def here(capsys, *arguments) -> str:
    """What a command that succeeds prints, in this process."""
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_help_names_every_experiment():
    said = emo("train", "--help")
    assert said.returncode == 0 and "finetune_mini: the small network" in said.stdout
    assert max(map(len, said.stdout.split("experiments:")[0].splitlines())) < 100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "finetun"], "There is no experiment 'finetun'; choose one of"),
        (["train", "6", "--set", "epoch=3"], "Experiment has no field 'epoch'; did you mean 'epochs'?"),
        (["train", "6", "--set", "epochs=many"], "epochs='many' must be a whole number from 1 to 10,000."),
        (["train", "6", "--set", "epochs"], "changes='epochs' cannot be read"),
        (
            ["train", "6", "--set", "epochs=2", "teacher=my/b.h5"],
            "teacher='my/b.h5' and teacher_weight=0.0 belong",
        ),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    said = emo(*arguments)
    assert said.returncode == 2 and said.stderr.startswith(sentence) and said.stderr.count("\n") == 1


def test_a_folder_without_photos_is_one_sentence(tmp_path):
    said = emo("train", "finetune_mini", "--root", tmp_path)
    assert said.returncode == 2 and "has no class folders; fetch a dataset" in said.stderr.splitlines()[-1]
    assert "Traceback" not in said.stderr


def test_a_photo_is_answered_on_stdout_and_all_else_is_said_on_stderr(tmp_path, capsys):
    write_photos(tmp_path, 1, ("happy",))
    photo = next(tmp_path.rglob("*.jpg"))
    said = emo("predict", photo, "--json")
    assert said.returncode == 0, said.stderr
    (answer,) = json.loads(said.stdout)  # nothing else
    assert answer["path"] == str(photo) and answer["emotion"] in answer and 0 < answer["confidence"] <= 1
    assert "No face was found" in said.stderr
    table = here(capsys, "predict", photo).splitlines()
    assert table[0].split() == ["path", "face", "box", "emotion", "confidence"] and len(table) == 2


def test_a_folder_becomes_a_csv_that_takes_no_other_files_place(tmp_path, capsys):
    write_photos(tmp_path / "photos", 2, ("happy", "sad"))
    (tmp_path / "answers.csv").write_text("mine")
    said = here(capsys, "predict", tmp_path / "photos", "--csv", tmp_path / "answers.csv")
    assert said.strip() == str(tmp_path / "answers_2.csv")
    table = pd.read_csv(tmp_path / "answers_2.csv")
    assert len(table) == 4 and table.columns[:3].tolist() == ["path", "emotion", "confidence"]
    assert (tmp_path / "answers.csv").read_text() == "mine"


def test_the_box_counts_the_pixels_of_the_file(tmp_path, capsys):
    portrait = hopper(size=(700, 700))[0].resize((1400, 1400))
    large = Image.new("RGB", (3000, 4000), "grey")
    large.paste(portrait, (1500, 2200))
    sideways = large.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to be upright
    sideways.save(tmp_path / "phone.jpg", exif=exif)
    (answer,) = json.loads(here(capsys, "predict", tmp_path / "phone.jpg", "--json"))
    left, top, right, bottom = answer["box"]
    eyes = 1500 + 2 * 316, 1500 + 2 * 400, 2200 + 2 * 239
    assert left < eyes[0] < eyes[1] < right and top < eyes[2] < bottom and right - left < 600


def test_faces_of_a_folder_are_counted_and_a_name_that_is_no_text_is_written(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    hopper()[0].save(photos / "a.png")
    Image.open(FLOWER).save(os.fsencode(photos) + b"/caf\xe9.png")
    here(capsys, "predict", photos, "--faces", "--csv", tmp_path / "answers.csv")
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table.columns[:3].tolist() == ["path", "faces", "emotion"] and table.faces.tolist() == [1, 0]
    assert table.path[1].endswith(r"caf\xe9.png")
    assert main(["predict", str(photos), "--faces", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[1]["path"] == table.path[1]
    assert "Faces: 1 cropped, 1 without a face" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nowhere.jpg"], "nowhere.jpg"), (["data/sample.png", "--model", "nothing"], "nothing")],
)
def test_what_is_not_there_is_one_sentence(arguments, sentence, capsys):
    assert main(["predict", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and sentence in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", ""], "PHOTO is empty: give a file, a folder or a web address."),
        (["predict", "  "], "PHOTO is empty: give a file, a folder or a web address."),
        (
            ["predict", "photos", "--csv", "out"],
            "--csv out is a folder: give a file in it, as out/answers.csv.",
        ),
        (["predict", "photos", "--csv", "a.csv", "--json"], "--csv writes a table and --json prints one: "),
        (["predict", "a.jpg", "--faces"], "--faces is for a folder; in a single photo all faces are found"),
        (["demo", "--port", "99999"], "--port 99999 is not a port; give a number from 1 to 65535."),
        (["demo", "--port", "0"], "--port 0 is not a port; give a number from 1 to 65535."),
    ],
)
def test_what_cannot_be_meant_is_told_before_any_work(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 1, ("happy",))
    (tmp_path / "out").mkdir()
    (tmp_path / "a.jpg").write_bytes(next(tmp_path.rglob("*.jpg")).read_bytes())
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(sentence) and said.err.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "out", "a.jpg"}


def test_a_third_party_model_is_told_what_it_does_not_say(tmp_path, capsys):
    write_photos(tmp_path, 1, ("happy",))
    photo, model = next(tmp_path.rglob("*.jpg")), PROJECT / "tests/files/keras2_grey.h5"
    ask = ["predict", photo, "--json", "--model", model]
    assert main([*map(str, ask)]) == 2
    assert "pass --class-names, a list or a file" in (told := capsys.readouterr().err)
    assert "; --preprocessing, how they were prepared: none, rescale, tf." in told
    names = list("abcdefg")
    (tmp_path / "names.txt").write_text("\n".join(names))
    for given in (", ".join(names), tmp_path / "names.txt"):
        (answer,) = json.loads(here(capsys, *ask, "--preprocessing", "tf", "--class-names", given))
        assert list(answer)[-7:] == names
    assert main([*map(str, ask), "--preprocessing", "mine", "--class-names", ",".join(names)]) == 2
    assert "preprocessing='mine' is unknown" in capsys.readouterr().err
    assert main([*map(str, ask), "--preprocessing", "tf", "--class-names", "a,b"]) == 2
    assert "7 outputs but 2 class names (as given): pass --class-names, 7 names" in capsys.readouterr().err


def test_the_page_is_told_what_a_third_party_model_does_not_say(capsys, monkeypatch):
    from emo.inference import live_page

    opened = []
    monkeypatch.setattr(live_page, "demo", lambda classifiers, share, port: opened.extend(classifiers))
    third = str(PROJECT / "tests/files/keras2_grey.h5")
    assert main(["demo", "--model", third]) == 2
    assert "pass --class-names, a list or a file" in capsys.readouterr().err
    facts = ["--class-names", "a,b,c,d,e,f,g", "--preprocessing", "tf"]
    assert main(["demo", "--model", third, *facts]) == 0
    assert [each.class_names for each in opened] == [tuple("abcdefg")]
    for given in ([], facts):  # of which model would they be?
        assert main(["demo", "--model", "emo_mini", "--model", third, *given]) == 2
        told = capsys.readouterr().err
        assert (
            "it goes with a single --model" in told
            and told.count("\n") == 1
            and "emo.demo([emo.load_classifier(" in told
        )
    assert main(["demo", "--model", "emo_mini", "--model", "nothing"]) == 2
    assert "There is no model nothing" in (told := capsys.readouterr().err) and "single" not in told
    assert main(["demo", "--model", "emo_mini", "--model", "emo_mini"]) == 0 == main(["demo"])
    assert [each.name for each in opened[1:]] == ["emo_mini.h5"] * 3


def test_help_and_version_come_at_once():
    code = (
        "import sys; from emo.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'numpy', 'pandas', 'keras', 'tensorflow'} & set(sys.modules)"
    )
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        command = [sys.executable, "-c", code, *arguments]
        said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert said.returncode == 0 and said.stderr == ""
    assert said.stdout == f"emo {__version__}\n"


def test_what_keras_may_do_without_is_not_imported_and_can_be_afterwards():
    code = (
        "import sys; from emo.commands.quick import OPTIONAL, import_keras; import_keras()\n"
        "assert 'keras' in sys.modules and not set(OPTIONAL) & set(sys.modules)\n"
        "import IPython, cv2, jax, matplotlib.pyplot, sklearn.metrics"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_keras_computes_with_jax_where_its_settings_say_so(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = (
        "from emo.commands.quick import import_keras; import_keras()\n"
        "import keras; print(keras.backend.backend())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "jax\n"


def test_prepare_splits_a_folder_and_prints_the_counts(tmp_path, capsys):
    write_photos(tmp_path / "photos", 10)
    shares = ("--val", "0.3", "--test", "0.1")
    counts = json.loads(here(capsys, "prepare", tmp_path / "photos", "--root", tmp_path, *shares, "--json"))
    assert [counts[f"{use} photos"]["all"] for use in ("training", "validation", "test")] == [18, 9, 3]
    assert len(pd.read_csv(tmp_path / "data/split.csv")) == 30
    table = here(capsys, "prepare", "--root", tmp_path)  # what lies there already
    assert table.splitlines()[0].split() == ["train", "all"] and "validation photos" in table
    assert main(["prepare", str(tmp_path / "nowhere"), "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_prepare_asks_for_the_source_of_what_is_to_be_added(tmp_path, capsys):
    write_photos(tmp_path / "data/train", 10)
    assert main(["prepare", "--root", str(tmp_path), "--add", "second"]) == 2
    told = capsys.readouterr().err
    assert "emo prepare SOURCE --add second" in told and told.count("\n") == 1
    assert not (tmp_path / "data/split.csv").exists()


def test_evaluate_takes_class_folders_or_a_projects_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "data/train", 6, ("happy", "sad"))
    write_photos(tmp_path / "data/test", 5, ("happy", "sad"), seed=1)
    said = json.loads(here(capsys, "evaluate", "data/test", "--json"))
    assert said["photos"] == 10 and list(said["per_class"]) == ["happy", "sad"]
    assert said["model"].startswith("emo_mini")
    *figures, page = here(capsys, "evaluate", "data", "--report", "reports").splitlines()
    assert figures[0].startswith(
        f"emo_mini.h5 on test photos: accuracy {said['accuracy']:.1%} (95% interval "
    )
    assert figures[2].split() == ["precision", "recall", "f1", "photos"] and len(figures) == 6
    assert page.startswith("reports/") and "<html" in Path(page).read_text(encoding="utf-8")
    assert here(capsys, "evaluate", ".").startswith(figures[0])
    (tmp_path / "data").rename(tmp_path / "photos")
    assert main(["evaluate", "photos"]) == 2
    assert "holds a folder train and no classes; give the folder to test on" in capsys.readouterr().err
    write_photos(tmp_path / "mine", 1, ("anger",))
    assert main(["evaluate", "mine"]) == 2
    assert "labelled anger, but emo_mini" in capsys.readouterr().err


def test_evaluate_measures_the_newest_model_of_the_photos_project(tmp_path, capsys, monkeypatch):
    root = tmp_path / "faces"
    write_photos(root / "data/train", 6, ("happy", "sad"))
    write_photos(root / "data/test", 5, ("happy", "sad"), seed=1)
    write_photos(tmp_path / "others", 2, ("happy", "sad"))
    (root / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert here(capsys, "evaluate", "faces/data").startswith("emo_mini.h5 on test photos: accuracy ")
    for number, name in enumerate(("older.h5", "mine.h5")):
        shutil.copy(EMO_MINI, root / "model" / name)
        os.utime(root / "model" / name, (number, number))
    for folder in ("faces/data", "faces"):
        assert here(capsys, "evaluate", folder).startswith("mine.h5 on test photos: accuracy ")
    assert here(capsys, "evaluate", "faces/data/test").startswith("mine.h5 on test photos: accuracy ")
    said = here(capsys, "evaluate", "faces/data", "--json")
    assert next(iter(json.loads(said).items())) == ("model", "mine.h5")
    said = here(capsys, "evaluate", "faces/data/test", "--model", "emo_mini")
    assert said.startswith("emo_mini.h5 on test photos: accuracy ")
    assert here(capsys, "evaluate", "others").startswith("emo_mini.h5: accuracy ")


def test_evaluate_says_of_a_folder_in_data_what_its_photos_are_to_the_models(tmp_path, capsys):
    data = tmp_path / "faces/data"
    for number, split in enumerate(("train", "val", "test")):
        write_photos(data / split, 5, ("happy", "sad"), seed=number)
    shutil.copy(data / "train/sad/sad_000.jpg", data / "test/sad/copy.jpg")
    said = here(capsys, "evaluate", data / "train")
    assert said.startswith("emo_mini.h5 on training photos: ") and "has seen these photos" in said
    assert "duplicate" not in said  # of themselves
    said = here(capsys, "evaluate", data / "val")
    assert said.startswith("emo_mini.h5 on validation photos: ") and "chose its best epoch" in said
    assert "none has a duplicate in training" in said
    said = here(capsys, "evaluate", data / "test")
    assert "on test photos: " in said and "without the 1 with a duplicate in training: accuracy" in said
    write_photos(data / "mine", 2, ("happy",), seed=7)
    assert "duplicate" not in here(capsys, "evaluate", data / "mine")  # nobody has looked for any


def test_evaluate_of_photos_that_a_project_does_not_know_decides_nothing_there(tmp_path, capsys):
    data = tmp_path / "faces/data"
    write_photos(data / "train", 5, ("happy", "sad"))
    write_photos(data / "mine", 2, ("happy", "sad"), seed=1)
    assert here(capsys, "evaluate", data / "mine").startswith("emo_mini.h5: accuracy ")
    assert sorted(file.name for file in data.iterdir()) == ["mine", "train"]
    (tmp_path / "flat/model").mkdir(parents=True)
    write_photos(tmp_path / "flat/data", 3, ("happy", "sad"))  # class folders in data/ itself
    assert "6 photos" in here(capsys, "evaluate", tmp_path / "flat/data")
    write_photos(tmp_path / "later/data/val", 3, ("happy", "sad"))
    assert "on validation photos: " in here(capsys, "evaluate", tmp_path / "later/data")


def test_evaluate_takes_data_with_nothing_but_photos_to_test_on(tmp_path, capsys):
    write_photos(tmp_path / "faces/data/test", 3, ("happy", "sad"))
    for folder in ("faces", "faces/data", "faces/data/test"):
        said = here(capsys, "evaluate", tmp_path / folder)
        assert said.startswith("emo_mini.h5 on test photos: ") and "6 photos" in said
    assert [file.name for file in (tmp_path / "faces").iterdir()] == ["data"]
    (tmp_path / "faces/data").rename(tmp_path / "faces/photos")
    assert main(["evaluate", str(tmp_path / "faces/photos")]) == 2
    assert "holds a folder test and no classes; give the folder to test on" in capsys.readouterr().err


def write_video(path: Path, count: int) -> None:
    written = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    for number in range(count):
        written.write(np.full((48, 64, 3), 40 + number % 100, np.uint8))
    written.release()


def test_video_prints_where_the_copy_and_the_table_are(tmp_path, capsys):
    write_video(tmp_path / "video.mp4", 6)
    copy, table = here(capsys, "video", tmp_path / "video.mp4").splitlines()
    assert Path(copy).stat().st_size and len(pd.read_csv(table)) == 6
    said = json.loads(here(capsys, "video", tmp_path / "video.mp4", "--json"))
    assert said["rows"] == 6 and said["emotions"] == {}  # no frame has a face
    assert said["csv"] == str(tmp_path / "video_emotions_2.csv")


def test_video_counts_the_emotions_of_faces_and_not_of_frames_without_one(tmp_path, capsys):
    portrait = np.asarray(hopper(size=(700, 700))[0].resize((200, 200)))[:, :, ::-1]
    written = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 4, (200, 200))
    for number in range(8):  # at 4 frames per second faces are looked for in each
        written.write(portrait if number < 4 else np.full((200, 200, 3), 128, np.uint8))
    written.release()
    said = json.loads(here(capsys, "video", tmp_path / "v.mp4", "--json"))
    table = pd.read_csv(said["csv"])
    assert table.face.tolist() == [1] * 4 + [0] * 4
    assert said["emotions"] == table.emotion[:4].value_counts(normalize=True).to_dict()


def test_export_writes_where_it_is_told(tmp_path, capsys):
    to = tmp_path / "network"
    said = json.loads(here(capsys, "export", "savedmodel", "--to", to, "--json"))
    assert said["path"] == str(to) and (to / "saved_model.pb").exists() and said["difference"] < 1e-3
    write_photos(tmp_path / "photos", 8, ("happy", "sad"))
    eight_bits = ["export", "tflite_int8", "--to", tmp_path / "8.tflite", "--photos", tmp_path / "photos"]
    assert main([*map(str, eight_bits)]) == 2
    assert "give --calibrate-on FOLDER" in capsys.readouterr().err
    assert main([*map(str, eight_bits), "--calibrate-on", str(tmp_path / "photos")]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "8.tflite") and "accuracy" in said.err
    assert main(["export", "tflite", "--calibrate-on", str(tmp_path / "photos")]) == 2
    assert "tflite is not calibrated, only tflite_int8 is: leave out --calib" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["export", "floppy"])
    assert "choose from" in capsys.readouterr().err


def test_export_compares_on_class_folders_and_leaves_the_current_folder_as_it_is(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_photos(tmp_path / "photos", 20, ("happy", "sad"))
    ask = ["export", "keras", "--photos", "../photos", "--to", str(tmp_path)]
    assert main(ask) == 0
    assert "on 40 pictures; the same answer for 100.0%, accuracy" in capsys.readouterr().err
    write_photos(tmp_path / "photos", 1, ("anger",))
    assert main(ask) == 0
    told = capsys.readouterr().err
    assert "Compared without accuracy, as the model does not know anger." in told
    assert "on 32 pictures" in told and "data" not in told
    assert list((tmp_path / "here").iterdir()) == []


def test_ctrl_c_is_no_traceback_and_exit_code_130(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes the call and says nothing
        address = "http://{}:{}/photos.zip".format(*server.getsockname())
        command = [sys.executable, "-m", "emo", "prepare", address, "--root", str(tmp_path)]
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"no_proxy": "127.0.0.1"},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        server.settimeout(60)
        call, _ = server.accept()
        with call:  # else it is hung up at once, and the command is telling so when Ctrl-C comes
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said


def test_ctrl_c_that_keeps_what_is_done_is_exit_code_130_too(tmp_path, capsys):
    write_video(tmp_path / "video.mp4", 2000)

    def press():
        while not (tmp_path / "video_emotions.mp4").exists():
            time.sleep(0.01)
        time.sleep(0.3)  # the file is taken first, then frames are written
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert main(["video", str(tmp_path / "video.mp4")]) == 130
    said = capsys.readouterr()
    assert "Stopped: what is done is kept." in said.err
    assert len(pd.read_csv(said.out.splitlines()[1])) < 2000
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_answer_that_nobody_reads_is_no_traceback(tmp_path):
    write_photos(tmp_path / "photos", 10)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "emo", "prepare", str(tmp_path / "photos"), "--root", str(tmp_path)]
    said = subprocess.run(command, cwd=PROJECT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert said.returncode == 141
    assert "Traceback" not in said.stderr and "BrokenPipe" not in said.stderr
