"""Plugins by entry point: passes, back ends, data sets, objectives. Ours are found the same way."""

from __future__ import annotations

import difflib
import inspect
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from compressc.errors import CompresscError
from compressc.pipeline.pass_ import Pass

PASSES = "compressc.passes"


@lru_cache(maxsize=16)
def find_plugins(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name; nothing is imported.

    Raises:
        CompresscError: CC106 where two distributions claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise CompresscError(
                "CC106",
                f"'{point.name}' in {group} must come from one distribution",
                got=f"{_distribution(other)} and {_distribution(point)}",
                hint="uninstall one of them",
            )
    return dict(sorted(found.items()))


def load_plugin(group: str, name: str, *, code: str = "CC107", noun: str = "plugin") -> Any:
    """Import the object behind an entry point.

    Raises:
        CompresscError: `code` where there is no such name, CC106 where its import fails.
    """
    found = find_plugins(group)
    if name not in found:
        raise CompresscError(code, f"unknown {noun} '{name}'", hint=nearest(name, found))
    try:
        return found[name].load()
    except Exception as error:  # a stranger's module may raise anything
        raise CompresscError(
            "CC106",
            f"plugin '{name}' of {_distribution(found[name])} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            where=found[name].value,
        ) from error


def load_pass(name: str) -> type[Pass]:
    """The pass class of that name.

    Raises:
        CompresscError: CC101 for an unknown name (with the nearest one), CC106 for a broken plugin.
    """
    found = load_plugin(PASSES, name, code="CC101", noun="pass")
    point = find_plugins(PASSES)[name]
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise CompresscError(
            "CC106",
            f"entry point '{name}' must be a subclass of compressc.Pass",
            got=repr(found),
            where=_distribution(point),
        )
    if inspect.isabstract(found):
        raise CompresscError(
            "CC106",
            f"the pass '{name}' must define run()",
            got=", ".join(sorted(found.__abstractmethods__)) + " left abstract",
            where=_distribution(point),
        )
    if getattr(found, "name", None) != name:
        raise CompresscError(
            "CC106",
            f"the pass must have the name of its entry point, '{name}'",
            got=str(getattr(found, "name", None)),
            where=_distribution(point),
        )
    return found


def nearest(name: str, known: Any) -> str:
    """`did you mean 'prune'?`, or the list of what there is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"installed: {', '.join(known) or 'none'}"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def distribution_of(group: str, name: str) -> str:
    """Name and version of the distribution that a plugin comes from."""
    return _distribution(find_plugins(group)[name])
