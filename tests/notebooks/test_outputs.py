"""The outputs that the notebooks are committed with: of one run on the drawn sample set, `make notebooks`."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from tools.readme.notebooks import RUNS, SAMPLE_PHOTO, note, sources_hash, with_outputs

PROJECT = Path(__file__).resolve().parents[2]
# a home or working folder of whoever ran them
MACHINE = re.compile(r"(/home/|/root/|/tmp/|/work/|/Users/|/private/|/content/|[A-Z]:\\)")


@pytest.fixture(params=RUNS)
def notebook(request):
    return nbformat.read(PROJECT / request.param, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_sources_are_those_that_were_run(notebook):
    assert notebook.metadata["emo"]["sources"] == sources_hash(notebook), "run `make notebooks` again"


def test_every_figure_is_there_and_no_error(notebook):
    found = outputs(notebook)
    assert not [output for output in found if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in found) >= 2
    assert any(output.output_type == "stream" and "Keras" in output.text for output in found)


def test_no_output_names_a_folder_of_the_machine(notebook):
    for output in outputs(notebook):
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k != "image/png")]
        assert not [found for text in texts if (found := MACHINE.search("".join(text)))]


def test_what_they_show_is_the_drawn_sample_set_alone(notebook):
    """No photo of a person: what was looked at came from the sample, and the file says so to its reader."""
    parameters = notebook.metadata["emo"]["parameters"]
    assert parameters == RUNS[Path(notebook.metadata["emo"]["name"]).name]
    assert parameters.get("SOURCE", "sample") == "sample"
    assert parameters.get("PHOTO", SAMPLE_PHOTO) in ("", SAMPLE_PHOTO)
    assert note(parameters).strip() in notebook.cells[0].source


def test_each_file_is_small(notebook):
    assert len(json.dumps(notebook)) < 1.5e6


def test_outputs_are_taken_over_without_the_machines_folder():
    given = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    ran = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    ran.cells[0].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="/tmp/x/project/data, in /tmp/x/project"),
        nbformat.v4.new_output("stream", name="stderr", text="100%|####"),
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
    ]
    (output,) = with_outputs(given, ran, "/tmp/x/project").cells[0].outputs
    assert output.text == "data, in ."
