"""What taking one layer apart does to the answers of the whole graph, measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compressc.ir import Graph, Op, lower
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc.training import answers, scaled_error
from compressc_lowrank.matrices import bias_names, matrix_names, matrix_of, put_matrix, shift_bias
from compressc_lowrank.planning import Plan
from compressc_lowrank.seen import Seen

#: Samples that answers are asked for.
SAMPLES = 64
#: Where on the curve of a layer its error is measured: the choice that loses about this share.
PROBED = 0.1


class Answers:
    """The answers of a graph with one layer changed, against those of the graph as it is.

    Args:
        graph: its layers are lent, and come back.
        ctx: of the pass; it has data.
    """

    def __init__(self, graph: Graph, ctx: Context) -> None:
        assert ctx.data is not None
        # on the CPU, whatever trains elsewhere: it shares its layers with the graph
        self._module = lower(graph, also=[task_of(ctx).value_in(graph)])
        self._inputs = ctx.data.calibration.take(SAMPLES).inputs
        self._wanted = answers(self._module, self._inputs)

    def scale(self, op: Op, menu: Sequence[tuple[Plan, float]], seen: Seen | None) -> float:
        """Error of the answers for each share of the energy that a layer loses.

        Measured at one choice: small errors of a layer grow in proportion, squares to squares.

        Args:
            op: the layer.
            menu: ways to take it apart, each with the share that it loses.
            seen: what the layer is given.
        """
        lossy = [(plan, lost) for plan, lost in menu if lost > 0]
        if not lossy:
            return 1.0
        plan, lost = min(lossy, key=lambda pair: abs(pair[1] - PROBED))
        matrix = plan.scheme.chain(op.layer, plan.ranks, seen).matrix
        with _changed(op.layer, matrix, seen):
            error = float(scaled_error(answers(self._module, self._inputs), self._wanted))
        return max(error, 1e-12) / lost


@contextmanager
def _changed(layer: Any, matrix: Tensor, seen: Seen | None) -> Iterator[None]:
    """The layer computes as its chain would, inside."""
    held = {name: getattr(layer, name) for name in (*matrix_names(layer), *bias_names(layer))}
    lost = matrix_of(layer).double() - matrix
    try:
        put_matrix(layer, matrix)
        if seen is not None and seen.mean is not None:
            shift_bias(layer, lost @ seen.mean)
        yield
    finally:
        for name, tensor in held.items():
            setattr(layer, name, tensor)
