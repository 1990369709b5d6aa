"""Options that several commands take: a dataclass, of which a command takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")
_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def spread(command: Callable[..., R]) -> Callable[..., R]:
    """A command as typer reads one: a parameter that is a dataclass stands for its fields.

    Fields come where the parameter was, with defaults and `Annotated` types of their own.

    Raises:
        ValueError: two options of the command have one name.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            # typer calls by name alone; so optional ones may stand before required ones
            parameters.append(parameter.replace(annotation=kind, kind=_BY_NAME))
            continue
        groups[name] = kind
        of_fields = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                _BY_NAME,
                default=field.default,
                annotation=of_fields[field.name],
            )
            for field in fields(kind)
        ]

    @functools.wraps(command)
    def spread_command(**given: Any) -> R:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    vars(spread_command)["__signature__"] = inspect.Signature(parameters)
    spread_command.__annotations__ = {each.name: each.annotation for each in parameters}
    return spread_command
