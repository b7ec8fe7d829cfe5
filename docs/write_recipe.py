"""Write docs/recipe.md from the fields of a recipe and the options of the tasks."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from pldistill.cli.options import PAIRS, default_of, panel_of
from pldistill.recipe import PANELS, Recipe
from pldistill.specs import accepted, as_text, schema_of
from pldistill.tasks.registry import TASKS

PAGE = Path(__file__).parent / "recipe.md"
HEAD = """# A recipe, field by field

Made by `python docs/write_recipe.py` from `pldistill.recipe.Recipe` and the tasks' options. A field is a key of
`recipe.json`, an entry of `make_recipe({...})` and, where the table names one, a flag of `pldistill train`.
"""


def page() -> str:
    """The page, as Markdown."""
    parts = [HEAD]
    for panel in PANELS:
        names = [name for name, field in Recipe.model_fields.items() if panel_of(field) == panel]
        parts.append(f"## {panel}\n\n{_table(Recipe, names, flags=True)}")
    for task, spec in TASKS.items():
        if spec.defaults:
            others = ", ".join(f"{name} {as_text(value)}" for name, value in spec.defaults.items())
            parts.append(f"## In {task}\n\nOther defaults: {others}. Refused: {', '.join(spec.refused)}.\n")
        if spec.option_defaults:
            options = _table(spec.options, list(spec.option_defaults), flags=False)
            parts.append(f"`--task-option KEY=VALUE`, or the field `task_options`:\n\n{options}")
    return "\n".join(parts)


def _table(model: type[BaseModel], names: list[str], *, flags: bool) -> str:
    heads = ["field", *(["flag"] if flags else []), "values", "default", "what"]
    lines = [heads, ["---"] * len(heads)]
    for name in names:
        field = model.model_fields[name]
        flag = [f"`--{PAIRS.get(name, name).replace('_', '-')}`"] if flags else []
        values = "pairs" if name in PAIRS else accepted(schema_of(model, name))
        default = f"`{default_of(field)}`" if default_of(field) else ""
        lines.append([f"`{name}`", *flag, values, default, (field.description or "").replace("|", "\\|")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
