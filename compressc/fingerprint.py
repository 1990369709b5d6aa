"""Which code a plugin runs: a hash of its source and of what that imports, and library versions.

Source that can change without a new version is hashed, module by module along the imports: the
plugin's own packages, compressc, editable installs and files that belong to no distribution. Of
everything else the version of its distribution counts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import all_suffixes
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

#: The front door imports everything by name, when it is first asked for: only what is asked counts.
_FRONT_DOOR = "compressc"
#: A file that is younger may not be the one that was imported.
_STARTED = time.time()


@dataclass(frozen=True)
class Fingerprint:
    """The code behind some plugins.

    Attributes:
        sha256: over the source files and compiled modules.
        libraries: distribution -> version, of the others that the code imports or declares.
        modules: what was hashed, sorted.
        unknown: why the code cannot be told, or "": then nothing may be kept of what it made.
    """

    sha256: str
    libraries: MappingProxyType[str, str]
    modules: tuple[str, ...]
    unknown: str = ""


def fingerprint(*plugins: Any, libraries: Iterable[str] = ()) -> Fingerprint:
    """The fingerprint of classes and functions, taken once in a process.

    Args:
        plugins: classes or functions; their modules count whole.
        libraries: distributions that count beside those that the code imports.
    """
    return _fingerprint(tuple(sorted({p.__module__ for p in plugins})), tuple(sorted(libraries)))


@lru_cache(maxsize=64)
def _fingerprint(modules: tuple[str, ...], declared: tuple[str, ...]) -> Fingerprint:
    own = {name.partition(".")[0] for name in modules}
    files: dict[str, Path] = {}
    versions = {name: _version(name) or "absent" for name in declared}
    waiting, unknown = list(modules), ""
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in files or top in sys.stdlib_module_names:
            continue
        library = "" if top in own or top == _FRONT_DOOR else _library(top)
        if library:
            versions[library] = _version(library)
            continue
        path = _file_of(name)
        if path is None:
            unknown = unknown or (f"module {name} has no file" if name in modules else "")
            continue
        files[name] = path
        if _scan(path).modified > _STARTED:
            unknown = f"{path.name} was changed after this process began"
        waiting += _imported(name, path)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {_scan(files[name]).sha256}\n".encode())
    return Fingerprint(
        digest.hexdigest(),
        MappingProxyType(dict(sorted(versions.items()))),
        tuple(sorted(files)),
        unknown,
    )


def _imported(name: str, path: Path) -> Iterator[str]:
    """Modules that a module may import, wherever in it; names that are no modules do no harm."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for module, names in _scan(path).imports:
        base = _absolute(module, package)
        if base == _FRONT_DOOR:
            yield from _behind_the_door(names)
            continue
        yield base
        yield from (f"{base}.{n}" for n in names)
    parent = name.rpartition(".")[0]
    if parent and parent != _FRONT_DOOR:
        yield parent  # it was run before


def _behind_the_door(names: tuple[str, ...]) -> Iterator[str]:
    """Modules that names of the package `compressc` itself come from; all of them for none."""
    path = _file_of(_FRONT_DOOR)
    for module, bound in _scan(path).guarded if path else ():
        if not names or set(names) & set(bound):
            yield module
    yield from (f"{_FRONT_DOOR}.{name}" for name in names)


def _absolute(module: str, package: str) -> str:
    """`..x` seen from a package as a full name."""
    name = module.lstrip(".")
    level = len(module) - len(name)
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])


@dataclass(frozen=True)
class _Scan:
    """A file: its hash, its time, its imports (module, names), and those for type checkers."""

    sha256: str
    modified: float
    imports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    guarded: tuple[tuple[str, tuple[str, ...]], ...] = ()


@lru_cache(maxsize=4096)
def _scan(path: Path) -> _Scan:
    content, modified = path.read_bytes(), path.stat().st_mtime
    sha256 = hashlib.sha256(content).hexdigest()
    if path.suffix != ".py":
        return _Scan(sha256, modified)
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return _Scan(sha256, modified)  # it cannot be imported either
    guarded: list[ast.stmt] = []
    found = tuple(_imports(tree, guarded))
    return _Scan(sha256, modified, found, tuple(_imports(ast.Module(guarded, []), [])))


def _imports(tree: ast.AST, guarded: list[ast.stmt]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every import statement; blocks for type checkers are never run, and are put aside."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield "." * node.level + (node.module or ""), names
        elif isinstance(node, ast.If) and _called(node.test) == "TYPE_CHECKING":
            guarded += node.body
            yield from _imports(ast.Module(node.orelse, []), guarded)
        else:
            call = getattr(node, "value", None)  # of an assignment, a return, or a bare call
            if isinstance(call, ast.Call) and _called(call.func) == "import_module":
                literal = call.args[0] if call.args else None
                if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                    yield literal.value, ()
            yield from _imports(node, guarded)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements right below a node, and whatever else holds statements."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(tree, field, ())
        yield from below if isinstance(below, list) else ()


def _called(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return str(getattr(node, "id", "") or getattr(node, "attr", ""))


@lru_cache(maxsize=4096)
def _file_of(name: str) -> Path | None:
    """The file of a module, found without importing it; None for what is no module."""
    top, *rest = name.split(".")
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded:
        return Path(loaded)
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.has_location and spec.origin else None
    for place in spec.submodule_search_locations or ():
        stem = Path(place, *rest)
        files = [stem / "__init__.py", *(stem.with_name(stem.name + s) for s in all_suffixes())]
        found = next((file for file in files if file.is_file()), None)
        if found:
            return found
    return None


@lru_cache(maxsize=1024)
def _library(top: str) -> str:
    """The installed distribution that a top-level package comes from, unless it is edited."""
    names = [top] if _version(top) else packages_distributions().get(top, [])
    return next((name for name in names if not _editable(name)), "")


@lru_cache(maxsize=1024)
def _version(name: str) -> str:
    try:
        return distribution(name).version
    except (PackageNotFoundError, ValueError):
        return ""


def _editable(name: str) -> bool:
    try:
        source = json.loads(distribution(name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return False
    return bool(source.get("dir_info", {}).get("editable"))
