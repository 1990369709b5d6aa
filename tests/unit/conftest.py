from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from compressc import plugins


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
            point = EntryPoint(name, value, plugins.PASSES.entry_points)
            vars(point)["dist"] = Distribution(distribution)
            made.append(point)
        monkeypatch.setattr(plugins, "entry_points", lambda group: made)
        plugins._claims_on.cache_clear()

    yield install
    monkeypatch.undo()
    plugins._claims_on.cache_clear()
