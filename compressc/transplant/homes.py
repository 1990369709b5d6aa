"""Where the tensors of a graph live in the module that it was traced from.

Layers are called after the path of their module, and tensors that no leaf module owns after their
own path (see `compressc.frontend.naming`). What the names leave open, whether a tensor is stored
the other way round, as by Conv1D of transformers, is told by shapes and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compressc.ir import Graph, layer_tensors


@dataclass(frozen=True)
class Home:
    """One tensor of a module.

    Attributes:
        path: of the module that owns it.
        slot: its name there.
        transposed: whether it is stored [in, out] where the graph has [out, in].
    """

    path: str
    slot: str
    transposed: bool = False


def legal(path: str) -> str:
    """A path as the name of an op is written."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", path).strip(".")


def module_paths(module: nn.Module) -> dict[str, str]:
    """Name of an op -> path of the module of that name."""
    named = module.named_modules(remove_duplicate=False)
    return {legal(path): path for path, _ in named if path}


def find_homes(graph: Graph, module: nn.Module) -> dict[str, Home]:
    """Text name of each tensor of a graph (`conv1.weight`) -> its home; left out without one.

    Args:
        graph: as it was traced.
        module: what it was traced from, with the same weights or others.
    """
    slots = dict(_slots(module))
    found: dict[str, list[Home]] = {}
    votes: Counter[tuple[type, bool]] = Counter()
    for text, tensor in graph.tensors().items():
        choices = _choices(text, tensor, slots, module)
        found[text] = choices
        if len(choices) == 1 and tensor.dim() == 2:
            votes[type(module.get_submodule(choices[0].path)), choices[0].transposed] += 1
    return {text: _voted(choices, votes, module) for text, choices in found.items() if choices}


def _slots(module: nn.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Legal name of each tensor -> path of its module and name there."""
    for path, part in module.named_modules(remove_duplicate=False):
        for slot in (*part._parameters, *part._buffers):
            yield legal(f"{path}.{slot}"), (path, slot)


def _choices(
    text: str, tensor: torch.Tensor, slots: Mapping[str, tuple[str, str]], module: nn.Module
) -> list[Home]:
    """The homes that name, shape and, where they are the same, numbers leave."""
    op, _, local = text.rpartition(".")
    names = [op] if local == "value" else [text, f"{op}_{local}"]
    names += [op] * (local == "weight")  # a product with a tensor of the module: `x @ self.mix`
    for name in names:
        if name not in slots:
            continue
        path, slot = slots[name]
        held = getattr(module.get_submodule(path), slot)
        if held is None:
            return []
        turned = tensor.dim() == 2 and local != "value"
        fits = [Home(path, slot)] * (held.shape == tensor.shape)
        fits += [Home(path, slot, True)] * (turned and held.shape == tensor.t().shape)
        if len(fits) == 2 and _equal(held, tensor) != _equal(held, tensor.t()):
            return [Home(path, slot, not _equal(held, tensor))]
        return fits
    return []


def _equal(held: torch.Tensor, tensor: torch.Tensor) -> bool:
    return not held.is_meta and torch.equal(held.detach().cpu(), tensor.detach().to(held.dtype))


def _voted(choices: list[Home], votes: Counter[tuple[type, bool]], module: nn.Module) -> Home:
    """Of two the one that other modules of that class have; upright where none tells."""
    if len(choices) == 1:
        return choices[0]
    class_ = type(module.get_submodule(choices[0].path))
    return choices[votes[class_, True] > votes[class_, False]]


def owners(graph: Graph, module: nn.Module, homes: Mapping[str, Home]) -> dict[str, str]:
    """Layer op -> path of the module that is this layer and nothing more."""
    names, paths = graph.tensor_names(), module_paths(module)
    found = {}
    for op in graph:
        path = paths.get(op.name)
        if op.layer is None or path is None or op.role == "tensor":
            continue
        part = module.get_submodule(path)
        held = [homes.get(names[id(tensor)]) for _, tensor in layer_tensors(op.layer)]
        own = all(home is not None and hasattr(part, home.slot) for home in held)
        if own and not list(part.children()):
            found[op.name] = path
    return found
