import base64
import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from emo.data.split import Split
from emo.errors import UserError
from emo.evaluation.comparison import compare
from emo.evaluation.evaluate import report
from emo.evaluation.report_file import read_report, save_report
from tests.fixtures import COLORS, answers, random_answers, write_photos

NAMES = tuple(COLORS)
HOSTILE = "<script>alert('1')</script>"


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def images(self, kind: str) -> list[Image.Image | bytes]:
        start = f"data:image/{kind};base64,"
        sources = [attrs["src"] for tag, attrs in self.elements if tag == "img"]
        return [base64.b64decode(source[len(start) :]) for source in sources if source.startswith(start)]


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def made(dataset):
    """A report on real photos, a third of them named wrong, one with a duplicate in training."""
    files = sorted(dataset.test.rglob("*.jpg"))
    rows = [np.roll([0.7, 0.2, 0.1], place + (index % 3 == 0)) for index, place in enumerate([0, 1, 2] * 4)]
    table = answers([file.parent.name for file in files], rows).assign(path=[str(file) for file in files])
    return report(table, NAMES, model="a.h5", split=Split.TEST, leaked=files[:1], temperature=1.5)


def test_the_page_shows_every_figure(made, tmp_path):
    page = read(save_report(made, tmp_path))
    for said in (
        f"{made.accuracy:.1%}",
        f"{made.balanced_accuracy:.1%}",
        f"{made.macro_f1:.3f}",
        f"{made.ece:.3f}",
        f"{made.calibrated_ece:.3f} at temperature 1.50",
        "12 test photos",
        "right for 33.3% of these photos",
        "Without the 1 that have a duplicate",
        f"{made.without_duplicates.accuracy:.1%}",
        *("Confusion matrix", "Calibration and coverage", "Most confident mistakes"),
        *NAMES,
    ):
        assert said in page.text
    assert len(page.images("svg+xml")) == 2


def test_the_page_shows_the_surest_mistakes_small(made, tmp_path):
    wrong = len(made.mistakes)
    thumbnails = read(save_report(made, tmp_path)).images("jpeg")
    assert len(thumbnails) == wrong > 3
    first = Image.open(BytesIO(thumbnails[0]))
    assert first.size == (96, 96)
    expected = COLORS[made.mistakes.label[0]]
    np.testing.assert_allclose(np.asarray(first).mean(axis=(0, 1)), expected, atol=12)
    assert len(read(save_report(made, tmp_path, photos=3)).images("jpeg")) == 3
    assert read(save_report(made, tmp_path, photos=0)).images("jpeg") == []


def test_fewer_than_no_photos_show_no_face(made, tmp_path):
    with pytest.raises(UserError, match=r"photos=-1 must be 0 or more; 0 shows none\."):
        save_report(made, tmp_path / "reports", photos=-1)
    assert not (tmp_path / "reports").exists()


def test_a_report_without_its_photos_or_without_mistakes_is_whole(tmp_path):
    gone = report(random_answers(50), NAMES)
    page = read(save_report(gone, tmp_path))
    assert page.images("jpeg") == []
    assert gone.mistakes.path[0].split("/")[-1] in page.text
    perfect = report(answers(["sad"], [(0, 0, 1)]), NAMES)
    text = read(save_report(perfect, tmp_path / "new" / "folder")).text
    assert "No mistakes." in text
    assert "1 photo ·" in text


def test_it_asks_nothing_of_the_net_and_runs_nothing(made, tmp_path):
    text = save_report(made, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    links = [attrs[name] for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "url(" not in text
    assert "@import" not in text
    policy = next(attrs["content"] for tag, attrs in page.elements if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_names_from_outside_stay_text(tmp_path):
    names = (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "грусть & радость")
    table = answers([names[0], names[1], names[2], names[3]], np.roll(np.eye(4), 1, axis=1), names)
    table["path"] = [f"/photos/{number}/{HOSTILE.replace('/', '')}'\".jpg" for number in range(4)]
    path = save_report(report(table, names, model=f"{HOSTILE}.h5"), tmp_path)
    assert path.parent == tmp_path
    page = read(path)
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert tags.count("img") == 2  # the two figures
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    for name in names:
        assert name in page.text
    assert list(read_report(path.with_suffix(".json")).confusion.index) == list(names)


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file())


def test_a_second_report_of_the_same_answers_replaces_the_first(made, tmp_path):
    pair = ["a_report.html", "a_report.json"]
    first = save_report(made, tmp_path / "model")
    assert (first.name, names(first.parent)) == (pair[0], pair)
    first.write_text("older")
    warmer = replace(made, temperature=2.5)  # fitted again; the answers are the same
    assert save_report(warmer, first.parent) == first
    assert names(first.parent) == pair and "2.50" in first.read_text(encoding="utf-8")
    assert read_report(first.with_suffix(".json")).temperature == 2.5
    first.unlink()
    assert save_report(made, first.parent) == first and names(first.parent) == pair


def test_what_says_something_else_is_kept(made, tmp_path):
    first = save_report(made, tmp_path / "model")
    kept = {file.name: file.read_bytes() for file in first.parent.iterdir()}
    table = made.predictions
    # a newer model in a file of that name, other photos, labels that were corrected
    others = [
        table.assign(emotion=table.emotion.to_numpy()[::-1]),
        table.iloc[:-1],
        table.assign(label=["sad", *table.label[1:]]),
    ]
    for number, other in enumerate(others, 2):
        page = save_report(report(other, NAMES, model="a.h5"), first.parent)
        assert page.name == f"a_report_{number}.html"
    assert {name: (first.parent / name).read_bytes() for name in kept} == kept
    (tmp_path / "a_report.json").write_text("mine")
    assert save_report(made, tmp_path).name == "a_report_2.html"
    assert (tmp_path / "a_report.json").read_text() == "mine"


def test_the_file_is_called_after_the_model(tmp_path):
    table = random_answers(3)
    for model, name in (
        ("mean of 2: a.h5, b c.h5 + flip", "mean_of_2_a_b_c_flip_report.html"),
        ("../../etc/passwd", "etc_passwd_report.html"),
        ("", "model_report.html"),
    ):
        assert save_report(report(table, NAMES, model=model), tmp_path, photos=0) == tmp_path / name


def test_json_reads_back_as_the_same_report(made, tmp_path):
    path = save_report(made, tmp_path).with_suffix(".json")
    again = read_report(path)
    assert str(again) == str(made)
    assert (again.model, again.split, again.temperature) == ("a.h5", "test", 1.5)
    assert again.accuracy == made.accuracy
    assert again.ece == made.ece
    assert again.without_duplicates.interval == made.without_duplicates.interval
    pd.testing.assert_frame_equal(again.per_class, made.per_class)
    pd.testing.assert_frame_equal(again.confusion, made.confusion)
    pd.testing.assert_frame_equal(again.coverage, made.coverage)
    columns = ["label", "emotion", "confidence", *NAMES]
    pd.testing.assert_frame_equal(again.predictions[columns], made.predictions[columns])
    assert compare(again, made).difference == 0
    # and once more, though its photos are now known by a relative path alone
    assert str(read_report(save_report(again, tmp_path).with_suffix(".json"))) == str(made)


def test_photos_that_all_have_a_duplicate_are_told_and_read_back(made, tmp_path):
    known = report(made.predictions, NAMES, model="a.h5", leaked=made.predictions.path)
    page = save_report(known, tmp_path)
    text = read(page).text
    assert "Every photo has a duplicate in training" in text and f"{made.accuracy:.1%}" in text
    again = read_report(page.with_suffix(".json"))
    assert str(again) == str(known) and "every photo has a duplicate in training" in str(again)
    saved = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert saved["without_duplicates"] == {"photos": 0, "accuracy": None, "interval": None}


def test_figures_by_dataset_are_on_the_page_and_read_back(tmp_path):
    table = random_answers(60).assign(path=[f"test/{n}.jpg" for n in range(60)])
    table.insert(2, "source", ["fer2013", "<b>own</b>"] * 30)
    made = report(table, NAMES, model="a.h5")
    page = save_report(made, tmp_path, photos=0)
    pd.testing.assert_frame_equal(read_report(page.with_suffix(".json")).by_source, made.by_source)
    text = page.read_text(encoding="utf-8")
    assert "By dataset" in text and "&lt;b&gt;own" in text and "<b>own" not in text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_json_keeps_every_digit(tmp_path, dtype):
    table = random_answers(40)
    table[["confidence", *NAMES]] = table[["confidence", *NAMES]].astype(dtype)
    path = save_report(report(table, NAMES), tmp_path, photos=0).with_suffix(".json")
    kept = read_report(path).predictions
    assert (kept[list(NAMES)].to_numpy() == table[list(NAMES)].to_numpy()).all()


def test_json_says_figures_origin_and_nothing_of_the_machine(made, tmp_path):
    text = save_report(made, tmp_path).with_suffix(".json").read_text(encoding="utf-8")
    saved = json.loads(text)
    assert (saved["schema"], saved["model"], saved["photos"]) == (1, "a.h5", 12)
    assert saved["accuracy"] == made.accuracy
    assert saved["interval"] == list(made.interval)
    assert saved["confusion"] == made.confusion.to_numpy().tolist()
    assert saved["without_duplicates"]["photos"] == 11
    assert [row[1] for row in saved["predictions"]] == [True] + [False] * 11
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", saved["date"])
    assert "Keras" in saved["versions"]
    assert str(tmp_path) not in text
    assert saved["predictions"][0][0] == "test/anger/anger_000.jpg"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no json", "is not a report"),
        (b"[]", "is not a report"),
        (b'{"schema": 1}', "is not a report"),
        (b'{"schema": 2}', "has schema 2"),
        (b"\xff\xfe", "is not a report"),
        (None, "There is no report"),
    ],
)
def test_another_file_is_no_report(tmp_path, content, says):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_report(path)


def test_photos_in_one_folder_keep_their_names(tmp_path):
    write_photos(tmp_path / "test", 2, classes=("sad",))
    files = sorted((tmp_path / "test").rglob("*.jpg"))
    table = answers(["sad"] * 2, [(0, 1, 0)] * 2).assign(path=[str(file) for file in files])
    page = read(save_report(report(table, NAMES), tmp_path))
    assert "sad_000.jpg" in page.text
    assert len(page.images("jpeg")) == 2


DAMAGE = {
    "class_names": ["abc", [1, 2, 3], [], None, {"anger": 1}, ["anger", "anger", "sad"], ["anger", "happy"]],
    "columns": [[], None, ["path"], "path", [["path"]], [1] * 7, {"path": 1}],
    "predictions": [None, {}, "x", [[]], [[1]], [None], 5, [{"path": "a"}]],
    "model": [None, 5, ["a"]],
    "split": [None, 5, ["a"], {}],
    "temperature": ["x", True, -1, 0, 1e300, [], {}],
    "schema": [None, [], {}, "1", 10**400],
}
CELLS = [None, "x", -1, 2, 10**400, True, [], {}, "no class"]


@pytest.fixture
def saved(made, tmp_path):
    path = save_report(made, tmp_path, photos=0).with_suffix(".json")
    return path, json.loads(path.read_text())


def test_wrong_types_in_a_saved_report_are_one_sentence(saved):
    path, document = saved
    for key, values in DAMAGE.items():
        for value in values:
            path.write_text(json.dumps(document | {key: value}))
            with pytest.raises(UserError, match=r"is not a report that save_report wrote|has schema") as told:
                read_report(path)
            assert "\n" not in str(told.value), (key, value)
    for column in range(len(document["columns"])):
        for cell in CELLS:
            rows = [list(row) for row in document["predictions"]]
            if rows[0][column] == cell or (column == 0 and isinstance(cell, str)):
                continue  # no damage: a path may be any text
            rows[0][column] = cell
            if document["columns"][column] == "duplicate" and isinstance(cell, bool):
                continue
            path.write_text(json.dumps(document | {"predictions": rows}))
            with pytest.raises(UserError):
                read_report(path)


def test_missing_keys_deep_nesting_and_cut_files_are_one_sentence(saved):
    path, document = saved
    whole = path.read_bytes()
    for key in ("schema", "model", "split", "class_names", "columns", "predictions", "temperature"):
        path.write_text(json.dumps({name: value for name, value in document.items() if name != key}))
        with pytest.raises(UserError, match="is not a report"):
            read_report(path)
    for content in (
        whole[: len(whole) // 2],
        b"[" * 100_000,
        b"",
        b"null",
        b"NaN",
        whole.replace(b"1", b"\xff", 1),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a report"):
            read_report(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_report_reads_or_is_one_sentence(saved, data):
    path, document = saved
    content = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    with suppress(UserError):
        assert 0 <= read_report(path).accuracy <= 1


LONG = "a_class_with_a_name_much_longer_than_a_phone_is_wide_" * 2
# what is cut by the window, or wider than it, and lies in nothing that scrolls
CUT = """() => [...document.querySelectorAll("body *")]
  .filter(e => !e.parentElement.closest(".wide") && (e.getBoundingClientRect().right > innerWidth
    || (e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).overflowX != "auto")))
  .map(e => `${e.tagName}.${e.className}`)"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_of_the_page_is_cut_on_a_phone_or_a_screen(tmp_path, width):
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    classes = (*(f"emotion {number}" for number in range(8)), LONG)
    table = random_answers(200, names=classes)
    table["path"] = [f"/photos/{label}/{LONG}{number}.jpg" for number, label in enumerate(table.label)]
    file = save_report(report(table, classes, model=f"mean of 2: {LONG}.h5, {LONG}2.h5"), tmp_path)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(CUT) == []
        # a table that is wider than a phone scrolls, with the names of its rows in view
        scrolled = page.evaluate("""() => { const box = document.querySelector(".matrix").parentElement;
          box.scrollLeft = 10000; return [box.scrollLeft > 0, document.querySelector(".matrix tbody th")
          .getBoundingClientRect().left >= box.getBoundingClientRect().left]; }""")
        assert scrolled == [width == 390, True]
        browser.close()


def test_tables_scroll_or_stack_and_names_wrap(made, tmp_path):
    page = read(save_report(made, tmp_path))
    style = page.text
    assert ".wide { overflow-x: auto" in style and "overflow-wrap: break-word" in style
    assert "@media screen and (max-width: 44rem)" in style and "position: sticky" in style
    labels = [attrs["data-label"] for tag, attrs in page.elements if tag == "td" and "data-label" in attrs]
    assert labels[:5] == ["photos", "precision", "recall", "F1", "most often confused with"]


@pytest.mark.parametrize("leave", [0, 8192, 40_000])  # 40,000: room for the JSON alone
def test_on_a_full_disk_no_half_of_the_pair_is_left(made, full_disk, leave):
    full_disk.fill(leave=leave)
    with pytest.raises(
        UserError, match=r"a_report.* cannot be written \(No space left on device\); make room"
    ):
        save_report(made, full_disk.folder, photos=0)
    assert names(full_disk.folder) == ["filler"]


def test_on_a_full_disk_the_older_report_stays_as_it_was(made, full_disk):
    page = save_report(made, full_disk.folder, photos=0)
    before = {file.name: file.read_bytes() for file in full_disk.folder.iterdir()}
    full_disk.fill(leave=40_000)
    with pytest.raises(UserError, match="cannot be written"):
        save_report(replace(made, temperature=2.5), full_disk.folder, photos=0)
    full_disk.empty()
    assert {file.name: file.read_bytes() for file in full_disk.folder.iterdir()} == before
    assert save_report(made, full_disk.folder, photos=0) == page
