"""The pass list as text: `prune(ratio=0.5),distill(epochs=3),quant`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from compressc.errors import CompresscError
from compressc.ir.types import split_top_level
from compressc.pipeline.pass_ import Pass
from compressc.pipeline.registry import load_pass, nearest

_CALL = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(?:\((.*)\))?\s*$", re.DOTALL)


def parse_passes(passes: str | Iterable[Pass | str]) -> list[Pass]:
    """Read a pass list.

    Args:
        passes: the text, or a list of passes and texts.

    Raises:
        CompresscError: CC103 for bad syntax, CC101 for an unknown pass, CC102 for a bad option.
    """
    items = split_top_level(passes) if isinstance(passes, str) else list(passes)
    found = [item if isinstance(item, Pass) else parse_pass(item) for item in items]
    if not found:
        raise CompresscError(
            "CC103", "at least one pass", got="an empty list", hint="--passes quant"
        )
    return found


def parse_pass(text: str) -> Pass:
    """Read one pass with its options.

    Raises:
        CompresscError: CC101, CC102 or CC103.
    """
    match = _CALL.match(text)
    if match is None:
        raise CompresscError(
            "CC103", "a pass is written name or name(option=value, ...)", got=text or "nothing"
        )
    name, options = match.groups()
    cls = load_pass(name)
    given: dict[str, Any] = {}
    for item in split_top_level(options or ""):
        key, value = _option(item, name)
        if key in given:
            raise CompresscError("CC103", f"option '{key}' is given once", got=text, where=name)
        given[key] = value
    return make_pass(cls, given)


def make_pass(cls: type[Pass], options: dict[str, Any]) -> Pass:
    """Build a pass; pydantic's complaint becomes ours.

    Raises:
        CompresscError: CC102 naming the option, what it must be and what it was.
    """
    try:
        return cls(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        subject = f"option '{option}' of pass '{cls.name}'" if option else f"pass '{cls.name}':"
        if first["type"] == "extra_forbidden":
            raise CompresscError(
                "CC102",
                f"pass '{cls.name}' has no option '{option}'",
                hint=nearest(option, option_names(cls)),
            ) from error
        message = first["msg"].replace("Input should be", "must be")
        raise CompresscError(
            "CC102",
            f"{subject} {message}",
            got=repr(first["input"]),
            hint=f"compressc explain {cls.name}",
        ) from error


def option_names(cls: type[Pass]) -> list[str]:
    """The options of a pass as the user writes them."""
    return [field.alias or name for name, field in cls.model_fields.items()]


def _option(item: str, name: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals or not key.strip().isidentifier():
        raise CompresscError(
            "CC103", f"options of '{name}' are written option=value", got=item, where=name
        )
    return key.strip(), _value(value.strip())


def _value(text: str) -> Any:
    """A Python literal, true/false/none in any case, or else the bare word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
