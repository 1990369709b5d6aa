"""What has a name and options: the base class of plugins, and its text form `prune(ratio=0.5)`.

Plugins that add up have a text form of their sum, too: `ce + 2*kd(T=4)`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compressc.errors import CompresscError
from compressc.fingerprint import Fingerprint, fingerprint
from compressc.plugins import Group, distribution, load, nearest

#: The largest weight in a sum.
MOST_WEIGHT = 1e9
_WHOLE = re.compile(r"\d+")
_CALL = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(?:\((.*)\))?\s*$", re.DOTALL)


class Configured(BaseModel):
    """A plugin with options: a frozen pydantic model whose fields are the options.

    Class variables:
        entry_points: the group that plugins of this kind are found in.
        name: how it is called; the name of its entry point.
        version: raise it when the result changes and no source does (a table that is read, say).
        libraries: distributions whose versions count beside those that the code imports.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    entry_points: ClassVar[Group]
    name: ClassVar[str]
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    def text(self) -> str:
        """As a user writes it: `prune(ratio=0.5)`; options that were not given are left out."""
        fields = type(self).model_fields
        given = {fields[key].alias or key: getattr(self, key) for key in self.model_fields_set}
        options = ", ".join(f"{key}={_literal(given[key])}" for key in sorted(given))
        return f"{self.name}({options})" if options else self.name

    @classmethod
    def remarks(cls) -> list[str]:
        """What else a user should know of it, one sentence each: its place among others."""
        return []

    def uses(self) -> tuple[Any, ...]:
        """Other plugins that this one calls, classes or functions: their code counts, too."""
        return ()

    def code(self) -> Fingerprint:
        """The code that this runs."""
        return fingerprint(type(self), *self.uses(), libraries=self.libraries)

    def cache_key(self) -> dict[str, Any]:
        """Class, version, options, code and libraries: all that a result depends on beside what
        goes in and the machine."""
        cls, code = type(self), self.code()
        return {
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "version": self.version,
            "options": self.model_dump(mode="json"),
            "code": code.sha256,
            "libraries": dict(code.libraries),
        }


C = TypeVar("C", bound=Configured)


def load_class(kind: type[C], name: str) -> type[C]:
    """The installed class of that kind and name.

    Raises:
        CompresscError: the group's `unknown` code for an unknown name, CC106 for a broken plugin.
    """
    group = kind.entry_points
    found = load(group, name)
    where = distribution(group, name)
    if not (isinstance(found, type) and issubclass(found, kind)):
        wanted = f"entry point '{name}' must be {group.must_be}"
        raise CompresscError("CC106", wanted, got=repr(found), where=where)
    if inspect.isabstract(found):
        missing = ", ".join(f"{method}()" for method in sorted(found.__abstractmethods__))
        wanted = f"the {group.noun} '{name}' must define {missing}"
        raise CompresscError("CC106", wanted, where=where)
    if getattr(found, "name", None) != name:
        wanted = f"the {group.noun} must have the name of its entry point, '{name}'"
        got = str(getattr(found, "name", None))
        raise CompresscError("CC106", wanted, got=got, where=where)
    return found


def make(cls: type[C], options: dict[str, Any]) -> C:
    """Build one; pydantic's complaint becomes ours.

    Raises:
        CompresscError: CC102 naming the option, what it must be and what it was.
    """
    try:
        return cls(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = _named(first["loc"])
        noun = cls.entry_points.noun
        if first["type"] == "extra_forbidden":
            raise CompresscError(
                "CC102",
                f"{noun} '{cls.name}' has no option '{option}'",
                hint=nearest(option, option_names(cls)),
            ) from error
        of = f"{noun} '{cls.name}'"
        message = first["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        raise CompresscError(
            "CC102",
            f"option '{option}' of {of} {message}" if option else f"{of}: {message}",
            got=repr(first["input"]) if option else "",
            hint=f"compressc explain {cls.name}",
        ) from error


def _named(place: tuple[int | str, ...]) -> str:
    """`T`, or `keep.1` in a list: what pydantic says of a type among several is left out."""
    return ".".join(str(part) for i, part in enumerate(place) if not i or isinstance(part, int))


def option_names(cls: type[Configured]) -> list[str]:
    """The options as the user writes them."""
    return [field.alias or name for name, field in cls.model_fields.items()]


def parse(kind: type[C], text: str) -> C:
    """Read `name` or `name(option=value, ...)` and build what it names.

    Raises:
        CompresscError: CC103 for bad syntax, CC102 for a bad option, the group's `unknown` code for
            an unknown name, CC106 for a broken plugin.
    """
    match = _CALL.match(text)
    if match is None:
        noun = kind.entry_points.noun
        article = "an" if noun[0] in "aeiou" else "a"
        raise CompresscError(
            "CC103",
            f"{article} {noun} is written name or name(option=value, ...)",
            got=text or "nothing",
        )
    name, options = match.groups()
    cls = load_class(kind, name)
    return make(cls, parse_options(options or "", name))


@dataclass(frozen=True)
class Weighted(Generic[C]):
    """A part of a sum: `2*kd(T=4)`; the weight is above 0."""

    weight: float
    of: C

    @property
    def text(self) -> str:
        """As a user writes it; a weight of 1 is left out."""
        whole = int(self.weight)
        factor = whole if whole == self.weight else self.weight
        return self.of.text if factor == 1 else f"{factor!r}*{self.of.text}"


def parse_sum(kind: type[C], text: str) -> tuple[Weighted[C], ...]:
    """Read `a + 0.5*b(option=value)`: parts with a number in front, or without one for 1.

    Raises:
        CompresscError: CC103 for bad syntax and for a weight that is none, and as `parse`.
    """
    parts = split_top_level(text, "+") or [""]
    return tuple(_weighted(kind, part, i, text) for i, part in enumerate(parts, 1))


def sum_text(parts: Iterable[Weighted[C]]) -> str:
    """What `parse_sum` reads back."""
    return " + ".join(part.text for part in parts)


def _weighted(kind: type[C], part: str, place: int, whole: str) -> Weighted[C]:
    """One part; errors say which one it is."""
    where = f"part {place} of '{whole}'"
    *factors, call = split_top_level(part, "*") or [""]
    if len(factors) > 1 or not call:
        wanted = f"parts of a sum are written {kind.entry_points.noun} or weight*..."
        raise CompresscError("CC103", wanted, got=part or "nothing", where=where)
    weight = _number(factors[0]) if factors else 1.0
    if weight is None or not 0 < weight <= MOST_WEIGHT:
        wanted = f"a weight is a number above 0, at most {MOST_WEIGHT:g}"
        raise CompresscError("CC103", wanted, got=factors[0] or "nothing", where=where)
    return Weighted(weight, parse(kind, call))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_options(text: str, name: str) -> dict[str, Any]:
    """Read the options of what is called `name`: `option=value, ...`.

    Whole numbers that follow a value belong to it: `keep=0,2,5` has the value (0, 2, 5).

    Raises:
        CompresscError: CC103 for bad syntax, or an option that is given twice.
    """
    given: dict[str, Any] = {}
    key = ""
    for item in split_top_level(text):
        if key and _WHOLE.fullmatch(item):
            before = given[key] if isinstance(given[key], tuple) else (given[key],)
            given[key] = (*before, int(item))
            continue
        key, value = _option(item, name)
        if key in given:
            raise CompresscError("CC103", f"option '{key}' is given once", got=text, where=name)
        given[key] = value
    return given


def split_top_level(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside brackets and quotes; empty text gives no parts."""
    parts: list[str] = []
    depth = start = 0
    quote, escaped = "", False
    for i, char in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


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


def _literal(value: Any) -> str:
    """A bare word stays one; any other text is quoted, so that it reads back as text."""
    bare = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value)
    if bare and value.lower() not in ("true", "false", "none"):
        return str(value)
    return json.dumps(value) if isinstance(value, str) else repr(value)
