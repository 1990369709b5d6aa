"""What the pruning tests share: graphs as a run has them, and the pass on them."""

from __future__ import annotations

from functools import lru_cache

import torch
from compressc_prune import Prune
from torch import nn

from compressc.analysis import Coupling, couple, kept_indices
from compressc.analysis.axes import leaves
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


@torch.no_grad()
def zeroed(graph: Graph, after: Graph) -> nn.Module:
    """The full graph with every weight of a removed index set to zero.

    What was removed is read off the lineage of the pruned graph; statistics of norms stay.
    """
    full = graph.copy()
    found = couple(full)
    gone = _removed_leaves(found, full, after)
    for slot in found.slots:
        if slot.tensor.startswith("running") or not any(leaf in gone for leaf in leaves(slot.axis)):
            continue
        tensor = getattr(full[slot.op].layer, slot.tensor)
        keep = kept_indices(slot.axis, gone)
        out = [i for i in range(tensor.shape[slot.dim]) if i not in set(keep.tolist())]
        tensor.index_fill_(slot.dim, torch.tensor(out), 0.0)
    return lower(full)


def _removed_leaves(found: Coupling, full: Graph, after: Graph) -> dict:
    """Leaf -> kept indices, as the notes of lineage on the values say."""
    kept: dict = {}
    for op in after:
        for dim, indices in op.kept.items():
            axis = found.values[op.name][dim]
            for leaf in leaves(axis):
                rest = [_without(axis, leaf, j) for j in range(leaf.size)]
                here = [j for j in range(leaf.size) if not set(indices) <= rest[j]]
                if len(here) < leaf.size:
                    kept[leaf] = torch.tensor(here)
    return kept


def _without(axis, leaf, index: int) -> set[int]:
    """Indices of an axis that are left without one index of a leaf."""
    others = torch.tensor([j for j in range(leaf.size) if j != index], dtype=torch.long)
    return set(kept_indices(axis, {leaf: others}).tolist())


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over the root mean square of what is wanted."""
    return float((got - want).abs().max() / want.pow(2).mean().sqrt())
