"""Which ops hold a matrix: what a pass that makes widths or ranks smaller could have meant."""

from __future__ import annotations

import re

from compressc.analysis.coverage import parameters_of
from compressc.ir import PRODUCTS, Graph, Op
from compressc.ir.moves import MOVES

#: Calls that multiply by a matrix.
_MULTIPLIED = {
    f"aten.{name}" for name in ("matmul", "mm", "bmm", "linear", "einsum", "addmm", "baddbmm")
}
#: ATen's recurrent layers, `aten.lstm.input` and the like.
_RECURRENT = re.compile(r"aten\.(quantized_)?(lstm|gru|rnn_tanh|rnn_relu)(_cell)?\b")


def holds_matrix(graph: Graph, op: Op) -> bool:
    """Whether an op has learned a matrix that something is multiplied with, or a table.

    Norms, biases and positions that are added are none of it: they follow the layers that make
    their widths.
    """
    if not parameters_of(op):
        return False
    if op.role in PRODUCTS or op.role in ("embedding", "recurrent"):
        return True
    if is_recurrent_weight(graph, op):
        return True
    if op.kind != "parameter" or sum(size != 1 for size in graph.type_of(op.name).shape) < 2:
        return False
    waiting, seen = [op.name], {op.name}
    while waiting:
        for user in graph.users(waiting.pop()):
            if user.packet in _MULTIPLIED:
                return True
            if (user.packet in MOVES or user.packet == "aten.index") and user.name not in seen:
                seen.add(user.name)
                waiting.append(user.name)
    return False


def is_recurrent_weight(graph: Graph, op: Op) -> bool:
    """Whether a held tensor is a weight or bias of an LSTM, GRU or plain recurrent layer."""
    readers = graph.users(op.name) if op.kind == "parameter" else []
    return any(_RECURRENT.match(reader.kind) for reader in readers)
