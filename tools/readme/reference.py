"""The reference of Experiment's fields, recipes and original eleven: `python -m tools.readme.reference`.

Writes `emo/experiments.md` from what stands at the fields.
"""

import dataclasses
import re

from emo.experiments import EXPERIMENTS, SUMMARIES, Experiment
from emo.files import write_text
from emo.paths import PROJECT_ROOT
from tools.readme.markdown import markdown

PAGE = PROJECT_ROOT / "emo" / "experiments.md"
RECIPES = [name for name in EXPERIMENTS if not name.isdecimal()]
TOP = """<!-- Written by `python -m tools.readme.reference` from emo/experiments.py; edit that. -->

# Experiments

An `Experiment` holds everything that determines a run. Choose one by name with the train notebook's
`EXPERIMENT`, and change fields with `CHANGES`, such as `{"epochs": 5, "image_size": 96}`. From Python:

```python
emo.get_experiment("finetune", epochs=5, image_size=96)
```

A wrong field or value raises an error that lists what is allowed. Files and table rows written before a field
was renamed can still be read.

## Fields

"Features" marks the fields that the features cached by `views` depend on directly. They also depend on where
the frozen part ends (`unfreeze`, the first layer of `head`) and on its `weights`; augmented views also depend
on `seed`, `augment_strength`, `color_jitter` and `random_erasing`.

"""


def escape(text: object) -> str:
    """Text in a cell of a Markdown table: outside of code, what Markdown would take for marks is escaped."""
    parts = re.split(r"(`[^`]*`)", str(text))
    return "".join(
        part.replace("|", r"\|") if part.startswith("`") else re.sub(r"([\\*_<>|\[\]#])", r"\\\1", part)
        for part in parts
    )


def code(value: object) -> str:
    """A value as Python writes it, as code."""
    return f"`{literal(value)}`"


def literal(value: object) -> str:
    """Python, with double quotes; no value of an experiment holds a quote."""
    return repr(value).replace("'", '"')


def fields() -> str:
    """A row per field: its default, what it may hold, what it means, whether cached features depend on it."""
    rows = [
        (
            f"`{field.name}`",
            "" if field.default is dataclasses.MISSING else code(field.default),
            escape(field.metadata["allowed"]),
            escape(field.metadata["description"]),
            "yes" if field.metadata["features"] else "",
        )
        for field in dataclasses.fields(Experiment)
    ]
    return markdown(("Field", "Default", "Allowed", "Meaning", "Features"), rows)


def recipe(experiment: Experiment) -> str:
    """The fields of an experiment that differ from the defaults, as the arguments of `Experiment`."""
    lines = [
        f"    {field.name}={literal(value)},"
        for field in dataclasses.fields(experiment)
        if (value := getattr(experiment, field.name)) != field.default
    ]
    return "\n".join(["```python", "Experiment(", *lines, ")", "```"])


def originals() -> str:
    """The original eleven, a row each: what differs from the defaults."""
    columns = ("backbone", "head", "optimizer", "learning_rate", "momentum", "augment", "epochs", "unfreeze")
    numbered = [experiment for name, experiment in EXPERIMENTS.items() if name.isdecimal()]
    for each in numbered:
        beyond = {
            field.name
            for field in dataclasses.fields(each)
            if getattr(each, field.name) != field.default and field.name not in ("name", *columns)
        }
        assert not beyond, f"the table of the original experiments lacks {beyond}"
    rows = [(each.name, *(code(getattr(each, column)) for column in columns)) for each in numbered]
    return markdown(("Name", *(f"`{column}`" for column in columns)), rows)


def page() -> str:
    """The whole page."""
    parts = [
        TOP + fields(),
        "## Recipes",
        "Each lists what differs from the defaults. When to choose which: "
        "[README](../README.md#which-recipe).",
    ]
    for name in RECIPES:
        summary = SUMMARIES[name]
        parts += [f"### {escape(name)}", f"{summary[0].upper()}{summary[1:]}.", recipe(EXPERIMENTS[name])]
    parts += [
        "## The original eleven",
        "The experiments of the original project (2020), by number; there is no 3. The project recorded "
        "neither image size nor batch size; both are the defaults here.",
        originals(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE.relative_to(PROJECT_ROOT))
