"""The pass list as text: `prune(ratio=0.5),distill(epochs=3),quant`."""

from __future__ import annotations

from collections.abc import Iterable

from compressc.errors import CompresscError
from compressc.pipeline.pass_ import Pass
from compressc.spec import load_class, parse, split_top_level


def parse_passes(passes: str | Iterable[Pass | str]) -> list[Pass]:
    """Read a pass list.

    Args:
        passes: the text, or a list of passes and texts.

    Raises:
        CompresscError: CC103 for bad syntax, CC101 for an unknown pass, CC102 for a bad option.
    """
    items = split_top_level(passes) if isinstance(passes, str) else list(passes)
    found = [item if isinstance(item, Pass) else parse_pass(item) for item in items]
    if not found:
        raise CompresscError(
            "CC103", "at least one pass", got="an empty list", hint="--passes quant"
        )
    return found


def parse_pass(text: str) -> Pass:
    """Read one pass with its options.

    Raises:
        CompresscError: CC101, CC102 or CC103.
    """
    return parse(Pass, text)  # type: ignore[type-abstract]


def load_pass(name: str) -> type[Pass]:
    """The pass class of that name.

    Raises:
        CompresscError: CC101 for an unknown name (with the nearest one), CC106 for a broken plugin.
    """
    return load_class(Pass, name)  # type: ignore[type-abstract]
