"""Back ends by name, from the entry-point group `compressc.backends`."""

from __future__ import annotations

from compressc.backend.backend import Backend
from compressc.errors import CompresscError
from compressc.pipeline import find_plugins, load_plugin

GROUP = "compressc.backends"


def backend_names() -> list[str]:
    """Names of the installed back ends, sorted; none of them is imported."""
    return list(find_plugins(GROUP))


def load_backend(name: str) -> Backend:
    """The back end of that name.

    Raises:
        CompresscError: CC107 for an unknown name, CC106 for a broken plugin.
    """
    found = load_plugin(GROUP, name, noun="back end")
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise CompresscError(
            "CC106", f"entry point '{name}' must be a subclass of Backend", got=repr(found)
        )
    if getattr(found, "name", None) != name:
        raise CompresscError(
            "CC106",
            f"the back end must have the name of its entry point, '{name}'",
            got=str(getattr(found, "name", None)),
        )
    return found()
