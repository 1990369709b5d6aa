"""Blocks that a graph no longer has: they leave their list, or are passed by.

So are norms that were folded into the layer in front of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressc.ir import Graph, layer_tensors
from compressc.transplant.homes import legal, module_paths

#: What a configuration calls the number of its blocks, and a block its own place.
_LAYERS, _PLACE = ("layer", "block", "depth"), ("layer", "block", "idx", "index")


@dataclass(frozen=True)
class Gap:
    """A part of the module of which nothing is left in the graph.

    Attributes:
        path: of the part.
        listed: whether it is a block in an `nn.ModuleList`, which may become shorter.
    """

    path: str
    listed: bool


class Passed(nn.Identity):
    """In the place of a part that is gone: hands on the first thing that it is given."""

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The first argument."""
        return input


def find_gaps(graph: Graph, before: Graph, module: nn.Module) -> list[Gap]:
    """The outermost parts with weights of which no op is left.

    Args:
        graph: what is computed now.
        before: the graph of the module.
        module: what `before` was traced from.
    """
    found: list[str] = []
    for path in module_paths(module).values():
        ops = [op for op in before if _lies_in(op.name, path)]
        if any(path.startswith(f"{outer}.") for outer in found) or not ops:
            continue
        held = any(op.layer is not None and layer_tensors(op.layer) for op in ops)
        if held and not any(op.name in graph for op in ops):
            found.append(path)
    return [Gap(path, _is_block(module, path)) for path in found]


def _lies_in(name: str, path: str) -> bool:
    return name == legal(path) or name.startswith(f"{legal(path)}.")


def _is_block(module: nn.Module, path: str) -> bool:
    parent = module.get_submodule(path.rpartition(".")[0])
    return isinstance(parent, nn.ModuleList) and bool(list(module.get_submodule(path).children()))


def leave_out(
    module: nn.Module, gaps: Sequence[Gap], *, shorten: bool
) -> Callable[[str], str | None]:
    """Take the gaps out of a module.

    Args:
        module: edited in place.
        gaps: of it.
        shorten: take blocks out of their lists; else they are passed by.

    Returns:
        Path before -> path now, or None for what is gone.
    """
    short: dict[str, list[int]] = {}
    for gap in gaps:
        parent, _, name = gap.path.rpartition(".")
        if gap.listed and shorten:
            short.setdefault(parent, []).append(int(name))
        else:
            passed = Passed() if gap.listed else nn.Identity()
            module.get_submodule(parent)._modules[name] = passed
    renamed: dict[str, dict[int, int]] = {}
    for path, gone in short.items():
        renamed[path] = _shorten(module, path, set(gone))

    def moved(path: str) -> str | None:
        if any(path == gap.path or path.startswith(f"{gap.path}.") for gap in gaps):
            return None
        for parent, places in renamed.items():
            if path.startswith(f"{parent}."):
                number, dot, rest = path[len(parent) + 1 :].partition(".")
                return f"{parent}.{places[int(number)]}{dot}{rest}"
        return path

    return moved


def _shorten(module: nn.Module, path: str, gone: set[int]) -> dict[int, int]:
    """Take blocks out of a list; numbers that follow from it are changed, too."""
    blocks: Any = module.get_submodule(path)
    before = len(blocks)
    stay = [number for number in range(before) if number not in gone]
    kept = [blocks[number] for number in stay]
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent) if parent else module
    owner._modules[name] = nn.ModuleList(kept)
    for new, old in enumerate(stay):
        for part in kept[new].modules():
            for attribute, value in list(vars(part).items()):
                if type(value) is int and value == old and _says(attribute, _PLACE):
                    setattr(part, attribute, new)
    for holder in _counters(module):
        for attribute, value in list(vars(holder).items()):
            if type(value) is int and value == before and _says(attribute, _LAYERS):
                setattr(holder, attribute, len(stay))
            elif isinstance(value, list) and len(value) == before:
                setattr(holder, attribute, [value[number] for number in stay])
    return {old: new for new, old in enumerate(stay)}


def _counters(module: nn.Module) -> Iterator[Any]:
    """What may hold the number of blocks: modules, and the configurations that they share."""
    seen: set[int] = set()
    for part in module.modules():
        for holder in (part, getattr(part, "config", None)):
            if holder is not None and hasattr(holder, "__dict__") and id(holder) not in seen:
                seen.add(id(holder))
                yield holder


def _says(name: str, words: Sequence[str]) -> bool:
    return any(word in name for word in words)
