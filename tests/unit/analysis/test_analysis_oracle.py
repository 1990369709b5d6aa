"""The coupling against an oracle that knows no rules: disturb one index and see what moves.

For a width that may be cut, every weight that *reads* an index of it is zeroed. Then the weights
that *make* the index get other numbers. If the coupling is right, the outputs do not move at all,
and no value moves anywhere but at the indices that belong to it.
"""

from __future__ import annotations

import pytest
import torch

from compressc.analysis import Coupling, Slot, Width, couple, kept_indices
from compressc.analysis.axes import leaves
from compressc.ir import Graph, TensorType, lower
from tests.passes.prune.prune_nets import inputs_of
from tests.unit.analysis.analysis_nets import symbolized

NAMES = """digits_cnn vit gqa_repeat gqa_flag rotary split_qkv dense_net u_net grouped
shuffle_in_line squeeze_excite transformer_encoder cross_attention rms_gated"""


@pytest.mark.parametrize("name", NAMES.split())
@torch.no_grad()
def test_what_moves_is_what_is_coupled(name):
    graph = symbolized(name)
    found = couple(graph)
    torch.manual_seed(0)
    inputs = inputs_of(name, 2)
    tried = 0
    for width in found.widths():
        if width.producers and not width.axis.frozen and not width.axis.normalized:
            _check(graph, found, width, inputs)
            tried += 1
    assert tried


def _check(graph: Graph, found: Coupling, width: Width, inputs: tuple[torch.Tensor, ...]) -> None:
    index = width.size // 2
    others = torch.tensor([i for i in range(width.size) if i != index])
    kept = {width.axis: others}
    for slot in width.slots:
        if _reads(graph, slot):
            _places(graph, slot, kept).zero_(graph)
    makers = [
        slot for slot in width.slots if not _reads(graph, slot) and slot.op in width.producers
    ]
    if width.axis.role == "head width":  # q and k read each other: disturb one, zero the rest
        for slot in makers:
            _places(graph, slot, kept).zero_(graph)
        makers = [slot for slot in makers if slot.op == makers[0].op][:1]
    before = _values(graph, inputs)
    undo = []
    for slot in makers:
        place = _places(graph, slot, kept)
        rows = place.rows[:1] if width.axis.role == "head width" else place.rows
        undo.append((place, rows, place.tensor(graph).index_select(place.dim, rows)))
        place.tensor(graph).index_fill_(place.dim, rows, 3.0)
    after = _values(graph, inputs)
    for name, (was, now) in ((n, (before[n], after[n])) for n in before):
        _check_value(graph, found, width, name, was != now, kept)
    for place, rows, old in undo:
        place.tensor(graph).index_copy_(place.dim, rows, old)


def _check_value(graph, found, width, name, moved, kept):
    assert not (moved.any() and name in graph.output_names), f"{width.producers}: output %{name}"
    for dim, axis in enumerate(found.values[name]):
        if width.axis in leaves(axis) and isinstance(graph.type_of(name).shape[dim], int):
            rest = moved.index_select(dim, kept_indices(axis, kept))
            assert not rest.any(), f"{width.producers}: %{name} moves beside its index"
            return
    open_part = any(width.axis in leaves(axis) for axis in found.values[name])
    assert open_part or not moved.any(), f"{width.producers}: %{name} is not coupled, yet moves"


class _Place:
    """Rows of one dimension of one tensor of a layer."""

    def __init__(self, slot: Slot, rows: torch.Tensor) -> None:
        self.slot, self.dim, self.rows = slot, slot.dim, rows

    def tensor(self, graph: Graph) -> torch.Tensor:
        held: torch.Tensor = getattr(graph[self.slot.op].layer, self.slot.tensor)
        return held

    def zero_(self, graph: Graph) -> None:
        self.tensor(graph).index_fill_(self.dim, self.rows, 0.0)


def _places(graph: Graph, slot: Slot, kept: dict) -> _Place:
    size = getattr(graph[slot.op].layer, slot.tensor).shape[slot.dim]
    stay = set(kept_indices(slot.axis, kept).tolist())
    return _Place(slot, torch.tensor([i for i in range(size) if i not in stay]))


def _reads(graph: Graph, slot: Slot) -> bool:
    """A dimension of a matrix along which inputs are summed."""
    layer = graph[slot.op].layer
    if slot.tensor != "weight" or layer.weight.dim() < 2:
        return False
    if isinstance(layer, torch.nn.Embedding):
        return False
    made = 1 if getattr(layer, "transposed", False) else 0
    return slot.dim != made


def _values(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    names = [
        op.name
        for op in graph
        if isinstance(op.type, TensorType) and op.kind not in ("input", "parameter", "constant")
    ]
    _, values = lower(graph, also=names)(*inputs)
    return {name: value.clone() for name, value in zip(names, values, strict=True)}
