import hashlib
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from emo.data.manifest import class_names
from emo.data.split import Split
from emo.errors import UserError
from emo.evaluation.evaluate import report
from emo.evaluation.model_card import write_card
from emo.evaluation.report_file import save_report
from emo.experiments import Experiment, get_experiment
from emo.inference.card_seal import SEAL, read_card
from emo.inference.classifier import Classifier, load_classifier
from emo.inference.ensemble import Ensemble
from emo.inference.hub import prepare
from emo.models.build import build_model
from emo.models.saving import save_model
from emo.paths import EMO_MINI, get_paths
from emo.tracking.table import log_run
from tests.fixtures import COLORS, answers, random_answers

NAMES = tuple(COLORS)
EXPERIMENT = get_experiment("10", backbone="vgg16", weights=None, image_size=32)


@pytest.fixture(scope="module")
def model():
    return build_model(EXPERIMENT, 3)


@pytest.fixture
def classifier(model, dataset) -> Classifier:
    metadata = {
        "class_names": NAMES,
        "experiment": EXPERIMENT.__dict__,
        "val_accuracy": 0.443,
        "best_epoch": 7,
        "date": "2026-11-23T10:00:00",
        "versions": "Python 3.13 · Keras 3.13.2",
        "preprocessing": "inside the model (caffe); feed RGB in 0–255",
    }
    path = dataset.model / "emo_classificator_best_1_vgg16_e20_aug1_acc44.h5"
    save_model(model, path, metadata)
    log_run({"model_file": path.name}, dataset)
    return load_classifier(path)


@pytest.fixture
def made():
    table = random_answers(200)
    return report(table, NAMES, model="a.h5", split=Split.TEST, leaked=table.path[:7], temperature=1.8)


@pytest.fixture
def its_own(made, classifier):
    """The same of this very model."""
    return replace(made, model=classifier.path.name)


def test_the_hub_is_told_what_the_card_tells(classifier, dataset, its_own):
    made = its_own
    dataset.dataset_record.write_text('{"source": "/home/me/my_faces.zip", "sha256": "abc"}')
    write_card(classifier, made, dataset)
    _, header, _ = prepare(classifier.path, "me/faces")["README.md"].decode().split("---\n", 2)
    said = yaml.safe_load(header)
    (result,) = said["model-index"][0]["results"]
    assert said["datasets"] == ["my_faces"]
    assert result["dataset"] == {"name": "my_faces", "type": "my_faces", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values == {
        "accuracy": pytest.approx(made.accuracy, abs=0.0006),
        "balanced accuracy": pytest.approx(made.balanced_accuracy, abs=0.0006),
        "macro F1": pytest.approx(made.macro_f1, abs=0.0006),
    }


def hub_header(classifier) -> dict:
    return yaml.safe_load(prepare(classifier.path, "me/faces")["README.md"].decode().split("---\n", 2)[1])


def test_what_the_model_reaches_with_flip_is_not_published_as_the_models(
    classifier, dataset, its_own, capsys
):
    card = write_card(classifier, replace(its_own, model=f"{its_own.model} + flip"), dataset)
    assert "model-index" not in hub_header(classifier)
    told = (
        f"The Hub lists no results: {card.name} tells those with flip (test the model without it); write it"
    )
    assert told in capsys.readouterr().out
    write_card(classifier, its_own, dataset)
    assert "model-index" in hub_header(classifier) and capsys.readouterr().out == ""


def test_an_older_card_publishes_no_results_and_is_replaced(classifier, dataset, its_own, capsys):
    card = write_card(classifier, its_own, dataset)
    new = card.read_bytes()
    text = read_card(card).text
    digest = hashlib.sha256(text.encode()).hexdigest()
    card.write_text(f"{text}\n\n{SEAL}{digest} -->\n", encoding="utf-8")
    assert "model-index" not in hub_header(classifier)
    assert (
        f"{card.name} has none that a program could read, as it is older or handwritten;"
        in capsys.readouterr().out
    )
    assert write_card(classifier, its_own, dataset) == card and card.read_bytes() == new


def test_the_name_of_a_source_cannot_end_the_comment(classifier, dataset, its_own):
    dataset.dataset_record.write_text(json.dumps({"source": "/home/me/a --> <script>.zip"}))
    card = write_card(classifier, its_own, dataset)
    assert card.read_text("utf-8").count("-->") == 1 + read_card(card).text.count("-->")
    assert read_card(card).facts["sources"] == ["a --> <script>.zip"] and not read_card(card).edited


def test_the_card_says_what_the_model_is_learned_and_can(classifier, dataset, made):
    dataset.dataset_record.write_text(
        '{"source": "https://drive.google.com/uc?id=1", "sha256": "abc", "fetched": "2026-11-20T01:02:03"}',
        encoding="utf-8-sig",  # as Notepad saves it
    )
    card = write_card(classifier, made, dataset)
    assert card == classifier.path.with_suffix(".md")
    text = card.read_text(encoding="utf-8")
    for said in (
        "A convolutional network (vgg16) that classifies facial expressions: anger, happy, sad.",
        "32 × 32 px; preprocessing inside the model",
        "Validation accuracy when it was saved: 44.3%, epoch 7",
        "https://drive.google.com/uc?id=1 on 2026-11-20, SHA-256 `abc`",
        "| class | train | test |",
        "| anger | 12 | 4 |",
        "| all | 36 | 12 |",
        f"On 200 test photos, `a.h5`: accuracy **{made.accuracy:.1%}**",
        f"Without the 7 that have a duplicate in training: {made.without_duplicates.accuracy:.1%}",
        f"| sad | {made.per_class.photos['sad']} | {made.per_class.precision['sad']:.1%} |",
        f"Calibration error {made.ece:.3f}",
        f"by 1.80 makes that {made.calibrated_ece:.3f}",
        f"| 50.0% | {made.coverage.threshold[0.5]:.1%} | {made.coverage.accuracy[0.5]:.1%} |",
        "drawn class by class; duplicates stay on one side",
        "## Limits",
        "## Responsible use",
        "AI Act, Art. 5(1)(f)",
    ):
        assert said in text
    settings = re.search("```json\n(.*?)```", text, re.DOTALL).group(1)
    assert Experiment.from_json(settings) == EXPERIMENT
    assert "Undefined" not in text
    assert "\n\n\n" not in text


def test_the_split_is_told_from_what_lies_in_data(classifier, dataset, made):
    (dataset.val / "sad").mkdir(parents=True)
    (dataset.val / "sad" / "1.jpg").write_bytes(next(dataset.train.rglob("*.jpg")).read_bytes())
    assert "those in `data/val`" in write_card(classifier, made, dataset).read_text(encoding="utf-8")
    split = pd.DataFrame(
        {
            "path": list("abcd"),
            "split": ["train", "train", "val", "train"],
            "group": [0] * 4,
            "bytes": [1] * 4,
            "left_out": ["", "", "", "blurred, and no face"],
        }
    )
    split.to_csv(dataset.data / "split.csv", index=False, sep=";")  # as a European Excel saves it
    text = write_card(classifier, made, dataset).read_text(encoding="utf-8")
    assert "By `data/split.csv`: 2 train, 1 val photos." in text


@pytest.mark.parametrize("ours", [True, False])
def test_data_that_did_not_train_the_model_is_not_taken_for_its_own(
    classifier, dataset, made, tmp_path, ours
):
    dataset.dataset_record.write_text('{"source": "mine.zip"}')
    metadata = classifier.metadata | {"date": "2026-11-23T10:00:01"} if ours else {}
    foreign = Classifier(classifier.model, NAMES, metadata, tmp_path / "fetched.h5")
    text = write_card(foreign, made, dataset).read_text(encoding="utf-8")
    said = "No run in this project's table saved it" if ours else "Trained elsewhere"
    assert f"## Data\n\n{said}; its data is not known here.\n\n## Split\n\nNot known here.\n" in text
    assert "mine.zip" not in text and "| all |" not in text and "\n\n\n" not in text


def test_a_renamed_copy_is_known_by_when_its_run_began(classifier, dataset, made):
    log_run({"model_file": "emo_classificator_best_261123100000_vgg16_e20_aug1_acc44.h5"}, dataset)
    renamed = Classifier(classifier.model, NAMES, classifier.metadata, dataset.model / "mine.h5")
    assert "| all | 36 | 12 |" in write_card(renamed, made, dataset).read_text(encoding="utf-8")


def test_a_model_from_elsewhere_has_its_card_where_its_report_is(classifier, dataset, made, tmp_path):
    elsewhere = Classifier(classifier.model, NAMES, classifier.metadata, tmp_path / "shared.v2.h5")
    card = write_card(elsewhere, made, dataset)
    assert card == write_card(elsewhere, made, dataset) == dataset.model / "shared.v2.md"
    assert card.parent == save_report(made, dataset.model, photos=0).parent
    assert not (tmp_path / "shared.v2.md").exists()


def test_the_embedded_model_keeps_its_card(dataset, made):
    shipped = EMO_MINI.with_suffix(".md")
    before = shipped.read_bytes()
    assert write_card(load_classifier(EMO_MINI), made, dataset) == shipped
    assert shipped.read_bytes() == before
    assert list(dataset.model.iterdir()) == []


def test_on_a_full_disk_no_card_is_begun_and_an_older_one_stays(classifier, made, full_disk):
    paths = get_paths(full_disk.folder)
    full_disk.fill(leave=0)
    with pytest.raises(UserError, match=r"\.md cannot be written \(No space left on device\); make room"):
        write_card(classifier, made, paths)
    assert list(paths.model.iterdir()) == []
    full_disk.empty()
    card = write_card(classifier, made, paths)
    before = card.read_bytes()
    full_disk.fill(leave=0)
    with pytest.raises(UserError, match="cannot be written"):
        write_card(classifier, report(random_answers(90), NAMES), paths)
    assert [file.name for file in paths.model.iterdir()] == [card.name] and card.read_bytes() == before


def test_a_folder_on_somebodys_machine_is_not_told(classifier, dataset, made):
    dataset.dataset_record.write_text('{"source": "/home/ivan/secret/faces.zip"}')
    text = write_card(classifier, made, dataset).read_text(encoding="utf-8")
    assert "Fetched from faces.zip." in text
    assert "ivan" not in text


@pytest.mark.parametrize("first", ['"source": "faces.zip", ', ""])
def test_a_further_dataset_is_on_the_card_whoever_placed_the_first(classifier, dataset, made, first):
    further = '{"source": "/home/ivan/more.zip", "fetched": "2026-11-27T01:02:03", "sha256": "def"}'
    dataset.dataset_record.write_text(f'{{{first}"further": {{"theirs": {further}}}}}')
    text = write_card(classifier, made, dataset).read_text(encoding="utf-8")
    assert "Added to it: theirs, from more.zip on 2026-11-27, SHA-256 `def`." in text
    assert ("Fetched from faces.zip." if first else "Placed in `data/` by hand.") in text
    assert "ivan" not in text and "\n\n\n" not in text


@pytest.mark.parametrize("record", ["[]", "{", '{"source": 3}', '{"further": {"a": {"source": 1}}}', "null"])
def test_a_record_that_tells_nothing_is_that_of_photos_placed_by_hand(classifier, dataset, made, record):
    dataset.dataset_record.write_text(record)
    assert "Placed in `data/` by hand.\nPhotos in" in write_card(classifier, made, dataset).read_text("utf-8")


def test_an_edited_card_is_kept_and_an_unedited_one_replaced(classifier, dataset, made):
    card = write_card(classifier, made, dataset)
    other = report(random_answers(90), NAMES)
    assert write_card(classifier, other, dataset) == card
    assert "On 90  photos" not in card.read_text(encoding="utf-8")
    assert "On 90 photos" in card.read_text(encoding="utf-8")
    for edited in (card.read_text(encoding="utf-8").replace("## Limits", "## Bounds"), "# mine\n", ""):
        card.write_text(edited, encoding="utf-8")
        second = write_card(classifier, made, dataset)
        assert second.name == f"{card.stem}_2.md"
        assert card.read_text(encoding="utf-8") == edited
    second.write_bytes(second.read_bytes().replace(b"\n", b"\r\n"))  # as git may on Windows: no edit
    assert write_card(classifier, made, dataset) == second


def test_data_of_another_project_is_not_taken_for_the_models(classifier, dataset, made):
    (dataset.train / "sad").rename(dataset.train / "joy")
    text = write_card(classifier, made, dataset).read_text(encoding="utf-8")
    assert "neither the file nor the project says" in text
    assert "joy" not in text
    assert not dataset.class_names.exists()  # a card changes nothing in data/


def test_a_file_that_says_nothing_of_itself_has_a_card_too(model, paths):
    path = paths.model / "old.h5"
    save_model(model, path, {})
    table = answers(["sad"], [(1, 0, 0)])
    text = write_card(Classifier(model, NAMES, {}, path), report(table, NAMES), paths).read_text("utf-8")
    assert "A convolutional network that classifies facial expressions: " in text
    assert "The file does not say how it was trained." in text
    assert "It was not checked whether" in text
    assert "Undefined" not in text


def test_names_from_outside_cannot_break_the_card(model, paths):
    names = ("a|b", "<script>x</script>", "*c* [d](http://x.y)\n# e")
    path = paths.model / "x.h5"
    metadata = {"experiment": {"backbone": "vgg16", "name": "```\n# broken out"}, "versions": "<b>1</b>"}
    table = answers([*names, names[1]], [(1, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0)], names)
    text = write_card(Classifier(model, names, metadata, path), report(table, names), paths).read_text(
        "utf-8"
    )
    assert r"| a\|b | 1 |" in text
    assert "<script>" not in text
    assert "<b>" not in text
    assert r"\*c\* \[d\](http://x.y) \# e" in text
    assert "\n# broken out" not in text
    assert text.count("```") == 2


def test_an_ensemble_has_no_card(classifier, dataset, made):
    assert class_names(dataset) == NAMES
    with pytest.raises(UserError, match=r"A card is that of one \.h5"):
        write_card(Ensemble([classifier]), made, dataset)
