"""The proof of a cut: the pruned graph computes what the full one does with zeros in its place.

Nothing that the coupling says is taken on trust: a width whose cut does not come out the same, or
cannot be made at all, is named and left whole. The graphs run on the user's own samples where there
are data; random numbers may be none that the model takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressc.analysis import Axis, Coupling, Slot, Width, kept_indices
from compressc.analysis.axes import leaves
from compressc.collecting import give_back
from compressc.errors import CompresscError, first_line
from compressc.ir import PRODUCTS, Graph, Op, largest_error, random_inputs, run_graph
from compressc.ir.deriving import NOT_APPLICABLE
from compressc.ir.layer_building import layer_tensors
from compressc.pipeline import Context
from compressc_prune.trials import cut_copy

#: Samples that both graphs run on.
SAMPLES = 3
#: Sums of other lengths round otherwise, and a deep network makes more of it; a wrong index is far
#: beyond.
TOLERANCE = 1e-3

Inputs = tuple[torch.Tensor, ...]
Kept = Mapping[Width, torch.Tensor]


def real_inputs(graph: Graph, ctx: Context) -> tuple[Inputs | None, str]:
    """Inputs that the graph runs on: calibration samples, else random ones with 0 or 1 as integers.

    Returns:
        Inputs and an empty text, or None and why none of them would do.
    """
    if ctx.data is not None:
        tried = [ctx.data.calibration.take(SAMPLES).inputs]
    else:
        zeros = random_inputs(graph, batch=SAMPLES)
        tried = [zeros, tuple(x if x.is_floating_point() else x + 1 for x in zeros)]
    for inputs in tried:
        try:
            run_graph(graph, inputs)
        except NOT_APPLICABLE as error:
            reason = first_line(error)
        else:
            return inputs, ""
    return None, reason


class Proof:
    """Which of the cuts that were chosen hold.

    Attributes:
        refused: leaf axis of a width that is left whole -> why.
    """

    def __init__(self, graph: Graph, found: Coupling, inputs: Inputs) -> None:
        self.graph, self.found, self.inputs = graph, found, inputs
        self.refused: dict[Axis, str] = {}

    def accept(self, kept: Kept, base: Kept) -> dict[Width, torch.Tensor]:
        """Those of `kept` that hold together with `base`, which does.

        A set that does not hold is halved until the widths to blame are found.
        """
        reason = self._fault({**base, **kept}) if kept else ""
        if not reason:
            return dict(kept)
        widths = list(kept)
        if len(widths) == 1:
            self.refused[widths[0].axis] = reason
            return {}
        half = len(widths) // 2
        first = self.accept({width: kept[width] for width in widths[:half]}, base)
        rest = {width: kept[width] for width in widths[half:]}
        return {**first, **self.accept(rest, {**base, **first})}

    def _fault(self, kept: Kept) -> str:
        """What is wrong with a cut, or nothing.

        Widths that a statistic runs over differ by their nature: of them only that they can be cut.
        """
        plain = {width: rest for width, rest in kept.items() if not width.axis.normalized}
        try:
            got = self._run_cut(kept)
            if len(plain) < len(kept):
                got = self._run_cut(plain)
        except NOT_APPLICABLE as error:
            return f"the graph cannot be cut there ({_reason(error)})"
        errors = [largest_error(got, self._run_zeroed(plain, makers)) for makers in (True, False)]
        if any(error <= TOLERANCE for error in errors):
            return ""
        return f"sliced is not zeroed: outputs differ by {min(errors):.1%}"

    def _run_cut(self, kept: Kept) -> list[torch.Tensor]:
        with cut_copy(self.graph, self.found, kept) as graph:
            return run_graph(graph, self.inputs)

    def _run_zeroed(self, kept: Kept, makers: bool) -> list[torch.Tensor]:
        """The full graph with zeros for what goes: in every tensor, or only where it is read.

        Where a value divides by itself zeros give NaN; where nothing multiplies what is made they
        must be made. One of both is enough: either is the teacher with some of its weights at zero.
        """
        full = self.graph.copy()
        leaf = {width.axis: rest for width, rest in kept.items()}
        made = {(name, id(axis)) for name, axis in self.found.produced}
        gone: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for slot in self.found.slots:
            cut = any(part in leaf for part in leaves(slot.axis))
            if not cut or slot.tensor.startswith("running"):
                continue
            if makers or (_multiplies(full, slot) and (slot.op, id(slot.axis)) not in made):
                tensor = getattr(full[slot.op].layer, slot.tensor)
                lost = torch.ones(tensor.shape[slot.dim], dtype=torch.bool)
                lost[kept_indices(slot.axis, leaf)] = False
                places = lost.nonzero().flatten()
                gone.setdefault(id(tensor), []).append((slot.dim, places))
        for op in full:
            _zero(op, gone)
        return run_graph(full, self.inputs)


def _zero(op: Op, gone: Mapping[int, list[tuple[int, torch.Tensor]]]) -> None:
    """Zeros in the tensors of an op: `id` -> (dimension, indices).

    While the layer runs, for one that runs: a model of zeros would be another model in memory.
    """
    layer = op.layer
    held = [] if layer is None else layer_tensors(layer)
    changed = {name: (tensor, gone[id(tensor)]) for name, tensor in held if id(tensor) in gone}
    if layer is None or not changed:
        return

    def begin(*call: object) -> None:
        for name, (tensor, places) in changed.items():
            _put(layer, name, _filled(tensor, places))

    def end(*call: object) -> None:
        for name, (tensor, _) in changed.items():
            _put(layer, name, tensor)

    if op.role == "tensor":  # its value is read, not called
        begin()
    else:
        layer.register_forward_pre_hook(begin)
        layer.register_forward_hook(end)


def _filled(tensor: torch.Tensor, places: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """A copy with zeros at indices of dimensions."""
    out = tensor.detach().clone()
    for dim, indices in places:
        out.index_fill_(dim, indices, 0)
    return nn.Parameter(out, requires_grad=False) if isinstance(tensor, nn.Parameter) else out


def _put(layer: nn.Module, name: str, tensor: torch.Tensor) -> None:
    table: dict[str, Any] = layer._parameters if name in layer._parameters else layer._buffers
    table[name] = tensor


def _multiplies(graph: Graph, slot: Slot) -> bool:
    return slot.tensor == "weight" and graph[slot.op].role in PRODUCTS


def _reason(error: Exception) -> str:
    return error.got or error.wanted if isinstance(error, CompresscError) else first_line(error)


def prove(
    graph: Graph, found: Coupling, kept: Kept, refused: dict[Axis, str], ctx: Context
) -> dict[Width, torch.Tensor]:
    """The cuts that hold; the others enter `refused` with the reason.

    Where the graph runs on none of the inputs at hand, a note says so and the analysis is trusted.
    """
    if not kept:
        return {}
    inputs, trouble = real_inputs(graph, ctx)
    if inputs is None:
        ctx.note(graph.name, f"no proof of the cuts: it does not run on the inputs ({trouble})")
        return dict(kept)
    proof = Proof(graph, found, inputs)
    held = proof.accept(kept, {})
    give_back()  # graphs that ran lie in cycles, with weights of their own
    refused |= proof.refused
    return held
