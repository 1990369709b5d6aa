"""Recurrent ops of several layers, each of which has a matrix of its own to be taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressc.analysis.coverage import Verdict
from compressc.editing import split_layers
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_lowrank.planning import Plan
from compressc_lowrank.schemes import RecurrentInput


@dataclass(frozen=True)
class Split:
    """A graph whose recurrent layers are an op each.

    Attributes:
        graph: a copy, or the graph itself where no op has several.
        stacks: op of the graph as it was -> its layers in this one, from the first.
    """

    graph: Graph
    stacks: Mapping[str, list[str]]

    @classmethod
    def of(cls, graph: Graph) -> Split:
        """Leaves the graph as it is."""
        names = [
            op.name
            for op in graph
            if op.kind in RecurrentInput.kinds and op.layer.num_layers > 1  # type: ignore[union-attr, operator]
        ]
        if not names:
            return cls(graph, {})
        twin = graph.copy()
        return cls(twin, {name: split_layers(twin, name) for name in names})

    def verdicts(self, each: Mapping[str, Verdict]) -> dict[str, Verdict]:
        """By the ops of the graph as it was: of several layers, what becomes of any of them."""
        out = dict(each)
        for name, layers in self.stacks.items():
            mine = [(f"_l{number}", out.pop(layer)) for number, layer in enumerate(layers)]
            taken = [(place, one) for place, one in mine if one.outcome == "does"]
            tensors = [slot.replace("_l0", place) for place, one in taken for slot in one.tensors]
            texts = dict.fromkeys(one.text for _, one in taken)
            out[name] = Verdict.does("; ".join(texts), *tensors) if taken else mine[0][1]
        return out

    def settled(
        self, graph: Graph, found: Mapping[str, Plan | str], ctx: Context
    ) -> dict[str, Plan | str]:
        """By the ops of the graph, where those are split that have to be.

        One whose first layer alone is taken apart stays one op: only its own input gets thin.
        """
        out = dict(found)
        for name, layers in self.stacks.items():
            if any(isinstance(out.get(layer), Plan) for layer in layers[1:]):
                split_layers(graph, name)
                continue
            each = [out.pop(layer) for layer in layers if layer in out]
            if each:
                out[name] = each[0]
            for number, reason in enumerate(each[1:], 1):
                if reason != each[0]:
                    ctx.note(name, f"skipped: its layer {number}: {reason}")
        return out
