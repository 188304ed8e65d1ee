"""Models on the Hugging Face Hub: fetched by their address, and uploaded with card, curve and checksum."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

from emo.errors import UserError
from emo.files import user_path
from emo.inference.card_seal import read_card
from emo.models.loading import SavedModel, read_model
from emo.models.saved_file import CONFIG, WEIGHTS

REPO = r"[\w.-]+/[\w.-]+"
# a Path has lost one of the slashes
ADDRESS = re.compile(rf"hf:/{{1,2}}(?P<repo>{REPO})(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")
SUFFIXES = (".h5", ".keras", ".hdf5")  # of saved models
SUMS = "SHA256SUMS"  # as the command sha256sum writes and checks it
SUM = re.compile(r"^([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)
LISTED = 8  # models that a message names
TAGS = ["emotion-recognition", "facial-expression-recognition", "emo_classificator"]
PROJECT = "https://github.com/emo-classificator/emo_classificator"
# the figures of a card that the Hub lists: (name in the card's facts, the Hub's kind of metric, title)
METRICS = (
    ("accuracy", "accuracy", "accuracy"),
    ("balanced_accuracy", "accuracy", "balanced accuracy"),
    ("macro_f1", "f1", "macro F1"),
)
USE = """
## From the Hub

```python
import emo_utils as emo  # {project}

classifier = emo.load_classifier("{address}")
print(emo.classify_faces(classifier, "photo.jpg").answers)
```

`{sums}` holds the checksum of `{file}`, which `load_classifier` compares.
"""


def is_address(model: str | Path) -> bool:
    """Whether it names a model on the Hub: `hf://…`."""
    return str(model).startswith("hf:/")


def fetch(address: str | Path) -> Path:
    """The model at `hf://owner/name[@revision][/file]`, downloaded once into huggingface_hub's cache.

    Without `file` it is the only model there, a `.h5`, a `.keras`, or what Keras itself saves to the Hub.
    Given with its `file` it needs no network where it is in the cache. Raises UserError for what is not
    there, or not for everyone, and for a file that is not what the checksums beside it name.
    """
    parts = ADDRESS.fullmatch(str(address))
    if not parts:
        raise UserError(
            f"{address} is not an address on the Hub; write hf://owner/name or hf://owner/name/file.h5, with "
            "@revision behind the name for a version other than the newest."
        )
    repo, file = parts["repo"], parts["file"]
    revision = parts["revision"] and unquote(parts["revision"])
    hub = _hub()
    with _told(hub, f"hf://{repo}"):
        files = _files(hub, repo, revision)
        if files is None and not file:
            raise ConnectionError("what lies there is not known")
        file = file or _only_model(repo, files)
        options = {"revision": revision, "local_files_only": files is None}
        path = Path(hub.hf_hub_download(repo, file, **options))
        if file == CONFIG:
            hub.hf_hub_download(repo, WEIGHTS, **options)
        sums = _sums(hub, repo, **options)
    if sums.get(file, digest := _digest(path)) != digest:
        raise UserError(
            f"{file} of hf://{repo} is not what {SUMS} there names: it is damaged or was exchanged, so it "
            f"was not opened; delete {path} and fetch it again, or ask its owner."
        )
    return path


def push(
    model: str | Path,
    repo: str,
    private: bool = False,
    license: str = "other",
    dataset: str | None = None,
) -> str:
    """Uploads a model to `owner/name` on the Hub, which is made where it is not there; gives its web address.

    In one commit: the file; its learning curve (`.png`) where it lies beside it; README.md, which is its card
    (`.md`, of `write_card`) with the header that the Hub reads; and its SHA-256, beside those of other files
    there. `license` is one that the Hub names, such as "cc-by-nc-4.0"; `dataset` is what it was trained on,
    by default what the card says. The Hub lists the card's results where they are this very file's. Where
    other models lie there, its address ends in its file's name. Raises UserError for what is not a model,
    without a token that may write there, and without a network.
    """
    if not re.fullmatch(REPO, repo):
        raise UserError(
            f"{repo!r} is not a name on the Hub; write owner/name, the owner being you or your organisation."
        )
    saved = _in_one_file(model)
    hub = _hub()
    if not hub.get_token():
        raise UserError(
            "Uploading to the Hub needs a token of yours that may write: make one at "
            "https://huggingface.co/settings/tokens, and set HF_TOKEN to it, in Colab among the secrets."
        )
    name = saved.path.name
    with _told(hub, repo):
        there, sums = _lying_there(hub, repo)
    others = [other for other in _models(there) if other != name]
    address = f"hf://{repo}/{name}" if others else f"hf://{repo}"
    files = _upload(saved, address, license, dataset, sums)
    with _told(hub, repo):
        api = hub.HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(file, content) for file, content in files.items()]
        api.create_commit(repo, operations, commit_message=f"{name}, its card and its checksum")
    print(f'Uploaded: {", ".join(files)} to {url}; emo.load_classifier("{address}") opens it.')
    if "README.md" in there:
        print(f"README.md of {repo} was replaced; what it was stays among the repository's commits.")
    if others:
        print(
            f"Also there: {_named(others)}. So hf://{repo} without a file's name opens none of them, and "
            f"README.md is now the card of {name}."
        )
    return str(url)


def prepare(
    model: str | Path, repo: str, license: str = "other", dataset: str | None = None
) -> dict[str, Path | bytes]:
    """What `push` uploads, by its name there, the model first. Raises UserError for what is not a model."""
    return _upload(_in_one_file(model), f"hf://{repo}", license, dataset, {})


def _in_one_file(model: str | Path) -> SavedModel:
    saved = read_model(user_path(model))
    if saved.path.suffix not in SUFFIXES:
        raise UserError(
            f"{saved.path.name} is not a model in one file: load it, and export it to .keras first."
        )
    return saved


def _upload(
    saved: SavedModel, address: str, license: str, dataset: str | None, sums: dict[str, str]
) -> dict[str, Path | bytes]:
    """As `prepare`; `address` opens it, `sums` are the checksums of what lies there, by name."""
    path = saved.path
    curve = path.with_suffix(".png")
    pictures = {curve.name: curve} if curve.is_file() else {}
    readme = _readme(saved, address, license, dataset, curve.name if pictures else "")
    upload = {path.name: path, **pictures, "README.md": readme.encode()}
    kept = {name: digest for name, digest in sums.items() if name not in upload}
    lines = [f"{digest}  {name}\n" for name, digest in {**kept, path.name: _digest(path)}.items()]
    return {**upload, SUMS: "".join(lines).encode()}


def _readme(saved: SavedModel, address: str, license: str, dataset: str | None, curve: str) -> str:
    """The model's card, with the Hub's header in front, and how to open it from there."""
    path = saved.path
    card = path.with_suffix(".md")
    text, facts, results = f"# {path.stem}\n", {}, {}
    if card.is_file():
        text, facts, _ = read_card(card)  # without the comment, which is for this machine
        if fault := _fault(facts, path.name):
            print(f"The Hub lists no results: {card.name} {fault}; write it again with emo.write_card.")
        else:
            results = facts
    # an address is not a name
    sources = [source for source in facts.get("sources") or () if "://" not in source]
    datasets = [dataset] if dataset else [Path(source).stem for source in sources]
    header = _header(path.stem, license, datasets, results)
    use = USE.format(address=address, file=path.name, sums=SUMS, project=PROJECT)
    picture = f"\n![The learning curve]({curve})\n" if curve else ""
    return f"---\n{header}\n---\n\n{text.rstrip()}\n{use}{picture}"


def _fault(facts: dict, file: str) -> str:
    """Why the facts of a card are not results of the file; "" where they are."""
    if not all(isinstance(facts.get(name), float) for name, *_ in METRICS):
        return "has none that a program could read, as it is older or handwritten"
    if facts.get("file") == f"{file} + flip":
        return "tells those with flip (test the model without it)"
    return "" if facts.get("file") == file else f"tells those of {facts.get('file') or 'another model'}"


def _header(name: str, license: str, datasets: list[str], results: dict) -> str:
    """YAML: https://huggingface.co/docs/hub/model-cards."""
    hub = _hub()
    measured = []
    if results:
        about = {
            "task_type": "image-classification",
            "dataset_name": ", ".join(datasets) or "unnamed photos",
            "dataset_type": ", ".join(datasets) or "imagefolder",
            "dataset_split": results.get("split"),
        }
        measured = [
            hub.EvalResult(metric_type=kind, metric_name=title, metric_value=round(results[fact], 4), **about)
            for fact, kind, title in METRICS
        ]
    data = hub.ModelCardData(
        license=license,
        library_name="keras",
        pipeline_tag="image-classification",
        tags=TAGS,
        datasets=datasets or None,
        metrics=["accuracy", "f1"] if measured else None,
        model_name=name if measured else None,
        eval_results=measured or None,
    )
    return data.to_yaml()


def _files(hub: ModuleType, repo: str, revision: str | None) -> list[str] | None:
    """The names of the files there, None without a network: asked once, as huggingface_hub asks for 24 s."""
    try:
        return [
            file.rfilename for file in hub.HfApi().model_info(repo, revision=revision, timeout=10).siblings
        ]
    except hub.errors.HfHubHTTPError:
        raise
    except Exception:  # of requests, of httpx, or the Hub's own, by its version
        return None


def _sums(hub: ModuleType, repo: str, **options) -> dict[str, str]:
    """The checksums that are named there, by the file's name; none for somebody else's model."""
    try:
        text = Path(hub.hf_hub_download(repo, SUMS, **options)).read_text(errors="replace")
    except hub.errors.EntryNotFoundError:
        return {}
    return {name: digest for digest, name in SUM.findall(text)}


def _lying_there(hub: ModuleType, repo: str) -> tuple[list[str], dict[str, str]]:
    """The names of the files there, and the checksums of those that have one; nothing where no repo is."""
    try:
        files = _files(hub, repo, None)
    except hub.errors.RepositoryNotFoundError:
        return [], {}
    if files is None:
        raise ConnectionError("what lies there is not known")
    sums = _sums(hub, repo) if SUMS in files else {}
    return files, {name: digest for name, digest in sums.items() if name in files}


def _models(files: list[str]) -> list[str]:
    models = [file for file in files if file.endswith(SUFFIXES)]
    if {CONFIG, WEIGHTS} <= set(files):
        models[models.index(WEIGHTS)] = CONFIG
    return models


def _named(models: list[str]) -> str:
    return ", ".join([*models[:LISTED], *["…"] * (len(models) > LISTED)])


def _only_model(repo: str, files: list[str]) -> str:
    models = _models(files)
    if len(models) == 1:
        return models[0]
    if not models:
        raise UserError(f"hf://{repo} holds no .h5 and no .keras; other formats are not read here.")
    raise UserError(
        f"hf://{repo} holds several models; add the name of one, as hf://{repo}/{models[0]}: "
        f"{_named(models)}."
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(
            "Models on the Hub need huggingface_hub: run `pip install huggingface_hub`."
        ) from None
    return huggingface_hub


@contextmanager
def _told(hub: ModuleType, name: str) -> Iterator[None]:
    """What goes wrong on the way to the Hub becomes one sentence."""
    errors = hub.errors
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{name} is gated: request access on its page on the Hub.") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"There is no {name} on the Hub that you may see; check the name, and where it is private, set "
            "HF_TOKEN to a token of yours."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no such revision; check what stands behind the @.") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"The Hub cannot be reached for {name}, and it is not in the cache; check the connection."
        ) from None
    except errors.EntryNotFoundError:
        raise UserError(
            f"{name} holds no such file; check its name, upper and lower case as there."
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "run this again in a minute"
        if status in (401, 403):
            advice = "set HF_TOKEN to a token of yours that may do this"
        raise UserError(f"The Hub refuses {name} (HTTP {status}); {advice}.") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise UserError(f"The Hub cannot be reached for {name} ({reason}); check the connection.") from None
