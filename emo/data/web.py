"""What lies in the web: a file on Google Drive, or at any http(s) address, with an end to all waiting.

And a dataset on Kaggle, where kagglehub does the waiting.
"""

import ctypes
import errno
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gdown
import requests
import urllib3
from tqdm.auto import tqdm

from emo.errors import UserError

STALL = 120.0  # seconds in which LEAST bytes must come, or the end; else the server counts as dead
LEAST = 2**19  # bytes; gdown writes as many at once
POLL = 0.2  # seconds
SILENCE = 20.0  # seconds without a byte, where a person waits for a picture
# the body as it lies there: a server that packs it once more could send gigabytes in a few bytes; and some
# sites, Wikimedia's for one, refuse Python's own name
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (emo_classificator)"}


def download_drive(drive_id: str, name: str, folder: Path) -> Path:
    """Download a public Google Drive file into `folder`, going on with what an earlier call left there."""
    target = folder / f".download-{drive_id}.zip"
    if target.exists():  # complete; only its unpacking was interrupted
        return target

    def parts() -> list[Path]:  # gdown writes <target><8 characters>.part, and `resume` picks that up
        return sorted(folder.glob(f"{target.name}*.part"), key=lambda part: part.stat().st_size)

    def kept() -> int:
        return sum(part.stat().st_size for part in parts())

    for smaller in parts()[:-1]:  # given several, gdown 5 returns None and gdown 6 raises
        smaller.unlink()
    try:  # `id`, as gdown 6 has no `fuzzy`
        _watched(lambda: gdown.download(id=drive_id, output=str(target), resume=True), kept, name)
    except gdown.exceptions.FileURLRetrievalError:
        raise UserError(
            f"Google Drive does not hand out {name} (too many downloads today, or not shared with 'Anyone "
            "with the link'); save the zip with your browser and pass its path."
        ) from None
    except Exception as error:  # those of requests, urllib3 and gdown differ by version
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"The download of {name} broke ({_reason(error)}); run this again, it goes on from "
            f"{kept() / 1e6:.1f} MB."
        ) from None
    if not target.exists():
        raise UserError(f"Google Drive sent nothing for {name}; run this again in a minute.")
    return target


def download_url(url: str, folder: Path) -> Path:
    """Download what lies at an http(s) address into `folder`. Raises UserError, and leaves nothing then."""
    target = folder / f".download-{hashlib.sha256(url.encode()).hexdigest()[:16]}.zip"
    if target.exists():
        return target
    part = target.with_suffix(".part")
    try:
        with _told(url):
            _watched(lambda: _save(url, part), lambda: part.stat().st_size if part.exists() else 0, url)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def download_kaggle(dataset: str) -> Path:
    """The folder of a dataset on Kaggle, "owner/name", perhaps with "/versions/2". Raises UserError.

    kagglehub downloads it into its own cache, once; in a notebook on Kaggle or Colab it may mount it instead.
    """
    try:
        import kagglehub
    except ImportError:
        raise UserError(
            "Kaggle's datasets need the package kagglehub; run `pip install kagglehub`."
        ) from None
    page = f"kaggle.com/datasets/{dataset}"
    try:
        return Path(kagglehub.dataset_download(dataset))
    except Exception as error:  # its own kinds, and those of requests, json and the archives
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404:
            raise UserError(
                f"Kaggle has no dataset {dataset}; copy owner and name from its address."
            ) from None
        if status in (401, 403):  # 403 for a name that nobody has, too
            raise UserError(
                f"Kaggle does not hand out {dataset} (HTTP {status}): see that {page} is there, agree to its "
                "terms, and, where it is private, log in with a token (kaggle.com → Settings → API) in "
                "~/.kaggle/kaggle.json, or in Colab's secrets KAGGLE_USERNAME and KAGGLE_KEY."
            ) from None
        raise UserError(
            f"Kaggle did not send {dataset} ({_reason(error)}); check the connection (in a notebook on "
            "Kaggle: Settings → Internet), then run this again."
        ) from None


def read_url(url: str, most: int) -> bytes:
    """The picture at an http(s) address. Raises UserError, also for a web page and for over `most` bytes."""
    content = bytearray()

    def read() -> None:
        with requests.get(url, stream=True, timeout=SILENCE, headers=HEADERS) as response:
            response.raise_for_status()
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise UserError(
                    f"{url} is a web page and no picture; give the address of the picture itself "
                    "(right-click it → Copy image address)."
                )
            for block in response.raw.stream(2**16, decode_content=False):
                content.extend(block)
                if len(content) > most:
                    size = f"over {most / 2**20:.0f} MiB"
                    raise UserError(f"{url} is too large ({size}); give a smaller picture.")

    with _told(url):
        _watched(read, lambda: 0, url)  # all of it must come in time
    return bytes(content)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What goes wrong on the way to `url` becomes one sentence."""
    try:
        yield
    except requests.HTTPError as error:
        raise UserError(
            f"{url} cannot be fetched (HTTP {error.response.status_code}); check the address."
        ) from None
    except requests.exceptions.InvalidSchema:  # requests knows http and https alone
        raise UserError(
            f"{url} leads to an address that is not http or https; give the final address."
        ) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as error:
        raise UserError(
            f"{url} cannot be fetched ({_reason(error)}); check the address and the connection."
        ) from None


def _save(url: str, part: Path) -> None:
    with requests.get(url, stream=True, timeout=STALL, headers=HEADERS) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(total=total, unit="B", unit_scale=True, desc="Downloading")
        with part.open("wb") as file, bar:
            for block in response.raw.stream(2**16, decode_content=False):
                file.write(block)
                file.flush()  # what the watch sees
                bar.update(len(block))
    if total and part.stat().st_size < total:
        raise requests.ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")


def _watched(work: Callable[[], object], progress: Callable[[], int], name: str) -> None:
    """Does the work in a thread while `progress` (bytes) grows; no socket's timeout ends endless headers.

    Raises what the work raises, and TimeoutError after STALL seconds in which fewer than LEAST came.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"download of {name}")
    thread.start()
    done, since = progress(), time.monotonic()
    try:
        while thread.is_alive():
            thread.join(POLL)
            if (now := progress()) >= done + LEAST:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > STALL:
                raise TimeoutError(f"too little came in {STALL:g} s")
    finally:
        if thread.is_alive():
            # it ends at its next step in Python, before it could write to the file of a later call
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
    if failure:
        raise failure[0]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:150]
