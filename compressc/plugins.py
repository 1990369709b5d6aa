"""Plugins by entry point, all kinds through one table. Ours are found as a stranger's are."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from compressc.errors import CompresscError
from compressc.strangers import reading


@dataclass(frozen=True)
class Group:
    """One kind of plugin.

    Attributes:
        entry_points: the group's name in a distribution's metadata.
        noun, nouns: what one is called in errors, and what several are.
        must_be: what the object behind an entry point has to be.
        unknown: the error code for a name that nobody brings.
    """

    entry_points: str
    noun: str
    nouns: str
    must_be: str
    unknown: str = "CC107"


#: Names that a hint lists.
_LISTED = 12

PASSES = Group("compressc.passes", "pass", "passes", "a subclass of compressc.Pass", "CC101")
OBJECTIVES = Group(
    "compressc.objectives",
    "objective",
    "objectives",
    "a subclass of compressc.distillation.Objective",
)
IMPORTANCES = Group(
    "compressc.importances",
    "importance",
    "importances",
    "a subclass of compressc.importance.Importance",
)
DATASETS = Group(
    "compressc.datasets", "data set", "data sets", "a function that returns a data set"
)
AUGMENTATIONS = Group(
    "compressc.augmentations",
    "augmentation",
    "augmentations",
    "a subclass of compressc.data.Augmentation",
)
TASKS = Group("compressc.tasks", "task", "tasks", "a subclass of compressc.tasks.Task")
BACKENDS = Group(
    "compressc.backends", "back end", "back ends", "a subclass of compressc.backend.Backend"
)
OBSERVERS = Group(
    "compressc.observers", "observer", "observers", "a subclass of compressc.observers.Observer"
)
SYNTHESES = Group(
    "compressc.syntheses",
    "synthesis",
    "syntheses",
    "a subclass of compressc.distillation.Synthesis",
)
CONDENSATIONS = Group(
    "compressc.condensations",
    "condensation",
    "condensations",
    "a subclass of compressc.distillation.Condensation",
)
#: Every kind there is, in the order in which they are listed.
GROUPS = (
    PASSES,
    OBJECTIVES,
    IMPORTANCES,
    DATASETS,
    AUGMENTATIONS,
    SYNTHESES,
    CONDENSATIONS,
    TASKS,
    BACKENDS,
    OBSERVERS,
)


def find(group: Group) -> dict[str, EntryPoint]:
    """Entry points of a group by name, sorted; nothing is imported."""
    return {name: points[0] for name, points in _claims(group.entry_points).items()}


def load(group: Group, name: str) -> Any:
    """Import the object behind an entry point.

    Raises:
        CompresscError: the group's `unknown` code where there is no such name; CC106 where two
            distributions claim it, where its import fails, or where it cannot be called.
    """
    point = _only(group, name)
    wanted = f"the {group.noun} '{name}' of {_from(point)} can be imported"
    with reading("CC106", wanted, origin(group, name)):
        found = point.load()
    if not callable(found):
        wanted = f"entry point '{name}' must be {group.must_be}"
        raise CompresscError("CC106", wanted, got=repr(found), where=_from(point))
    return found


def distribution(group: Group, name: str) -> str:
    """Name and version of the distribution that a plugin comes from.

    Raises:
        CompresscError: the group's `unknown` code where there is no such name.
    """
    return _from(_known(group, name)[0])


def origin(group: Group, name: str) -> str:
    """The place of a plugin: `compressc_prune:Prune of compressc 0.1.0`."""
    point = _known(group, name)[0]
    return f"{point.value} of {_from(point)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'prune'?`, or what there is, as far as a line holds it."""
    names = list(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean '{close[0]}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"there are: {', '.join(names[:_LISTED]) or 'none'}{more}"


def _claims(entry_group: str) -> dict[str, list[EntryPoint]]:
    return _claims_on(entry_group, tuple(sys.path))


@lru_cache(maxsize=32)
def _claims_on(entry_group: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Who claims which name, by the import path: reading all metadata takes 10 ms.

    One distribution can be listed twice, an editable install beside a built one: that is one claim.
    """
    claims: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=entry_group):
        points = claims.setdefault(point.name, [])
        if all(other.value != point.value for other in points):
            points.append(point)
    return dict(sorted(claims.items()))


def _known(group: Group, name: str) -> list[EntryPoint]:
    claims = _claims(group.entry_points)
    if name not in claims:  # it may have been installed since
        _claims_on.cache_clear()
        claims = _claims(group.entry_points)
    if name not in claims:
        hint = nearest(name, claims)
        raise CompresscError(group.unknown, f"unknown {group.noun} '{name}'", hint=hint)
    return claims[name]


def _only(group: Group, name: str) -> EntryPoint:
    points = _known(group, name)
    if len(points) > 1:
        raise CompresscError(
            "CC106",
            f"the {group.noun} '{name}' must come from one distribution",
            got=" and ".join(sorted(map(_from, points))),
            hint="uninstall all but one",
        )
    return points[0]


def _from(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
