"""Modules that lie beside a user's file: found while it runs, loaded anew, forgotten afterwards.

A session reads many files. Were a module that one of them imports to stay in `sys.modules`, the
next file with a neighbour of that name would get the first one's, and an edited one would not be
seen: other results than on the command line, without a word.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Never hidden: what runs right now, and what the whole session shares.
_KEPT = frozenset(sys.stdlib_module_names) | {"compressc", "torch", "numpy", "__main__"}


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let Python find what lies in a folder, first and anew; then forget it again.

    What the session had imported from the folder itself stays as it is.
    """
    folder = folder.resolve()
    before = set(sys.modules)
    hidden = {name: module for name, module in sys.modules.items() if _is_shadowed(name, folder)}
    for name in hidden:
        del sys.modules[name]
    # stale bytecode is told by seconds and sizes: what is edited twice in a second would be missed
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:  # the user's code may have changed it
            sys.path.remove(str(folder))
        new = [name for name in sys.modules if name not in before or name in hidden]
        for name in [name for name in new if _lies_in(name, folder)]:
            del sys.modules[name]
        sys.modules.update(hidden)
        sys.dont_write_bytecode = written


def _is_shadowed(name: str, folder: Path) -> bool:
    """A module from elsewhere, while the folder has one of that name."""
    top = name.partition(".")[0]
    if top in _KEPT or _lies_in(name, folder):
        return False
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _lies_in(name: str, folder: Path) -> bool:
    """Whether the outermost package of a module was found in the folder itself."""
    module = sys.modules.get(name.partition(".")[0]) or sys.modules.get(name)
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", []))
    return any(_top(Path(place)) == folder for place in places)


def _top(place: Path) -> Path:
    """The folder in which a module (`x.py`) or a package (`x/__init__.py`, `x/`) lies."""
    path = place.resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent
