"""Servers that stall, drip, lie and lead elsewhere: real ones, on this machine."""

import gzip
import socket
import threading
import time
from contextlib import contextmanager, suppress
from io import BytesIO

import pytest
import requests

from emo.data import web
from emo.data.download import fetch_dataset
from emo.errors import UserError
from tests.data.files import make_zip, names_in, photo, sentence, small_set

ZIP = make_zip(BytesIO(), small_set()).getvalue()
DRIVE_ID = "1pm86O0t_0caQq3b3Qz5iNI3T77p2o-C1"
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nContent-Disposition: attachment; filename=a.zip\r\n"
)


@contextmanager
def serving(answer):
    """The address of a server that hands each connection to `answer`, which writes what it likes."""
    listening, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve(connection):
        with connection:
            request = connection.recv(65536)
            with suppress(OSError):  # the client has left
                answer(connection, request, over)

    def accept():
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/faces.zip"
    finally:
        over.set()
        listening.close()


def whole(connection, request, over, head=HEAD, body=ZIP):
    connection.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)


def silent(connection, request, over):
    over.wait(30)


def dripped_headers(connection, request, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.02):
        connection.sendall(b"x")


def endless_headers(connection, request, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not over.wait(0.005):
        connection.sendall(b"x")


def endless_continue(connection, request, over):
    while not over.wait(0.002):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def stops_in_the_middle(connection, request, over):
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(ZIP) + ZIP[:400])
    over.wait(30)


def dripped_body(connection, request, over):
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(ZIP))
    for byte in ZIP:
        connection.sendall(bytes([byte]))
        if over.wait(0.05):
            return


def endless_redirects(connection, request, over):
    connection.sendall(
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def slow_redirects(connection, request, over):
    over.wait(0.3)
    endless_redirects(connection, request, over)


STALLS = (
    silent,
    dripped_headers,
    endless_headers,
    endless_continue,
    stops_in_the_middle,
    dripped_body,
    slow_redirects,
)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(web, "STALL", 1.0)
    monkeypatch.setattr(web, "POLL", 0.05)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """Leads the installed gdown to an address on this machine."""

    def to(address):
        get = requests.Session.get
        monkeypatch.setattr(
            requests.Session, "get", lambda self, url, **options: get(self, address, **options)
        )

    (tmp_path / ".cache/gdown").mkdir(parents=True)  # gdown writes its cookies to the home folder
    module = __import__("sys").modules["gdown.download"]
    monkeypatch.setattr(module, "home", str(tmp_path))
    monkeypatch.setattr(
        module, "DEFAULT_COOKIES_FILE", str(tmp_path / ".cache/gdown/cookies.txt"), raising=False
    )
    return to


def downloading():
    return [thread for thread in threading.enumerate() if thread.name.startswith("download of")]


@pytest.mark.parametrize("by_drive", [False, True])
@pytest.mark.parametrize("answer", STALLS)
def test_a_stalled_server_ends_in_a_sentence(paths, impatient, drive, answer, by_drive):
    with serving(answer) as address:
        drive(address)
        start = time.monotonic()
        with pytest.raises(UserError, match="broke" if by_drive else "cannot be fetched") as error:
            fetch_dataset(DRIVE_ID if by_drive else address, paths)
        assert time.monotonic() - start < 10
        assert (DRIVE_ID if by_drive else address) in sentence(error) and not paths.train.exists()
    until = time.monotonic() + 5
    while downloading() and time.monotonic() < until:  # the server is gone: nothing goes on in secret
        time.sleep(0.05)
    assert not downloading()
    assert all(name.endswith(".part") for name in names_in(paths.data))


def test_a_slow_server_that_goes_on_is_waited_for(paths, impatient):
    large = make_zip(
        BytesIO(), small_set() | {"train/happy/large.png": photo(1, size=(1000, 1000))}
    ).getvalue()

    def slow(connection, request, over):
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(large))
        for start in range(0, len(large), 2**19):
            connection.sendall(large[start : start + 2**19])
            over.wait(0.4)

    with serving(slow) as address:
        assert fetch_dataset(address, paths)["train"] == 9


def test_a_zip_at_an_address_is_fetched(paths, impatient, capsys):
    with serving(whole) as address:
        assert fetch_dataset(address, paths) == {"train": 8, "val": 2, "test": 2}
        assert not [name for name in names_in(paths.data) if name.startswith(".")]
    assert fetch_dataset(address, paths)["train"] == 8 and "already here" in capsys.readouterr().out


def test_an_address_that_mentions_google_drive_is_not_taken_for_it(paths, impatient, monkeypatch):
    monkeypatch.setattr(web.gdown, "download", lambda **_: pytest.fail("must not ask Google Drive"))
    with serving(whole) as address:
        assert fetch_dataset(f"{address}?u=https://drive.google.com/uc?id={DRIVE_ID}", paths)["train"] == 8


def redirect(to):
    def answer(connection, request, over):
        if b"/there" in request.split(b"\r\n")[0]:
            return whole(connection, request, over)
        connection.sendall(
            f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )

    return answer


def test_a_redirect_to_http_is_followed(paths, impatient):
    with serving(redirect("/there.zip")) as address:
        assert fetch_dataset(address, paths)["train"] == 8


@pytest.mark.parametrize(
    "to", ["ftp://127.0.0.1/faces.zip", "file:///etc/passwd", "gopher://127.0.0.1/", "data:,x"]
)
def test_a_redirect_to_anything_else_is_refused(paths, impatient, to):
    with serving(redirect(to)) as address, pytest.raises(UserError, match="not http or https") as error:
        fetch_dataset(address, paths)
    assert sentence(error) and not names_in(paths.data)


def refused(status):
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    return lambda connection, request, over: connection.sendall(answer)


def sending(answer):
    return lambda connection, request, over: connection.sendall(answer)


ANSWERS = {
    "not found": (refused(404), "HTTP 404"),
    "forbidden": (refused(403), "HTTP 403"),
    "an error": (refused(500), "HTTP 500"),
    "redirects without end": (endless_redirects, "cannot be fetched"),
    "cut short": (
        sending(HEAD + b"Content-Length: 99999\r\nConnection: close\r\n\r\n" + ZIP),
        "cannot be fetched",
    ),
    "no HTTP at all": (sending(b"SSH-2.0-OpenSSH\r\n"), "cannot be fetched"),
    "nothing": (sending(b""), "cannot be fetched"),
    "a web page": (lambda c, r, o: whole(c, r, o, body=b"<!DOCTYPE html><title>Log in</title>"), "web page"),
    "half a zip": (lambda c, r, o: whole(c, r, o, body=ZIP[:500]), "not a complete zip"),
    "a damaged zip": (lambda c, r, o: whole(c, r, o, body=ZIP[:40] + b"????" + ZIP[44:]), "damaged"),
    "a length that is none": (sending(HEAD + b"Content-Length: x\r\n\r\n"), "127.0.0.1"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_is_no_dataset_is_a_sentence_and_leaves_nothing(paths, impatient, case):
    answer, complaint = ANSWERS[case]
    with serving(answer) as address, pytest.raises(UserError, match=complaint) as error:
        fetch_dataset(address, paths)
    assert sentence(error) and not names_in(paths.data)


def test_a_body_that_a_server_packs_once_more_does_not_fill_the_disk(paths, impatient):
    bomb = gzip.compress(bytes(50 * 2**20))
    head = HEAD + b"Content-Encoding: gzip\r\n"
    with (
        serving(lambda c, r, o: whole(c, r, o, head, bomb)) as address,
        pytest.raises(UserError, match="gzip"),
    ):
        fetch_dataset(address, paths)
    assert not names_in(paths.data)


def test_no_server_at_all(paths, impatient):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/faces.zip"
    with pytest.raises(UserError, match="cannot be fetched") as error:
        fetch_dataset(address, paths)
    assert sentence(error) and not names_in(paths.data)


def test_an_interrupt_stops_the_download(paths, monkeypatch, impatient):
    monkeypatch.setattr(web, "STALL", 30.0)
    with serving(dripped_body) as address:
        join = threading.Thread.join

        def interrupted(thread, timeout=None):
            join(thread, timeout)
            if thread.name.startswith("download of"):
                raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_dataset(address, paths)
        monkeypatch.undo()
    until = time.monotonic() + 5
    while downloading() and time.monotonic() < until:
        time.sleep(0.05)
    assert not downloading() and not paths.train.exists()
