"""What README promises is there, and the Russian one says the same."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "README.ru.md")


@pytest.fixture(params=PAGES)
def page(request) -> str:
    return (PROJECT / request.param).read_text(encoding="utf-8")


def test_every_linked_file_is_there(page):
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", page)
    assert len(links) > 5
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_the_structure_names_what_is_there(page):
    block = next(part for part in page.split("```") if "emo_utils.py  " in part)
    names = re.findall(r"^([\w./]+(?:, [\w./]+)*)  ", block, re.MULTILINE)
    names = [name for group in names for name in group.split(", ")]
    assert len(names) >= 10
    assert [name for name in names if not (PROJECT / name).exists()] == []


def test_the_tables_are_those_of_experiments_csv(page):
    from tools import ablate
    from tools.readme.tables import ablations, results, table

    language = "ru" if "Эпох" in page else "en"
    assert table(language) in page
    assert results(language) in page
    assert ablate.table(ablations(), language) in page


def test_both_languages_give_the_same_numbers():
    def numbers(name):
        text = (PROJECT / name).read_text(encoding="utf-8")
        text = re.sub(r"\b0,(?=\d)", "0.", text)  # 0,319 is no thousands
        text = re.sub(r"(?<=\d)[\s\u00a0,](?=\d{3}\b)", "", text)  # 28,709 and 28 709
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)  # 45.3 and 45,3
        return sorted(re.findall(r"\d+(?:\.\d+)?", text))

    assert numbers("README.md") == numbers("README.ru.md")


def test_the_badges_lead_to_the_repository_that_the_setup_cell_clones(page):
    import nbformat

    setup = nbformat.read(PROJECT / "emo_classificator_train.ipynb", as_version=4).cells[1].source
    repository = re.search(r'"https://github.com/([^"]+)"', setup).group(1)
    links = re.findall(r"colab\.research\.google\.com/github/([^)]+)\)", page)
    assert sorted(links) == sorted(
        f"{repository}/blob/main/emo_classificator_{name}.ipynb" for name in ("prep_data", "train", "test")
    )


def test_every_dependency_is_explained(page):
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    packages = [re.split(r"[<>=~! ]", line)[0] for line in lines if line and not line.startswith("#")]
    assert [package for package in packages if package not in page] == []


def test_nothing_that_colab_has_is_pinned():
    assert "==" not in (PROJECT / "requirements.txt").read_text()
