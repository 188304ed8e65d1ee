"""The rooms of `emo/`: which may know which, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

EMO = Path(__file__).resolve().parent.parent / "emo"
MODULES = {
    ".".join(file.relative_to(EMO.parent).with_suffix("").parts): ast.parse(file.read_text(encoding="utf-8"))
    for file in sorted(EMO.rglob("*.py"))
    if file.name != "__main__.py"  # the command line stands before the house
}
ROOMS = ("data", "models", "training", "inference", "evaluation", "tracking", "plots", "commands")
# what a room may import besides the modules that lie in no room; `emo.plots.photo` alone stands on inference
ALLOWED = {
    "": {"models"},  # experiments name backbones
    "data": {"data"},
    "models": {"data", "models"},
    "tracking": {"tracking"},
    "training": {"data", "models", "training", "tracking", "plots"},
    "inference": {"data", "models", "inference"},
    "evaluation": {"data", "inference", "evaluation", "tracking", "plots"},
    "plots": {"data", "inference", "evaluation", "plots"},
    "commands": set(ROOMS),
}


def room(module: str) -> str:
    """The folder that a module lies in, "" for none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def imports(module: str, at_import_time: bool = False):
    """(module, name) of each import from `emo`; with `at_import_time` without those in functions."""
    tree = MODULES[module]
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in tree.body if at_import_time else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "emo":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if id(node) not in typing_only:
                    yield (inner, "") if inner in MODULES else (node.module, alias.name)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_lies_before_it(module):
    for other, _ in imports(module):
        assert room(other) in ALLOWED[room(module)] | {""}, f"{module} imports {other}"
        if room(module) == "training":
            assert other != "emo.plots.photo"


def test_only_what_shows_a_photo_stands_on_inference():
    users = {module for module in MODULES for other, _ in imports(module) if room(other) == "inference"}
    assert {module for module in users if room(module) == "plots"} <= {"emo.plots.photo"}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_private_name(module):
    assert not [name for _, name in imports(module) if name.startswith("_")]


def test_no_module_is_imported_by_what_it_imports():
    graph = {module: {other for other, _ in imports(module)} for module in MODULES}
    finished, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in finished:
            path.append(module)
            for other in sorted(graph[module]):
                visit(other)
            finished.add(path.pop())

    for module in graph:
        visit(module)


def test_the_packages_re_export_nothing():
    for module, tree in MODULES.items():
        if module.endswith("__init__") and module != "emo.__init__":
            assert [type(node) for node in tree.body] == [ast.Expr], (
                f"{module} does more than say its question"
            )
