"""The outputs that the three notebooks are committed with: `make notebooks`.

Runs them in order on the sample set, headless, in a temporary folder, and writes what they show into the
committed files, whose sources stay as they are. What was set for that run stands in each file's metadata and
in its first cell.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from PIL import Image

from emo.paths import PROJECT_ROOT

SAMPLE_PHOTO = "data/test/happy"  # the test notebook looks at the first face in it
RUNS = {
    "emo_classificator_prep_data.ipynb": {"SOURCE": "sample"},
    # a third of its epochs: mistakes are left for the test notebook to show
    "emo_classificator_train.ipynb": {"EXPERIMENT": "finetune_mini", "CHANGES": {"epochs": 4}},
    "emo_classificator_test.ipynb": {"PHOTO": SAMPLE_PHOTO},
}
NOTE = "> The outputs below come from one run on the sample set (`make notebooks`), with {settings}.\n"
KEPT = ("image/png", "text/html", "text/plain", "text/latex")


def sources_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the sources of a notebook's cells, in their order."""
    sources = [cell.source for cell in notebook.cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def with_outputs(notebook: NotebookNode, executed: NotebookNode, root: str) -> NotebookNode:
    """`notebook` with the outputs of `executed`, its paths below `root` shortened to begin at the project."""
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell, done in zip(notebook.cells, ran, strict=True):
        assert cell.source == done.source
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [tidied for output in done.outputs if (tidied := tidy(output, root))]
    return notebook


def tidy(output: NotebookNode, root: str) -> NotebookNode | None:
    """An output as it is committed; None for progress bars and warnings, which tell nobody anything later."""
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = output.text.replace(f"{root}/", "").replace(root, ".")
        return output
    if output.output_type == "error" or any("widget" in kind for kind in output.data):
        return None if output.output_type != "error" else output
    data = {kind: content for kind, content in output.data.items() if kind in KEPT}
    for kind in data:
        if kind == "image/png":
            data[kind] = compact(data[kind])
        else:
            data[kind] = data[kind].replace(f"{root}/", "").replace(root, ".")
    output.data = nbformat.from_dict(data)
    output.pop("execution_count", None)
    if output.output_type == "execute_result":
        output.execution_count = None
    output.metadata = {}
    return output


def compact(png: str) -> str:
    """A figure in base64 with 128 colours at most: a third of the size, and nobody sees the difference."""
    figure, small = Image.open(BytesIO(base64.b64decode(png))).convert("RGB"), BytesIO()
    figure.quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def note(parameters: dict) -> str:
    """The line that tells a reader which run the outputs are of."""
    settings = ", ".join(
        f"`{name} = {json.dumps(value, sort_keys=True)}`"
        for name, value in sorted(parameters.items())
        if value
    )
    return NOTE.format(settings=settings or "the parameters as they stand")


def annotated(notebook: NotebookNode, name: str, parameters: dict) -> NotebookNode:
    """With that line as the last of its first cell, and what ran in the metadata."""
    first = notebook.cells[0]
    first.source = (
        re.sub(r"\n*> The outputs below .*", "", first.source).rstrip() + "\n\n" + note(parameters).strip()
    )
    notebook.metadata["emo"] = {"name": name, "parameters": parameters, "sources": sources_hash(notebook)}
    return notebook


def main() -> None:
    """Runs the notebooks and rewrites the committed files."""
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of every Colab form it cannot parse
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder).resolve() / "project")
        for name, parameters in RUNS.items():
            print(name, flush=True)
            file = PROJECT_ROOT / name
            notebook = annotated(nbformat.read(file, as_version=4), name, parameters)
            nbformat.write(notebook, Path(folder, f"given_{name}"))
            given = dict(parameters)
            if "PHOTO" in given:
                given["PHOTO"] = str(min(Path(root, given["PHOTO"]).iterdir()))
            executed = papermill.execute_notebook(
                str(Path(folder, f"given_{name}")),
                str(Path(folder, name)),
                parameters={"ROOT": root} | given,
                cwd=str(PROJECT_ROOT),
            )
            notebook = with_outputs(notebook, executed, root)
            text = nbformat.writes(notebook, indent=1) + "\n"
            file.write_text(text, encoding="utf-8")
            print(f"{name}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
