"""`compressc explain prune`: what a plugin does, its options, and its place among the others."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.plugins import Group
    from compressc.report.console import Console
    from compressc.spec import Configured

NAME = typer.Argument(help="Name of a plugin of any kind; none lists them all.")


def explain(name: Annotated[str, NAME] = "") -> None:
    """Say what a plugin does, which options it has and what must come before and after it."""
    from compressc.errors import CompresscError
    from compressc.plugins import GROUPS, find, nearest
    from compressc.report.console import Console

    if not name:
        Console().print(plugins_table())
        return
    found = [group for group in GROUPS if name in find(group)]
    if not found:
        known = sorted({name for group in GROUPS for name in find(group)})
        raise CompresscError("CC107", f"unknown plugin '{name}'", hint=nearest(name, known))
    for group in found:
        _explain_one(group, name, Console())


def _explain_one(group: Group, name: str, console: Console) -> None:
    from compressc.plugins import distribution, load
    from compressc.spec import Configured

    plugin = load(group, name)
    console.print(f"{name}: {group.noun}, from {distribution(group, name)}\n")
    for paragraph in (inspect.getdoc(plugin) or "").split("\n\n"):
        console.print(" ".join(paragraph.split()) + "\n")
    if isinstance(plugin, type) and issubclass(plugin, Configured):
        if plugin.model_fields:
            console.print(options_table(plugin))
        for line in plugin.remarks():
            console.print(line)


def plugins_table() -> Table:
    """Every plugin: kind, name, what it does in one line, and where it comes from."""
    from rich.table import Table

    from compressc.plugins import GROUPS, distribution, find

    table = Table("kind", "name", "what it does", "from")
    for group in GROUPS:
        for name in find(group):
            table.add_row(group.noun, name, summary(group, name), distribution(group, name))
    return table


def summary(group: Group, name: str) -> str:
    """The first line of a plugin's documentation, or the error: none must hide the others."""
    from compressc.errors import CompresscError
    from compressc.plugins import load

    try:
        return (inspect.getdoc(load(group, name)) or "").partition("\n")[0]
    except CompresscError as error:
        return str(error)


def options_table(cls: type[Configured]) -> Table:
    """Options with type, bounds, default and documentation."""
    from rich.table import Table

    table = Table("option", "type", "default", "what it does")
    for name, type_, default, text in option_rows(cls):
        table.add_row(name, type_, default, text)
    return table


def option_rows(cls: type[Configured]) -> list[tuple[str, str, str, str]]:
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
