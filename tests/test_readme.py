"""What the pages promise is there, both languages say the same, and all of them speak the field's words."""

import ast
import re
import unicodedata
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).resolve().parent.parent
TRANSLATED = ("README.md", "model/README.md", "data/README.md", "tools/README.md", "emo/README.md")
RUSSIAN = tuple(page.replace(".md", ".ru.md") for page in TRANSLATED)
PAGES = (*TRANSLATED, *RUSSIAN, "emo/experiments.md", "images/README.md", "model/emo_mini.md")
NOTEBOOKS = tuple(f"emo_classificator_{name}.ipynb" for name in ("prep_data", "train", "test"))
MODULES = tuple(path.relative_to(PROJECT).as_posix() for path in sorted((PROJECT / "emo").rglob("*.py")))
COUNTS = "rows?|lines?|ms|µs|s|photos?|pictures?|probability|unit|folder|dot|number|frames?"
COUNTED = "run|photo|image|picture|face|frame|class|line|row|second|step|epoch|seed|model|file|batch"
# words of our own that a reader of the field would not search for, and what stands for them now
OLD_WORDS = {
    "overfitting": r"\bby heart\b|наизусть|заучив",
    "duplicate": r"\btwins?\b|близнец",
    "ensemble": r"committee|комитет",
    "flip": r"mirror(ed)? image|зеркальн",
    "test-time augmentation": r"better answers|лучшие ответы",
    "the original project's": r"\bthe seed's\b|\b(of|in|by) the seed(?= project)",
    "per": rf"\b({COUNTS}) an? ({COUNTED})\b",
    "soft labels": r"learns? from a (teacher|finished model)",
    "repair, fix": r"\bmend(s|ed|ing)?\b",
    "ema": r"`average`|\baverage=",
    "random_erasing": r"`erase`|\berase=",
    "color_jitter": r"`color`|(?<![\w.])color=0",
    "class_balance": r"`balance`|\bbalance=",
    "cached augmented views": r"passed once",
    "video": r"\bfilms?\b|\bфильм",
    "third-party": r"\bstrangers?\b|чужи[ехм]",
    "complete": r"\bwhole zip",
    "held-out": r"chose no threshold|пороги не выбирали",
    "unaugmented": r"as they lie on disk|как они лежат на диске",
}
RUSSIAN_WORDS = {
    "overfit": "переобуч",
    "near-duplicate": "почти дубликат",
    "duplicate": "дубликат",
    "nsemble": "ансамбл",
    "test-time augmentation": "аугментация при тестировании",
    "label smoothing": "сглаживани",
    "moving average": "скользяще",
    "calibration": "калибровк",
    "confusion": "матриц",
    "learning rate": "скорост",
}


def text_of(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings, and those that it sets itself."""
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ +(.+)$", without_code(text), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("\\", "").lower()
        kept = [c for c in heading if c in " -_" or unicodedata.category(c)[0] in "LN"]
        anchors.add("".join(kept).replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(((?!https?:)[^)]+)\)", without_code(text_of(page)))
    assert links or page.startswith("model/emo_mini")
    lost = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = (PROJECT / page).parent / file if file else PROJECT / page
        if not target.exists() or (anchor and anchor not in headings(target.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_from_readme_a_reader_comes_to_every_page_of_its_language(page):
    links = set(re.findall(r"\]\(((?!https?:)[^)#]+)", text_of(page)))
    language = TRANSLATED if page == "README.md" else RUSSIAN
    assert set(language) - {page} | {"emo/experiments.md"} <= links
    assert len(links & {"README.md", "README.ru.md"}) == 1


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_the_map_names_what_is_there(page):
    block = next(part for part in text_of(page).split("```") if "emo_utils.py  " in part)
    names = re.findall(r"^([\w./]+(?:, [\w./]+)*)  ", block, re.MULTILINE)
    names = [name for group in names for name in group.split(", ")]
    assert len(names) >= 10
    assert [name for name in names if not (PROJECT / name).exists()] == []


def test_readme_is_short():
    assert len(text_of("README.md").split()) <= 1300


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_tables_are_those_of_experiments_csv(language):
    from tools import ablate
    from tools.readme.tables import ablations, headline, results, table

    front, page = (text_of(each) for each in (TRANSLATED if language == "en" else RUSSIAN)[:2])
    assert headline(language) in front
    assert table(language) in page
    assert results(language) in page
    assert ablate.table(ablations(), language) in page


def test_the_reference_is_what_the_tool_prints(monkeypatch):
    from emo.models.backbones import BACKBONES
    from tools.readme import reference

    monkeypatch.delitem(BACKBONES, "tiny", raising=False)  # the tests' own
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


def test_the_reference_names_every_field_and_every_experiment():
    from dataclasses import fields

    from emo.experiments import EXPERIMENTS, Experiment

    page = text_of("emo/experiments.md").replace("\\", "")
    assert [field.name for field in fields(Experiment) if f"| `{field.name}` |" not in page] == []
    missing = [name for name in EXPERIMENTS if f"| {name} |" not in page and f"### {name}\n" not in page]
    assert missing == []


def test_a_table_of_the_reference_has_the_same_columns_in_every_row():
    for block in re.findall(r"(?:^\|.*\n)+", text_of("emo/experiments.md"), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_give_the_same_numbers(page):
    def numbers(name):
        text = re.sub(r"\]\([^)]*\)", "]", text_of(name))  # addresses
        text = re.sub(r"\b0,(?=\d)", "0.", text)  # 0,319 is no thousands
        text = re.sub(r"(?<=\d)[\s\u00a0,](?=\d{3}\b)", "", text)  # 28,709 and 28 709
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)  # 45.3 and 45,3
        return sorted(re.findall(r"\d+(?:\.\d+)?", text))

    assert numbers(page) == numbers(page.replace(".md", ".ru.md"))


@pytest.mark.parametrize("page", RUSSIAN)
def test_russian_decimals_have_commas(page):
    prose = re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "", without_code(text_of(page)))
    prose = re.sub(
        r"\d+\.\d+\.\d+|(Python|TensorFlow|Keras|CC0|BY) \d+\.\d+(–\d\.\d+)?", "", prose
    )  # versions, dates
    assert re.findall(r"\S*\d\.\d\S*", prose) == []


@pytest.mark.parametrize("page", RUSSIAN)
def test_russian_thousands_have_spaces_and_no_number_is_broken(page):
    prose = re.sub(r"`[^`]*`", "", without_code(text_of(page)))
    assert re.findall(r"\b[1-9]\d{0,2},\d{3}\b", prose) == []
    assert re.findall(r"\d\n\d{3}\b", prose) == []


@pytest.mark.parametrize("page", TRANSLATED)
def test_russian_has_the_fields_word_where_english_has_it(page):
    english, russian = text_of(page), text_of(page.replace(".md", ".ru.md")).lower()
    assert [word for word, stem in RUSSIAN_WORDS.items() if word in english and stem not in russian] == []


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_the_first_example_finds_faces(page):
    first = re.search(r"```python\n(.*?)```", text_of(page), re.DOTALL).group(1)
    assert "classify_faces" in first and ".predict(" not in first


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_the_badges_lead_to_the_repository_that_the_setup_cell_clones(page):
    setup = nbformat.read(PROJECT / NOTEBOOKS[1], as_version=4).cells[1].source
    repository = re.search(r'"https://github.com/([^"]+)"', setup).group(1)
    links = re.findall(r"colab\.research\.google\.com/github/([^)]+)\)", text_of(page))
    assert sorted(links) == sorted(f"{repository}/blob/main/{name}" for name in NOTEBOOKS)
    links = re.findall(r"kaggle\.com/kernels/welcome\?src=https://github\.com/([^)]+)\)", text_of(page))
    assert sorted(links) == sorted(f"{repository}/blob/main/{name}" for name in NOTEBOOKS)


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_dependency_has_its_reason_and_no_pin(file):
    lines = [line for line in text_of(file).splitlines() if not line.startswith("#")]
    assert len(lines) > 5
    assert [line for line in lines if not re.fullmatch(r"[\w-]+(>=[\d.]+)?  # \S.*", line)] == []


def spoken(file: str) -> str:
    """What a reader of a page, a notebook or a module's docstrings and messages reads."""
    if file.endswith(".ipynb"):
        return "\n".join(cell["source"] for cell in nbformat.read(PROJECT / file, as_version=4).cells)
    if file.endswith(".py"):
        tree = ast.parse(text_of(file))
        return "\n".join(
            docstring
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and (docstring := ast.get_docstring(node))
        )
    # names of rows as they were logged, and settings as an .h5 holds them, stay
    return re.sub(r"```json.*?```", "", text_of(file), flags=re.DOTALL)


@pytest.mark.parametrize("file", [*PAGES, *NOTEBOOKS, *MODULES])
def test_the_words_are_those_of_the_field(file):
    found = {
        f"{match.group()!r}, say {word!r}"
        for word, pattern in OLD_WORDS.items()
        for match in re.finditer(pattern, re.sub(r"\s+", " ", spoken(file)), re.IGNORECASE)
    }
    assert found == set()


def test_the_old_words_are_found():
    # the patterns above would pass everything if they matched nothing
    said = (
        "It learns by heart; a row a run of the seed's twins, a film, 3 ms a photo, a stranger's committee."
    )
    assert sum(bool(re.search(pattern, said, re.IGNORECASE)) for pattern in OLD_WORDS.values()) == 7


@pytest.mark.parametrize(
    "legitimate", ["set the seed, 42 here", "on the seed and the split", "a dot per seed"]
)
def test_words_with_another_meaning_pass(legitimate):
    assert not [word for word, pattern in OLD_WORDS.items() if re.search(pattern, legitimate, re.IGNORECASE)]
