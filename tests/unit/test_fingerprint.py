"""Which code a plugin runs: what counts, what does not, and when it cannot be told."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from compressc import fingerprint as module
from compressc.fingerprint import Fingerprint, fingerprint
from compressc.pipeline import load_pass

LONG_AGO = 1_700_000_000


class Place:
    """A folder on the import path, with modules and metadata that were there before we began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.folder / f"{name.replace('__', '/', 1)}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, (LONG_AGO, LONG_AGO))

    def install(self, name: str, version: str, source: dict | None = None) -> None:
        for old in self.folder.glob(f"{name}-*.dist-info"):
            old.rename(self.folder / f"gone-{old.name}.old")
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "direct_url.json").write_text(json.dumps(source or {}))

    def take(self, name: str = "mine", **options) -> Fingerprint:
        """As a process would that starts now."""
        for cached in vars(module).values():
            getattr(cached, "cache_clear", lambda: None)()
        importlib.invalidate_caches()
        for loaded in [n for n in sys.modules if n.partition(".")[0] in ("mine", "other", "lib")]:
            del sys.modules[loaded]
        return fingerprint(importlib.import_module(name).Plugin, **options)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Place(tmp_path)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mine", "other", "lib"):
            del sys.modules[name]


PLUGIN = "class Plugin: pass\n"


def test_the_same_source_has_the_same_fingerprint_wherever_it_is(place):
    place.write(mine=PLUGIN)
    first = place.take()
    assert first.unknown == ""
    assert place.take() == first
    place.write(mine=PLUGIN + "# a word\n")
    assert place.take().sha256 != first.sha256


@pytest.mark.parametrize(
    "line",
    [
        "import other",
        "from other import x",
        "def late():\n    import other as o",
        "try:\n    pass\nexcept ValueError:\n    from other import (\n        x,\n    )",
        "import importlib\nfound = importlib.import_module('other')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import other",
        "match 1:\n    case 1:\n        import other",
    ],
)
def test_a_module_that_is_imported_counts_wherever_the_statement_is(place, line):
    place.write(mine=f"{line}\n{PLUGIN}", other="x = 1\n")
    first = place.take()
    place.write(other="x = 2\n")
    assert place.take().sha256 != first.sha256


def test_imports_are_followed_along_the_way(place):
    place.write(
        mine____init__="", mine__a=f"from . import b\n{PLUGIN}", mine__b="from .c import x\n"
    )
    place.write(mine__c="import other\nx = 1\n", other="y = 1\n")
    first = place.take("mine.a")
    assert set(first.modules) == {"mine", "mine.a", "mine.b", "mine.c", "other"}
    place.write(other="y = 2\n")
    assert place.take("mine.a").sha256 != first.sha256


def test_what_is_imported_for_type_checkers_or_not_at_all_does_not_count(place):
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import other\n"
    place.write(mine=guarded + PLUGIN, other="x = 1\n", lib="y = 1\n")
    first = place.take()
    place.write(other="x = 2\n", lib="y = 2\n")
    assert place.take() == first


def test_of_an_installed_library_the_version_counts(place):
    place.write(mine=f"import lib\n{PLUGIN}", lib="x = 1\n")
    place.install("lib", "1.0")
    first = place.take()
    assert dict(first.libraries) == {"lib": "1.0"}
    place.write(lib="x = 2\n")
    assert place.take() == first
    place.install("lib", "2.0")
    assert dict(place.take().libraries) == {"lib": "2.0"}


def test_of_a_library_that_is_edited_the_source_counts(place):
    place.write(mine=f"import lib\n{PLUGIN}", lib="x = 1\n")
    place.install("lib", "1.0", {"url": "file:///src", "dir_info": {"editable": True}})
    first = place.take()
    place.write(lib="x = 2\n")
    assert place.take().sha256 != first.sha256


def test_a_library_may_be_called_otherwise_or_only_be_declared(place):
    place.write(mine=f"import sklearn\nimport json\n{PLUGIN}")
    found = place.take(libraries=["torchao", "no-such-library"]).libraries
    assert set(found) == {"scikit-learn", "torchao", "no-such-library"}
    assert found["no-such-library"] == "absent"


def test_only_what_is_asked_of_the_front_door_counts(place):
    place.write(mine=f"from compressc import Graph, Pass\n{PLUGIN}")
    found = place.take().modules
    assert {"compressc.pipeline.pass_", "compressc.ir.graph"} <= set(found)
    assert not any("frontend" in name or "report" in name or "cli" in name for name in found)


@pytest.mark.parametrize(
    ("name", "counts", "does_not"),
    [
        ("distill", "compressc.training.loop", "compressc.cli.compile"),
        ("distill", "compressc.kernels._native", "compressc.report.html"),
        ("distill", "compressc.distillation.points", "compressc_prune.prune"),
        ("simplify", "compressc.analysis.coverage", "compressc.training.loop"),
        ("quant", "compressc.ir.quantized", "compressc_distill.distill"),
    ],
)
def test_our_own_passes_count_the_core_that_they_run(name, counts, does_not):
    found = fingerprint(load_pass(name))
    assert found.unknown == ""
    assert counts in found.modules
    assert does_not not in found.modules
    assert found.libraries["torch"]


def test_a_file_that_changed_since_the_process_began_may_not_be_what_runs(place):
    place.write(mine=f"import other\n{PLUGIN}", other="")
    os.utime(place.folder / "other.py")
    assert place.take().unknown == "other.py was changed after this process began"


def test_code_without_a_file_is_unknown(place):
    place.write(mine=PLUGIN)
    made = type("Made", (), {"__module__": "typed_at_a_prompt"})
    assert fingerprint(made).unknown == "module typed_at_a_prompt has no file"
