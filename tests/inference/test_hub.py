"""Models that travel to a Hub and back: huggingface_hub itself speaks to a server of this machine."""

import builtins
import hashlib
import shutil
import sys
from pathlib import Path

import huggingface_hub
import keras
import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from emo.errors import UserError
from emo.evaluation.evaluate import calibrate
from emo.inference.classifier import find_model, load_classifier
from emo.inference.export import export_model
from emo.inference.hub import prepare, push
from emo.paths import EMO_MINI
from tests.inference.hub_server import TOKEN, Hub
from tests.models.test_loading import DATA
from tools import publish

ADDRESS = "hf://owner/faces"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub, and a machine with a token and an empty cache."""
    hub = Hub()
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        "HF_HUB_DISABLE_XET": True,  # whose servers are others
        "HF_HUB_ETAG_TIMEOUT": 2,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield hub
    hub.close()


@pytest.fixture
def model(tmp_path) -> Path:
    """A `.h5` of `train` with a card and a curve beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    card = EMO_MINI.with_suffix(".md").read_text(encoding="utf-8")
    (folder / "faces.md").write_text(card.replace("emo_mini.h5", "faces.h5"), encoding="utf-8")
    shutil.copy(EMO_MINI.with_suffix(".png"), folder / "faces.png")
    return Path(shutil.copy(DATA / "newer_keras.h5", folder / "faces.h5"))


def header(readme: bytes) -> dict:
    _, front, _ = readme.decode().split("---\n", 2)
    return yaml.safe_load(front)


def test_what_is_pushed_comes_back_and_answers_the_same(hub, model, paths, capsys):
    url = push(model, "owner/faces")
    assert url == f"{hub.url}/owner/faces"
    files = hub.files("owner/faces")
    assert set(files) == {"faces.h5", "faces.png", "README.md", "SHA256SUMS"}
    assert files["faces.h5"] == model.read_bytes()
    assert files["SHA256SUMS"] == f"{hashlib.sha256(model.read_bytes()).hexdigest()}  faces.h5\n".encode()
    assert not hub.repos["owner/faces"]["private"]
    assert f'emo.load_classifier("{ADDRESS}") opens it' in capsys.readouterr().out
    pictures = np.load(DATA / "newer_keras.npz")["pictures"]
    expected = load_classifier(model).probabilities(pictures)
    for address in (ADDRESS, f"{ADDRESS}/faces.h5", f"{ADDRESS}@main", Path(ADDRESS)):
        np.testing.assert_array_equal(load_classifier(address).probabilities(pictures), expected)
    found = find_model(ADDRESS, paths.model)
    assert found.read_bytes() == model.read_bytes() and found.name == "faces.h5"
    asked = sum(each.startswith("GET /owner/faces/resolve") for each in hub.asked)
    assert asked == 2  # the file and its checksum, once: then they are in the cache


def test_a_fetched_model_is_not_calibrated_in_the_cache_where_its_checksum_would_refuse_it(hub, model, paths):
    push(model, "owner/faces")
    fetched = load_classifier(ADDRESS)
    with pytest.raises(UserError, match=rf"copy .*faces\.h5 into {paths.model} and calibrate that"):
        calibrate(fetched, paths)
    load_classifier(ADDRESS)


def test_an_export_of_a_fetched_model_lands_in_the_current_folder(hub, model, tmp_path, monkeypatch):
    push(model, "owner/faces")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    written = export_model(load_classifier(ADDRESS), "keras")
    assert written.path.resolve() == tmp_path / "work/faces.keras"
    assert not list((tmp_path / "cache").rglob("*.keras"))


def test_the_card_says_what_the_hub_reads_and_how_to_open_it(hub, model):
    push(model, "owner/faces", private=True, license="cc-by-nc-4.0")
    assert hub.repos["owner/faces"]["private"]
    readme = hub.files("owner/faces")["README.md"]
    said = header(readme)
    both = ["fer2013", "affectnet7_train_80px"]
    assert (said["license"], said["datasets"], said["library_name"]) == ("cc-by-nc-4.0", both, "keras")
    assert said["pipeline_tag"] == "image-classification" and "emotion-recognition" in said["tags"]
    (index,) = said["model-index"]
    (result,) = index["results"]
    assert index["name"] == "faces"
    assert result["dataset"] == {"name": ", ".join(both), "type": ", ".join(both), "split": "test"}
    values = {each["name"]: (each["type"], each["value"]) for each in result["metrics"]}
    assert values == {
        "accuracy": ("accuracy", 0.648),
        "balanced accuracy": ("accuracy", 0.623),
        "macro F1": ("f1", 0.624),
    }
    text = readme.decode()
    assert "## Responsible use" in text and "![The learning curve](faces.png)" in text
    assert f'emo.load_classifier("{ADDRESS}")' in text and "Written by emo.write_card" not in text


def test_a_model_without_card_and_curve(hub, tmp_path):
    model = Path(shutil.copy(DATA / "newer_keras.h5", tmp_path / "bare.h5"))
    files = prepare(model, "owner/bare", dataset="owner/photos")
    assert list(files) == ["bare.h5", "README.md", "SHA256SUMS"]
    said = header(files["README.md"])
    assert said["datasets"] == ["owner/photos"] and "model-index" not in said and "metrics" not in said
    push(model, "owner/bare")
    assert load_classifier("hf://owner/bare").class_names == load_classifier(model).class_names


def test_an_older_revision(hub, model):
    push(model, "owner/faces")
    first = list(hub.repos["owner/faces"]["commits"])[-1]
    other = Path(shutil.copy(EMO_MINI, model))
    push(other, "owner/faces")
    assert len(load_classifier(ADDRESS).class_names) == 7
    assert len(load_classifier(f"{ADDRESS}@{first}").class_names) == 3
    with pytest.raises(
        UserError, match="hf://owner/faces has no such revision; check what stands behind the @"
    ):
        load_classifier(f"{ADDRESS}@v9")


def test_a_second_model_is_told_by_its_file_and_the_first_keeps_its_checksum(hub, model, capsys):
    push(model, "owner/faces")
    assert "was replaced" not in capsys.readouterr().out
    sums = hub.files("owner/faces")["SHA256SUMS"]
    hub.commit("owner/faces", {"SHA256SUMS": sums + b"0" * 64 + b"  gone.h5\n"})
    other = Path(shutil.copy(EMO_MINI, model.with_name("other.h5")))
    capsys.readouterr()
    for _ in range(2):  # the same again is no third model
        push(other, "owner/faces")
        told = capsys.readouterr().out
        assert f'emo.load_classifier("{ADDRESS}/other.h5") opens it' in told
        assert "README.md of owner/faces was replaced; what it was stays among" in told
        assert f"Also there: faces.h5. So {ADDRESS} without a file's name opens none of them" in told
        files = hub.files("owner/faces")
        assert f'emo.load_classifier("{ADDRESS}/other.h5")' in files["README.md"].decode()
        sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in ("faces.h5", "other.h5")]
        assert files["SHA256SUMS"].decode().splitlines() == sums
    assert len(load_classifier(f"{ADDRESS}/other.h5").class_names) == 7
    assert len(load_classifier(f"{ADDRESS}/faces.h5").class_names) == 3
    hub.commit("owner/faces", {"faces.h5": EMO_MINI.read_bytes()})
    assert "is not what SHA256SUMS there names" in one_sentence(load_classifier, f"{ADDRESS}/faces.h5")


def test_what_keras_itself_uploads_opens(hub, tmp_path):
    images = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(images))
    keras.saving.save_model(keras.Model(images, outputs), tmp_path / "folder", zipped=False)
    files = [file for file in (tmp_path / "folder").iterdir() if file.is_file()]
    hub.commit("owner/keras", {file.name: file.read_bytes() for file in files})
    assert load_classifier("hf://owner/keras", ["a", "b"], preprocessing="rescale").image_size == 8


def test_a_model_that_was_exchanged_is_not_opened(hub, model):
    push(model, "owner/faces")
    hub.commit("owner/faces", {"faces.h5": EMO_MINI.read_bytes()})
    with pytest.raises(
        UserError, match=r"faces\.h5 of hf://owner/faces is not what SHA256SUMS there names.*delete"
    ):
        load_classifier(ADDRESS)


def test_what_lies_in_the_cache_needs_no_network(hub, model):
    push(model, "owner/faces")
    load_classifier(f"{ADDRESS}/faces.h5")
    hub.close()
    assert load_classifier(f"{ADDRESS}/faces.h5").class_names == load_classifier(model).class_names
    with pytest.raises(
        UserError, match=r"The Hub cannot be reached for hf://owner/faces .*check the connection"
    ):
        load_classifier(ADDRESS)
    with pytest.raises(UserError, match="cannot be reached for hf://owner/faces, and it is not in the cache"):
        load_classifier(f"{ADDRESS}/other.h5")
    with pytest.raises(UserError, match=r"The Hub cannot be reached for owner/faces .*check the connection"):
        push(model, "owner/faces")


def one_sentence(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as told:
        call(*arguments, **options)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")
    return str(told.value)


def test_what_cannot_be_fetched_is_told_in_a_sentence(hub, model, monkeypatch):
    h5 = model.read_bytes()
    hub.commit("owner/many", {"a.h5": h5, "b/c.keras": h5, "README.md": b"", "SHA256SUMS": b"\xff no sums\n"})
    hub.commit("owner/none", {"pytorch_model.bin": b""})
    assert (
        "holds several models; add the name of one, as hf://owner/many/a.h5: a.h5, b/c.keras"
        in one_sentence(load_classifier, "hf://owner/many")
    )
    assert load_classifier("hf://owner/many/b/c.keras").path.name == "c.keras"
    assert "holds no .h5 and no .keras" in one_sentence(load_classifier, "hf://owner/none")
    assert "holds no such file" in one_sentence(load_classifier, "hf://owner/many/A.h5")
    for address in ("hf://owner", "hf://", "hf://owner/name@", "hf://o wner/name"):
        assert "is not an address on the Hub; write hf://owner/name" in one_sentence(load_classifier, address)
    hub.repos["owner/many"]["private"] = True
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    for address in ("hf://owner/nothing", "hf://owner/many", "hf://owner/many/a.h5"):
        assert (
            "on the Hub that you may see; check the name, and where it is private, set HF_TOKEN"
            in one_sentence(load_classifier, address)
        )


def test_what_cannot_be_pushed_is_told_in_a_sentence(hub, model, monkeypatch):
    assert "'faces' is not a name on the Hub; write owner/name" in one_sentence(push, model, "faces")
    assert "There is no model file" in one_sentence(push, model.with_name("gone.h5"), "owner/faces")
    (model.parent / "other.h5").write_bytes(b"no model")
    assert "other.h5 is not a .h5 model" in one_sentence(push, model.parent / "other.h5", "owner/faces")
    assert "HTTP 403); set HF_TOKEN to a token of yours that may" in one_sentence(push, model, "others/faces")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "set HF_TOKEN" in one_sentence(push, model, "owner/faces")
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a token of yours that may write: make one at https://" in one_sentence(
        push, model, "owner/faces"
    )
    assert hub.repos == {}


def test_the_projects_own_models_are_uploaded_by_one_command(hub, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools.publish", "owner", "--dry-run"])
    publish.main()
    said = capsys.readouterr().out
    assert "hf://owner/emo_mini\n" in said and "license: other" in said and "value: 0.648" in said
    assert hub.asked == []
    monkeypatch.setattr(sys, "argv", ["tools.publish", "owner"])
    publish.main()
    assert set(hub.files("owner/emo_mini")) == {*("emo_mini.h5", "emo_mini.png", "README.md", "SHA256SUMS")}
    assert load_classifier("hf://owner/emo_mini").path.read_bytes() == EMO_MINI.read_bytes()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SystemExit) as ended:
        publish.main()
    assert ended.value.code == 2 and "needs a token of yours" in capsys.readouterr().err


def test_a_readme_that_links_to_a_model_that_is_gone(tmp_path):
    (tmp_path / "README.md").write_text("[a](a.h5), [the card](a.md), [elsewhere](https://x/b.h5), [a](a.h5)")
    with pytest.raises(UserError, match=r"README\.md links to a\.h5, which is not there\."):
        publish.shipped(tmp_path / "README.md")
    (tmp_path / "a.h5").write_bytes(b"")
    assert publish.shipped(tmp_path / "README.md") == [tmp_path / "a.h5"]


def test_without_the_package_it_is_named(hub, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "pip install huggingface_hub" in one_sentence(load_classifier, ADDRESS)


def test_the_stand_in_is_asked_what_the_hub_would_be(hub, model):
    """Each kind of call that huggingface_hub makes came here, so that nothing went elsewhere."""
    push(model, "owner/faces")
    load_classifier(ADDRESS)
    kinds = " ".join(hub.asked)
    for part in (
        "repos/create",
        "preupload/main",
        "lfs/objects/batch",
        "commit/main",
        "HEAD /owner/faces/resolve",
    ):
        assert part in kinds
    assert hub.url == huggingface_hub.constants.ENDPOINT
