"""Results of passes, kept under a hash of everything they depend on: no work is done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, load_bundle, save_bundle

_FACTS = "facts.json"


def default_cache_folder() -> Path:
    """`$COMPRESSC_CACHE`, or `compressc` in the user's cache folder."""
    if "COMPRESSC_CACHE" in os.environ:
        return Path(os.environ["COMPRESSC_CACHE"])
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "compressc"


@dataclass(frozen=True)
class Cached:
    """What a pass left: the graph, and facts about the run (notes, edits, seconds)."""

    graph: Graph
    facts: dict[str, Any]


class PassCache:
    """Bundles in a folder, one per key.

    Args:
        folder: where; None switches caching off.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(parts: Mapping[str, Any]) -> str:
        """sha256 over the parts, in canonical JSON."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, key: str) -> Cached | None:
        """The stored result, or None; a damaged entry is dropped, as if it had never been."""
        if self.folder is None or not (self.folder / key).is_dir():
            return None
        try:
            stored = json.loads((self.folder / key / _FACTS).read_text(encoding="utf-8"))
            graph = load_bundle(self.folder / key)
            if graph_hash(graph) == stored["graph"]:  # a flipped bit in a weight is damage, too
                return Cached(graph, stored["facts"])
        except (CompresscError, OSError, ValueError, KeyError, TypeError):
            pass  # dropped below
        shutil.rmtree(self.folder / key, ignore_errors=True)
        return None

    def store(self, key: str, graph: Graph, facts: Mapping[str, Any]) -> None:
        """Keep a result. Written aside and renamed, so that a crash leaves no half entry; a cache
        that cannot be written (full disk, read-only home) costs time, not the run."""
        if self.folder is None:
            return
        scratch = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
            save_bundle(graph, scratch)
            stored = {"graph": graph_hash(graph), "facts": facts}
            (scratch / _FACTS).write_text(json.dumps(stored), encoding="utf-8")
            os.replace(scratch, self.folder / key)
        except (OSError, SafetensorError):
            return  # also where another process stored the same key first
        finally:
            if scratch is not None:  # still there unless it was renamed
                shutil.rmtree(scratch, ignore_errors=True)
