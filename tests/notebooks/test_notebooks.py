"""The three notebooks, run for real and in order on a tiny set of photos."""

import ast
import csv
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest

import emo_utils
from emo.evaluation.evaluate import report
from emo.experiments import experiment_menu, get_experiment
from emo.paths import get_paths
from emo.tracking.table import read_table
from tests.fixtures import COLORS, answers, write_photos

PROJECT = Path(__file__).resolve().parents[2]
PREP, TRAIN, TEST = (f"emo_classificator_{name}.ipynb" for name in ("prep_data", "train", "test"))
CHANGES = {
    "backbone": "vgg16",
    "weights": None,
    "unfreeze": "all",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 8,
}


def execute(name: str, output: Path, **parameters) -> nbformat.NotebookNode:
    return papermill.execute_notebook(
        str(PROJECT / name), str(output / name), parameters=parameters, cwd=str(PROJECT), progress_bar=False
    )


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def pictures(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def row_accuracy(paths) -> float:
    return read_table(paths).iloc[-1].test_accuracy


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    source = folder / "my photos"
    write_photos(source / "train", 12)
    shutil.copy(source / "train/sad/sad_000.jpg", source / "train/happy/duplicate.jpg")
    (source / "train/sad/empty.jpg").write_bytes(b"")
    write_photos(source / "test", 4, seed=1)
    write_photos(source / "test_kaggle" / "all", 1, seed=2)
    root = folder / "project"
    notebooks = {
        PREP: execute(
            PREP,
            folder,
            ROOT=str(root),
            SOURCE=str(source),
            AUDIT="finetune_mini",
            AUDIT_CHANGES={"image_size": 48},
            FACES=True,
            COPIES=1,
        ),
        TRAIN: execute(TRAIN, folder, ROOT=str(root), EXPERIMENT="6", CHANGES=CHANGES, TENSORBOARD=True),
    }
    (model,) = (root / "model").glob("*.h5")
    photo = str(source / "test/happy/happy_000.jpg")
    notebooks[TEST] = execute(TEST, folder, ROOT=str(root), PHOTO=photo, COMPARE_WITH=model.stem)
    return notebooks, get_paths(root)


def test_prep_fetches_shows_and_writes_the_augmented_copy(executed):
    notebooks, paths = executed
    text = printed(notebooks[PREP])
    assert "50 files in 3 classes: anger, happy, sad" in text
    assert re.search(r"train/sad/empty\.jpg\b[^\0]*?\bempty file\b", text)
    assert "left out: empty file" in text
    assert re.search(r"groups with conflicting labels +1 +1\n", text)
    assert len(list(paths.train_aug.rglob("*.jpg"))) == 29
    assert "37 labels ranked, most doubtful first" in text
    assert paths.suspects_sheet.exists() and paths.relabel.exists() and paths.faces.exists()
    assert "Faces: 0 cropped, 49 without a face" in text
    assert (
        pictures(notebooks[PREP]) == 7
    )  # sizes, classes, duplicates, balance, suspects, faces, augmentation
    assert paths.split.read_text().count("\n") == 51


def test_train_leaves_model_curve_and_row_and_shows_them(executed):
    notebooks, paths = executed
    (model,) = paths.model.glob("*.h5")
    assert model.with_suffix(".png").exists()
    row = read_table(paths).iloc[-1]
    assert (row.number, row.state, row.model_file) == (13, "finished", model.name)
    text = printed(notebooks[TRAIN])
    assert "Run 13 finished: validation accuracy" in text
    assert "Non-trainable params" in text
    assert model.name in text
    assert text.rindex("your newest runs") < text.rindex("the original project's best")
    assert pictures(notebooks[TRAIN]) == 3  # class balance, augmented photos, the live curve
    assert {file.parent.name for file in paths.results.glob("tensorboard/6_*/*/events*")} == {
        "train",
        "validation",
    }


def test_test_reports_shows_and_answers(executed):
    notebooks, paths = executed
    text = printed(notebooks[TEST])
    assert "On test photos: accuracy" in text
    assert pictures(notebooks[TEST]) == 3  # my photo, the report, mistakes
    assert "No clear difference: +0.0 points" in text and ".h5 (the first): wrong" in text
    assert "No face was found: this is the prediction for the whole photo." in text
    assert "(0, 0, 40, 40)" in text
    (page,), (card,) = paths.model.glob("*_report.html"), paths.model.glob("*.md")
    assert 'src="data:image/' in page.read_text(encoding="utf-8")
    assert f"{row_accuracy(paths):.1f}%" in card.read_text(encoding="utf-8")
    row = read_table(paths).iloc[-1]
    assert 0 <= row.test_accuracy <= 100
    assert f"accuracy {row.test_accuracy:.1f}%" in text
    with (paths.results / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image_path", "emotion"]
    assert {row[1] for row in rows[1:]} <= {"anger", "happy", "sad"}
    assert len(rows) == 4


def test_a_photo_is_answered_though_the_labels_in_data_are_not_the_models(executed, tmp_path):
    _, paths = executed
    shutil.copytree(paths.data, tmp_path / "data")
    photo = str(tmp_path / "data/test/happy/happy_000.jpg")
    notebook = execute(TEST, tmp_path, ROOT=str(tmp_path), MODEL="emo_mini", PHOTO=photo)
    text = printed(notebook)
    assert "labelled anger, but emo_mini.h5 knows only angry, disgust" in text
    assert pictures(notebook) == 1  # my photo
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8-sig").count("\n") == 4
    assert list((tmp_path / "model").iterdir()) == []


def test_a_wrong_path_is_told_before_the_long_work(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"VIDEO: There is no nowhere\.mp4"):
        execute(TEST, tmp_path, ROOT=str(tmp_path), SOURCE="sample", VIDEO="nowhere.mp4")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.slow
def test_an_upload_in_jupyter_shows_a_button_and_holds_nothing_up(tmp_path):
    cells = [cell for cell in nbformat.read(PROJECT / TEST, as_version=4).cells if cell.cell_type == "code"]
    mine = [cell for cell in cells if "ask_for_photo(" in cell.source or "open_photo(" in cell.source]
    setup = nbformat.v4.new_code_cell("import emo_utils as emo\nPHOTO = 'upload'")
    notebook = nbformat.v4.new_notebook(
        cells=[setup, *mine],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / TEST)
    executed = papermill.execute_notebook(
        str(tmp_path / TEST), str(tmp_path / "out.ipynb"), cwd=str(PROJECT), progress_bar=False
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("widget-view" in kind for output in outputs for kind in output.get("data", {}))
    assert "choose one above, then run this cell again" in printed(executed)


def test_a_users_mistake_shows_one_sentence_and_no_trace(executed, tmp_path):
    _, paths = executed
    with pytest.raises(papermill.PapermillExecutionError) as raised:
        execute(TRAIN, tmp_path, ROOT=str(paths.root), EXPERIMENT="6", CHANGES={"epoch": 2})
    notebook = nbformat.read(tmp_path / TRAIN, as_version=4)
    (error,) = [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
    assert len(error.traceback) == 1
    assert "Experiment has no field 'epoch'; did you mean 'epochs'?" in error.traceback[0]
    assert "Experiment has no field 'epoch'" in str(raised.value)


@pytest.mark.parametrize("name", [TRAIN, TEST])
def test_a_fresh_machine_fetches_both_datasets_as_the_prep_notebook_does(name, tmp_path):
    write_photos(tmp_path / "first/train", 3)
    write_photos(tmp_path / "further", 2, seed=1)
    prep, form, fetch = (
        next(cell.source for cell in nbformat.read(PROJECT / file, as_version=4).cells if sign in cell.source)
        for file, sign in ((PREP, "# @param"), (name, "# @param"), (name, "emo.fetch_dataset("))
    )
    fields = [line for line in prep.splitlines() if line.startswith(("ADD_SOURCE", "ADD_NAME"))]
    assert len(fields) == 2 and set(fields) <= set(form.splitlines())
    assert "# @markdown The second dataset, as in the prep notebook." in form
    cell = {"emo": emo_utils}
    exec(form, cell)
    cell |= {"ROOT": str(tmp_path / "project"), "SOURCE": str(tmp_path / "first")}
    exec(fetch, cell | {"ADD_SOURCE": str(tmp_path / "further"), "ADD_NAME": "theirs"})
    files = [file.name for file in (tmp_path / "project/data/train").rglob("*.jpg")]
    assert (len(files), sum(file.startswith("theirs_") for file in files)) == (15, 6)


@pytest.mark.parametrize("name", [PREP, TRAIN, TEST])
class TestForm:
    @pytest.fixture
    def notebook(self, name):
        return nbformat.read(PROJECT / name, as_version=4)

    def test_badge_setup_and_parameters_come_first(self, notebook, name):
        first, setup, *rest = notebook.cells
        assert f"/blob/main/{name})" in first.source
        assert "colab-badge.svg" in first.source
        assert "**Takes**" in first.source
        assert setup.source == nbformat.read(PROJECT / TRAIN, as_version=4).cells[1].source
        parameters = [cell for cell in rest if "parameters" in cell.metadata.get("tags", [])]
        assert parameters == [rest[1]]
        lines = parameters[0].source.splitlines()
        assert lines[0].startswith("# @title Parameters")
        assert all("# @param" in line or line.startswith("# @markdown") for line in lines[1:])

    def test_each_parameter_has_a_caption_in_the_form(self, notebook, name):
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        lines = cell.source.splitlines()[1:]
        assert lines[0].startswith("# @markdown ### ")
        alone = [line for above, line in pairwise(lines) if "# @param" in above and "# @param" in line]
        # a seed and a second half of one question need no words of their own
        assert all(line.startswith(("SEED", "AUDIT_CHANGES")) for line in alone)

    def test_cells_are_short_with_prose_between(self, notebook, name):
        cells = [cell for cell in notebook.cells[2:] if "parameters" not in cell.metadata.get("tags", [])]
        assert max(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code") <= 15
        assert not [1 for one, two in pairwise(cells) if one.cell_type == two.cell_type == "code"]

    def test_the_badge_and_the_clone_are_of_one_repository(self, notebook, name):
        repository = notebook.cells[1].source.split('repository = "https://github.com/')[1].split('"')[0]
        assert f"github/{repository}/blob/main/{name}" in notebook.cells[0].source


def field(name: str, parameter: str) -> str:
    """The line of a parameter in a notebook's form."""
    cells = nbformat.read(PROJECT / name, as_version=4).cells
    form = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    return next(line for line in form.splitlines() if line.startswith(f"{parameter} = "))


def test_each_audit_that_the_form_offers_is_at_its_own_image_size():
    line = field(PREP, "AUDIT")
    offered = [name for name in json.loads(line.split("# @param ")[1].split(" {")[0]) if name]
    assert offered == ["finetune_mini", "6"]
    changes = ast.literal_eval(field(PREP, "AUDIT_CHANGES").split(" = ")[1].split(" #")[0])
    assert all(get_experiment(name, **changes) == get_experiment(name) for name in offered)


@pytest.mark.parametrize("name", [PREP, TRAIN, TEST])
def test_a_colab_user_is_told_to_keep_results_in_all_three(name):
    form = next(
        cell.source
        for cell in nbformat.read(PROJECT / name, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    caption = form.splitlines()[form.splitlines().index(field(name, "USE_DRIVE")) - 1]
    assert "Turn it on in all three notebooks" in caption


def source_of(name: str, sign: str) -> str:
    """The cell of a notebook that holds a text."""
    cells = nbformat.read(PROJECT / name, as_version=4).cells
    return next(cell.source for cell in cells if sign in cell.source)


def test_the_figure_of_the_split_names_its_uses_in_full(paths):
    write_photos(paths.train, 10)
    source = source_of(PREP, "emo.split_photos(")
    photos = emo_utils.scan_splits(paths)
    given = {"photos": photos, "duplicates": emo_utils.find_duplicates(photos, near=False), "paths": paths}
    given |= {"VALIDATION": 0.2, "TEST": 0.1, "SEED": 42, "LEAVE_OUT_DUPLICATES": False}
    exec(source, given | {"emo": emo_utils})
    legend = plt.gcf().axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["training", "validation", "test"]
    plt.close()


def test_without_mistakes_the_test_notebook_says_so(capsys):
    source = source_of(TEST, "emo.plot_mistakes(")
    predictions = [(0, 0, 1)] * 3
    exec(source, {"emo": emo_utils, "report": report(answers(["sad"] * 3, predictions), tuple(COLORS))})
    assert capsys.readouterr().out == "No mistakes.\n"
    exec(source, {"emo": emo_utils, "report": None})
    assert capsys.readouterr().out == ""


def test_the_train_form_offers_every_experiment():
    notebook = nbformat.read(PROJECT / TRAIN, as_version=4)
    source = next(c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    line = next(line for line in source.splitlines() if line.startswith("EXPERIMENT"))
    assert json.loads(line.split("# @param ")[1]) == experiment_menu()
    assert get_experiment(line.split('"')[1]).name == "finetune"  # the first choice
