"""What the pruning tests share: graphs as a run has them, and the pass on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from compressc_prune import Prune
from torch import fx

from compressc.data.digits import digits
from compressc.ir import Graph, lower, verify
from compressc.pipeline import Context, TransferSet
from tests.unit.analysis.analysis_nets import symbolized


def pruned(graph: Graph, **options: object) -> tuple[Graph, Context]:
    """The graph after `prune`, verified; and what the pass noted."""
    options = {"round_to": 1, **options}
    after = graph.copy()
    context = Context(graph, options.pop("data", None))
    torch.manual_seed(0)
    with torch.enable_grad():
        Prune(**options).run(after, context)
    verify(after, like=graph)
    return after, context


def kept_of(graph: Graph, name: str, dim: int) -> list[int]:
    """Teacher indices of a dimension of a value that are left."""
    return list(graph[name].kept[dim])


def removed(size: int, kept: list[int]) -> list[int]:
    return sorted(set(range(size)) - set(kept))


@lru_cache
def digit_data() -> TransferSet:
    return digits()


def digit_images(count: int) -> torch.Tensor:
    """Real inputs f32[count,1,8,8]."""
    return digit_data().test.inputs[0][:count]


def inputs_of(name: str, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs for a network of the zoo; the real digits where it takes images."""
    generator = torch.Generator().manual_seed(batch)
    made = []
    for op in symbolized(name).inputs:
        shape = [
            n if isinstance(n, int) else batch for n in symbolized(name).type_of(op.name).shape
        ]
        if not symbolized(name).type_of(op.name).dtype.is_floating_point:
            made.append(torch.randint(0, 20, shape, generator=generator))
        elif shape[1:] == [1, 8, 8]:
            made.append(digit_images(batch))
        else:
            made.append(torch.randn(shape, generator=generator))
    return tuple(made)


class Zeroed(fx.Interpreter):
    """The full graph, run with zeros at the removed indices of every value.

    What was removed is read off the lineage of the pruned graph, index by index.
    """

    def __init__(self, graph: Graph, after: Graph) -> None:
        super().__init__(lower(graph.copy()))
        self.kept = {op.name: op.kept for op in after if op.kept}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        for dim, kept in self.kept.get(n.meta.get("ir_op", ""), {}).items():
            gone = torch.tensor(removed(value.shape[dim], list(kept)), dtype=torch.long)
            value = value.index_fill(dim, gone, 0)
        return value


def zeroed(graph: Graph, after: Graph) -> Callable[..., object]:
    """The full graph as a function of its inputs, with zeros for what the pruned one lacks."""
    return Zeroed(graph, after).run


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over the root mean square of what is wanted."""
    return float((got - want).abs().max() / want.pow(2).mean().sqrt())
