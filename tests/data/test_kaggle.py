"""Kaggle as kagglehub speaks to it: a stand-in server on this machine, which it takes for its proxy."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import kagglehub
import pytest

from emo.data.download import fetch_dataset
from emo.data.web import download_kaggle
from emo.errors import UserError
from emo.paths import NOTEBOOK_FILES
from tests.data.files import make_folder, make_zip, sentence, small_set, snapshot

ZIP = make_zip(BytesIO(), small_set()).getvalue()


class Kaggle(BaseHTTPRequestHandler):
    """Answers for anna/faces, asks for consent or a login for others, and knows nobody called otto."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request, dataset = self.path.rsplit("/", 1)[1], f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        self.server.asked.append((request, dataset, asked.get("datasetVersionNumber")))
        if asked["ownerSlug"] == "otto":
            return self.answer(404, {"code": 404, "message": "Not found"})
        private = dataset == "anna/private" and self.headers["Authorization"] != "Basic YW5uYTprZXk="
        if private:
            return self.answer(403, {"code": 403, "message": "Permission denied"})
        if request == "GetDataset":
            return self.answer(200, {"currentVersionNumber": 3})
        self.answer(200, b"no archive" if dataset == "anna/torn" else ZIP)

    def answer(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/zip" if isinstance(content, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """The server; `asked` is what it was asked. Nobody is logged in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kaggle)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in (
        "KAGGLE_USERNAME",
        "KAGGLE_KEY",
        "KAGGLE_API_TOKEN",
        "KAGGLE_KERNEL_RUN_TYPE",
        "no_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # plain http
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:{1}".format(*server.server_address))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nobody"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "source",
    [
        "kaggle:anna/faces",
        "https://www.kaggle.com/datasets/anna/faces?select=a.png",
        "www.kaggle.com/datasets/anna/faces",
    ],
)
def test_a_dataset_comes_as_a_folder_would_and_is_fetched_once(kaggle, paths, source, capsys):
    counts = fetch_dataset(source, paths)
    assert counts == {"train": 8, "val": 2, "test": 2}
    assert json.loads(paths.dataset_record.read_text())["source"] == "kaggle:anna/faces"
    before, asked = snapshot(paths.data), list(kaggle.asked)
    assert fetch_dataset("kaggle:anna/faces", paths) == counts
    assert "is already here" in capsys.readouterr().out
    assert snapshot(paths.data) == before and kaggle.asked == asked


def test_a_version_may_be_named(kaggle, paths):
    fetch_dataset("kaggle:anna/faces/versions/2", paths)
    assert kaggle.asked == [("DownloadDataset", "anna/faces", 2)]


def test_a_login_opens_what_is_private(kaggle, paths, monkeypatch):
    with pytest.raises(
        UserError, match=r"HTTP 403.*kaggle\.com/datasets/anna/private is there.*kaggle\.json"
    ) as told:
        fetch_dataset("kaggle:anna/private", paths)
    assert sentence(told) and not paths.train.exists()
    monkeypatch.setenv("KAGGLE_USERNAME", "anna")
    monkeypatch.setenv("KAGGLE_KEY", "key")
    assert fetch_dataset("kaggle:anna/private", paths)["train"] == 8


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("kaggle:otto/faces", "Kaggle has no dataset otto/faces"),
        ("kaggle:anna/torn", r"did not send anna/torn \(ValueError: Unsupported archive type"),
        ("kaggle:faces", 'kaggle:faces names no dataset on Kaggle; give "kaggle:owner/name"'),
        ("https://www.kaggle.com/competitions/faces", "names no dataset on Kaggle"),
        ("kaggle:../../etc", "names no dataset on Kaggle"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(kaggle, paths, source, says):
    before = snapshot(paths.data)
    with pytest.raises(UserError, match=says) as told:
        fetch_dataset(source, paths)
    assert sentence(told) and snapshot(paths.data) == before


def test_without_a_network_it_says_so(kaggle, paths, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"Kaggle did not send anna/faces \(ProxyError.*check the connection"
    ) as told:
        fetch_dataset("kaggle:anna/faces", paths)
    assert sentence(told)


def test_without_kagglehub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match="run `pip install kagglehub`") as told:
        download_kaggle("anna/faces")
    assert sentence(told)


def test_kagglehubs_own_copy_stays(kaggle, paths):
    folder = download_kaggle("anna/faces")
    assert folder.is_relative_to(kagglehub.config.get_cache_folder())
    fetch_dataset("kaggle:anna/faces", paths)
    assert (folder / "train/happy/0.png").exists()  # another project may take it from there


def test_an_input_of_a_notebook_on_kaggle_is_found_by_its_name(paths, tmp_path, monkeypatch):
    assert NOTEBOOK_FILES[1].as_posix() == "/kaggle/input"
    make_folder(tmp_path / "input/faces", small_set())
    monkeypatch.setattr("emo.data.download.NOTEBOOK_FILES", (tmp_path / "nowhere", tmp_path / "input"))
    assert fetch_dataset("faces", paths)["train"] == 8
