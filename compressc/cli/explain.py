"""`compressc explain prune`: what a pass does, its options, and its place among the others."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.pipeline import Pass


def explain(name: Annotated[str, typer.Argument(help="Name of a pass.")]) -> None:
    """Say what a pass does, which options it has and what must come before and after it."""
    from rich.console import Console

    from compressc.pipeline import load_pass

    cls = load_pass(name)
    console = Console()
    console.print(f"{name} ({cls.effect})\n", highlight=False)
    for paragraph in (inspect.getdoc(cls) or "").split("\n\n"):
        console.print(" ".join(paragraph.split()) + "\n", highlight=False, markup=False)
    if cls.model_fields:
        console.print(options_table(cls))
    for other, reason in cls.after.items():
        console.print(f"comes after {other}: {reason}", highlight=False, markup=False)
    for other, reason in cls.before.items():
        console.print(f"comes before {other}: {reason}", highlight=False, markup=False)
    for other in cls.prelude:
        console.print(f"runs {other} first where it is missing", highlight=False)


def options_table(cls: type[Pass]) -> Table:
    """Options with type, bounds, default and documentation."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("option", "type", "default", "what it does")
    for name, type_, default, text in option_rows(cls):
        table.add_row(name, type_, default, escape(text))
    return table


def option_rows(cls: type[Pass]) -> list[tuple[str, str, str, str]]:
    """(option, type and bounds, default, documentation) of each option."""
    schema: dict[str, Any] = cls.model_json_schema(by_alias=True)
    rows = []
    for name, field in cls.model_fields.items():
        option = field.alias or name
        spec = schema["properties"][option]
        text = " ".join((field.description or "").split())
        rows.append((option, _type_text(spec), str(field.default), text))
    return rows


_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _type_text(spec: dict[str, Any]) -> str:
    if "enum" in spec:
        return " | ".join(map(str, spec["enum"]))
    if "anyOf" in spec:
        return " or ".join(_type_text(part) for part in spec["anyOf"])
    if "const" in spec:
        return str(spec["const"])
    bounds = [f"{word} {spec[key]:g}" for key, word in _BOUNDS.items() if key in spec]
    return ", ".join([str(spec.get("type", "any")), *bounds])
