"""On a small video: Grace Hopper's portrait (public domain, of Matplotlib's samples) moves over grey."""

import _thread
import struct
import threading
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emo.errors import UserError
from emo.inference import video
from emo.inference.classifier import Classifier
from emo.inference.video import classify_video

NAMES = ("dark", "bright", "ярко")
COLUMNS = ["frame", "time", "face", "left", "top", "width", "height", "emotion", "confidence", *NAMES]
SIZE, FPS, COUNT = (320, 240), 12, 30
PORTRAIT = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
FACE = (0.515, 0.36)  # where its middle is in the portrait, seen by eye


def classifier(metadata: dict | None = None) -> Classifier:
    """It says "bright" for a face whose mean is over 60, "dark" for less."""
    pictures = keras.Input((32, 32, 3))
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(pictures, dense(keras.layers.GlobalAveragePooling2D()(pictures)))
    weights = np.zeros((3, 3))
    weights[:, 1] = 0.05
    dense.set_weights([weights, np.array([0.0, -9.0, -50.0])])
    return Classifier(model, NAMES, metadata or {}, Path("means.h5"))


def write_video(
    path: Path, count: int = COUNT, face: bool = True, size=SIZE, pause: int = 0, fps: float = FPS
) -> list[int]:
    """A video in which the portrait slides to the right; where its left edge is in each frame."""
    written = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    portrait = PORTRAIT.resize((140, 164))
    lefts = [2 * number for number in range(count)]
    for number, left in enumerate(lefts):
        frame = Image.new("RGB", size, "grey")
        if face and not (pause and number >= pause):
            frame.paste(portrait, (left, 60))
        written.write(cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR))
    written.release()
    return lefts


def frames(path: Path) -> tuple[list[np.ndarray], float]:
    video = cv2.VideoCapture(str(path))
    read = []
    while (frame := video.read())[0]:
        read.append(frame[1])
    return read, video.get(cv2.CAP_PROP_FPS)


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    lefts = write_video(folder / "video.mp4")
    return folder, lefts, classify_video(classifier(), folder / "video.mp4")


def test_every_frame_has_its_face_time_and_emotion(classified):
    _, lefts, table = classified
    assert list(table.columns) == COLUMNS
    assert list(table.frame) == list(range(COUNT)) and set(table.face) == {1}
    np.testing.assert_allclose(table.time, np.arange(COUNT) / FPS, atol=0.002)
    middle = table.left + table.width / 2, table.top + table.height / 2
    np.testing.assert_allclose(middle[0], np.array(lefts) + FACE[0] * 140, atol=12)
    np.testing.assert_allclose(middle[1], 60 + FACE[1] * 164, atol=12)
    assert set(table.emotion) == {"bright"} and (table.width == table.height).all()
    np.testing.assert_allclose(table[list(NAMES)].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(table.confidence, table[list(NAMES)].max(axis=1))


def test_the_table_and_an_annotated_copy_lie_beside_the_video(classified):
    folder, _, table = classified
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "video_emotions.csv"), table, rtol=1e-4, check_dtype=False
    )
    before, _ = frames(folder / "video.mp4")
    after, fps = frames(folder / "video_emotions.mp4")
    assert len(after) == COUNT and fps == FPS and after[0].shape == before[0].shape
    for row in table.iloc[[0, 7, COUNT - 1]].itertuples():
        changed = np.abs(after[row.frame].astype(int) - before[row.frame]).max(axis=2) > 60
        across = slice(row.left, row.left + row.width)
        edge = row.top + row.height - 1
        assert changed[edge - 1 : edge + 2, across].any(axis=0).mean() > 0.9  # the lower side of the box
        assert changed[max(0, row.top - 25) : row.top, across].mean() > 0.3  # the label on it
        assert changed[220:, :20].mean() == 0  # the rest is as it was


def test_excel_reads_the_tables_class_names(classified):
    folder, _, _ = classified
    content = (folder / "video_emotions.csv").read_bytes()
    assert content.startswith("\ufeffframe,time,".encode())
    assert "ярко".encode() in content and b"\r" not in content


def test_nothing_is_overwritten(tmp_path):
    write_video(tmp_path / "video.mp4", count=4)
    (tmp_path / "video_emotions.csv").write_text("mine")
    classify_video(classifier(), tmp_path / "video.mp4")
    assert (tmp_path / "video_emotions.csv").read_text() == "mine"
    assert not (tmp_path / "video_emotions.mp4").exists()  # a copy and its table have the same number
    assert {"video_emotions_2.csv", "video_emotions_2.mp4"} <= {file.name for file in tmp_path.iterdir()}


def test_without_a_face_the_whole_frame_or_nothing(tmp_path):
    write_video(tmp_path / "empty.mp4", count=5, face=False)
    table = classify_video(classifier(), tmp_path / "empty.mp4")
    assert table[["left", "top", "width", "height"]].to_numpy().tolist() == [[0, 0, *SIZE]] * 5
    assert set(table.face) == {0}
    cropping = classifier({"experiment": {"face_margin": 0.3}})
    table = classify_video(cropping, tmp_path / "empty.mp4")
    assert list(table.columns) == COLUMNS and len(table) == 0
    assert len(frames(tmp_path / "empty_emotions_2.mp4")[0]) == 5
    assert list(pd.read_csv(tmp_path / "empty_emotions_2.csv").columns) == COLUMNS


@pytest.mark.parametrize("fps", [0.1, 0.5, 1, 7.5, 29.97, 144, 333.3, 1000])
def test_any_rate_keeps_its_duration(tmp_path, fps):
    write_video(tmp_path / "video.mp4", count=10, face=False, fps=fps, size=(64, 48))
    table = classify_video(classifier(), tmp_path / "video.mp4")
    np.testing.assert_allclose(table.time, np.arange(10) / fps, rtol=2e-3)
    copied, rate = frames(tmp_path / "video_emotions.mp4")
    assert len(copied) / rate == pytest.approx(10 / fps, rel=2e-3)
    assert len(copied) == 10 * max(1, round(1 / fps))


def write_gif(path: Path, milliseconds: list[int]) -> None:
    pictures = [Image.effect_noise((64, 48), 60) for _ in milliseconds]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds)


@pytest.mark.parametrize(
    "milliseconds", [[100, 2000, 100, 3000, 50, 50], [40] * 20 + [1000] * 4, [10, 20] * 6, [9000, 4000, 8000]]
)
def test_a_rate_that_varies_keeps_each_time_and_the_duration(tmp_path, milliseconds):
    write_gif(tmp_path / "video.gif", milliseconds)
    table = classify_video(classifier(), tmp_path / "video.gif")
    starts = np.cumsum([0, *milliseconds[:-1]]) / 1000
    np.testing.assert_allclose(table.time, starts, atol=0.002)
    copied, rate = frames(tmp_path / "video_emotions.mp4")
    # how long the last one stays is not told: as long as the mean of the others
    assert len(copied) / rate == pytest.approx(starts[-1] * len(starts) / (len(starts) - 1), rel=3e-3)


def test_the_frames_in_memory_do_not_grow_with_the_rate(tmp_path, monkeypatch):
    write_video(tmp_path / "video.mp4", count=300, face=False, fps=1000, size=(64, 48))
    seen = []
    looked_at = video._looked_at
    monkeypatch.setattr(
        video, "_looked_at", lambda chunks, step: looked_at((seen.append(c) or c for c in chunks), step)
    )
    classify_video(classifier(), tmp_path / "video.mp4")
    assert max(len(chunk.frames) for chunk in seen) <= video.CHUNK


def test_a_face_that_leaves_has_rows_while_it_is_there(tmp_path):
    write_video(tmp_path / "leaves.mp4", count=24, pause=10)
    table = classify_video(classifier({"experiment": {"face_margin": 0.3}}), tmp_path / "leaves.mp4")
    assert set(range(10)) - set(table.frame) == set()
    assert table.frame.max() <= 11  # it is looked for every third frame


def test_a_video_of_a_turned_camera_stands_upright(tmp_path):
    write_video(tmp_path / "video.mp4", count=3)
    content = (tmp_path / "video.mp4").read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, SIZE[1] << 16, 0, 1 << 30)
    track = content.index(b"tkhd")  # ISO/IEC 14496-12, 8.3.2: the track's matrix
    place = content.index(upright, track)
    (tmp_path / "turned.mp4").write_bytes(content[:place] + turned + content[place + len(turned) :])
    classify_video(classifier(), tmp_path / "turned.mp4")
    assert frames(tmp_path / "turned_emotions.mp4")[0][0].shape == (SIZE[0], SIZE[1], 3)


def test_what_is_no_video_is_told_in_a_sentence(tmp_path, capfd):
    with pytest.raises(UserError, match=r"no video .*missing\.mp4"):
        classify_video(classifier(), tmp_path / "missing.mp4")
    write_video(tmp_path / "whole.mp4", count=6)
    content = (tmp_path / "whole.mp4").read_bytes()
    for name, data in (
        ("text.mp4", b"no video"),
        ("cut.mp4", content[: len(content) // 2]),
        ("none.avi", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            classify_video(classifier(), tmp_path / name)
    write_video(tmp_path / "zero.mp4", count=0)
    with pytest.raises(UserError, match=r"zero\.mp4"):
        classify_video(classifier(), tmp_path / "zero.mp4")
    assert not list(tmp_path.glob("*_emotions*"))
    assert "moov" not in capfd.readouterr().err


def test_ctrl_c_before_anything_is_done_is_no_fault_of_the_video(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mp4")

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "_with_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classify_video(classifier(), tmp_path / "long.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["long.mp4"]


def test_ctrl_c_keeps_what_is_done_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "CHUNK", 12)
    write_video(tmp_path / "long.mp4", count=120)

    class Interrupting(Classifier):
        asked = 0

        def probabilities(self, images):
            self.asked += 1
            if self.asked == 2:
                _thread.interrupt_main()  # as Ctrl-C does
                threading.Event().wait(0.1)
            return super().probabilities(images)

    base = classifier()
    table = classify_video(Interrupting(base.model, NAMES, {}, base.path), tmp_path / "long.mp4")
    done = table.frame.nunique()
    assert 0 < done < 120
    assert len(frames(tmp_path / "long_emotions.mp4")[0]) == done
    assert len(pd.read_csv(tmp_path / "long_emotions.csv")) == len(table)
