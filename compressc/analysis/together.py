"""What goes with one channel: every place of the graph that must lose indices when it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressc.analysis.axes import Axis, find, kept_indices, leaves
from compressc.analysis.coupling import Coupling, couple
from compressc.errors import CompresscError
from compressc.ir import Graph, TensorType
from compressc.plugins import nearest


@dataclass(frozen=True)
class Place:
    """A dimension of a tensor or of a value that loses indices.

    Attributes:
        op: whose it is.
        kind: of the op.
        tensor: local name of the tensor; empty for the op's value.
        dim: the dimension.
        size: of it before.
        indices: those that go, ascending.
    """

    op: str
    kind: str
    tensor: str
    dim: int
    size: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class CutTogether:
    """One way to read a channel: as an index of one of the widths that its dimension is made of.

    Attributes:
        what: `channel 3 of 32`, `head 1 of 4`, `index 5 of head width 8`.
        reason: why it cannot be cut, or "".
        normalized: the op that takes a norm or mean over it, or "": a cut is not zeroing then.
        places: tensors first, then values, each in the graph's order.
    """

    what: str
    reason: str
    normalized: str
    places: tuple[Place, ...]


def cut_together(graph: Graph, name: str, index: int) -> list[CutTogether]:
    """What goes with an output channel of an op.

    A dimension of several widths (heads times head width) is read once for each: an index of it
    goes with the whole head, or with the same index of every head.

    Args:
        graph: a typed graph, its sizes written over width symbols.
        name: of an op that makes a width: linear, convolution, embedding, or a parameter that
            values are multiplied with.
        index: of its output channels.

    Raises:
        CompresscError: CC100 for an op that is not there or makes no width, or an index beyond it.
    """
    found = couple(graph)
    made = dict(reversed(found.produced))
    if name not in made:
        got = "it makes no width" if name in graph else "there is none of that name"
        wanted = f"an op that makes channels, in place of '{name}'"
        raise CompresscError("CC100", wanted, got=got, hint=nearest(name, made))
    axis = made[name]
    if not 0 <= index < find(axis).size:
        wanted = f"a channel of %{name}, 0 to {find(axis).size - 1}"
        raise CompresscError("CC100", wanted, got=str(index))
    return [_reading(graph, found, leaf, at) for leaf, at in _coordinates(axis, index)]


def _coordinates(axis: Axis, index: int) -> Iterator[tuple[Axis, int]]:
    """The leaves that an index lies in, and where in each; those of size 1 are no width."""
    root = find(axis)
    if not root.parts:
        if root.size > 1:
            yield root, index
    elif root.how == "concat":
        for part in root.parts:
            if index < part.size:
                yield from _coordinates(part, index)
                return
            index -= part.size
    else:
        for part in reversed(root.parts):
            index, inner = divmod(index, part.size)
            yield from _coordinates(part, inner)


def _reading(graph: Graph, found: Coupling, leaf: Axis, at: int) -> CutTogether:
    kept = {leaf: torch.tensor([i for i in range(leaf.size) if i != at])}
    stale = found.stale.get(leaf)
    reason = leaf.frozen or (f"a size of %{stale} would not follow" if stale else "")
    if leaf.frozen and leaf.by:
        reason += f" at %{leaf.by}"
    places = [
        Place(slot.op, graph[slot.op].kind, slot.tensor, slot.dim, find(slot.axis).size, gone)
        for slot in found.slots
        if (gone := _gone(slot.axis, leaf, kept))
    ]
    for op in graph:
        if isinstance(op.type, TensorType):
            for dim, axis in enumerate(found.values[op.name]):
                if gone := _gone(axis, leaf, kept):
                    places.append(Place(op.name, op.kind, "", dim, find(axis).size, gone))
    what = {
        "heads": f"head {at} of {leaf.size}",
        "head width": f"index {at} of head width {leaf.size}",
    }.get(leaf.role, f"{leaf.role or 'channel'} {at} of {leaf.size}")
    normalized = leaf.by if leaf.normalized and not leaf.frozen else ""
    return CutTogether(what, reason, normalized, tuple(places))


def _gone(axis: Axis, leaf: Axis, kept: dict[Axis, Tensor]) -> tuple[int, ...]:
    """Indices of an axis that go; none where the leaf is not in it.

    Stand-ins for open dimensions are large primes: an axis with one in it (batch times heads) has
    no indices to tell until it runs.
    """
    own = leaves(axis)
    if leaf not in own or any(part.frozen == "an open dimension" for part in own):
        return ()
    stays = set(kept_indices(axis, kept).tolist())
    return tuple(i for i in range(find(axis).size) if i not in stays)
