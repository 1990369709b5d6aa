from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from compressc.pipeline import registry
from tests.unit.pipeline.pipeline_passes import ALL, Scale

MODULE = "tests.unit.pipeline.pipeline_passes"


class Distribution:
    """What an entry point knows of where it comes from."""

    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


@pytest.fixture
def installed(monkeypatch):
    """Make entry points seem installed: `installed(("name", "module:attr", "distribution"))`."""

    def install(*points: tuple[str, str, str]) -> None:
        made = []
        for name, value, distribution in points:
            point = EntryPoint(name, value, registry.PASSES)
            vars(point)["dist"] = Distribution(distribution)
            made.append(point)
        monkeypatch.setattr(registry, "entry_points", lambda group: made)
        registry.find_plugins.cache_clear()

    yield install
    monkeypatch.undo()
    registry.find_plugins.cache_clear()


@pytest.fixture
def passes(installed):
    """The passes of `pipeline_passes` and no others."""
    installed(*((cls.name, f"{MODULE}:{cls.__name__}", "ours") for cls in ALL))
    Scale.runs.clear()
