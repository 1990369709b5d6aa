"""Running a graph op by op over several batches: all batches reach an op before any goes on.

What a layer is given can be looked at, and the layer be changed, before anything behind it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from compressc.ir import Graph, lower


class Lockstep:
    """A graph, and of every batch the values that something behind still reads.

    Args:
        graph: it shares its layers: what is written to one counts from then on.
        batches: inputs of the model, one tuple for each batch.
    """

    def __init__(self, graph: Graph, batches: Sequence[tuple[Tensor, ...]]) -> None:
        module = lower(graph)
        self._runs = [fx.Interpreter(module) for _ in batches]
        for run, inputs in zip(self._runs, batches, strict=True):
            run.args_iter = iter(inputs)
        self._waiting = [node for node in reversed(module.graph.nodes) if node.op != "output"]
        places = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._nodes = {op.name: node for op, node in zip(graph.inputs, places, strict=True)}
        for node in module.graph.nodes:
            if "ir_op" in node.meta:
                self._nodes[node.meta["ir_op"]] = node

    def before(self, name: str) -> None:
        """Run everything in front of an op, in the graph's order, where that has not run yet."""
        while self._waiting and self._waiting[-1] is not self._nodes[name]:
            self._step()

    def through(self, name: str) -> None:
        """Run everything in front of an op, and the op."""
        self.before(name)
        self._step()

    def has(self, name: str) -> bool:
        """Whether the value of an op is there: it has run, and something behind reads it."""
        return self._nodes[name] in self._runs[0].env

    def value(self, name: str, batch: int) -> Any:
        """That value, of a batch."""
        return self._runs[batch].env[self._nodes[name]]

    @torch.no_grad()
    def _step(self) -> None:
        node = self._waiting.pop()
        for run in self._runs:
            run.env[node] = run.run_node(node)
            for unread in run.user_to_last_uses.get(node, ()):
                del run.env[unread]
