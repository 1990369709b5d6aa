"""Recurrent layers as ONNX has them: one `LSTM`, `GRU` or `RNN` for both directions of a layer.

The exporter's own translation leaves the reordering of the gates in the graph, so that no tool
finds a weight, and there is none for `aten.rnn_tanh` (torch 2.13). So calls are translated to a
placeholder, in whose place comes what the layer op says, with its weights as initializers.

Matrices of int8 stay so in the file. ONNX Runtime multiplies them by rounded values in an operator
of its own for LSTMs, `DynamicQuantizeLSTM`; else they are floats again when the file is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from compressc.backend.onnx_nodes import MICROSOFT, Nodes
from compressc.ir import Graph, Op
from compressc.ir.recurrent import CALLS, Recurrent

#: Of the gates in torch's order, those of ONNX: input, output, forget, cell; update, reset, new.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
#: What a node calls its matrices -> what a layer does.
_MATRICES = {"W": "weight_ih", "R": "weight_hh"}
_NODES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_INTEGERS = "DynamicQuantizeLSTM"
#: torch multiplies the reset gate with the state's product; else ONNX multiplies the state.
_SETTINGS: dict[str, dict[str, Any]] = {"gru": {"linear_before_reset": 1}}


def has_recurrent(graph: Graph) -> bool:
    """Whether recurrent layers are to be written."""
    return any(op.role == "recurrent" for op in graph) and not _has_calls(graph)


def whole_calls(graph: Graph) -> tuple[str, ...]:
    """Calls that are exported whole; of those whose weights are computed, what the exporter knows.

    The others are written step by step.
    """
    return CALLS[:2] if _has_calls(graph) else CALLS


def _has_calls(graph: Graph) -> bool:
    return any(op.kind in CALLS for op in graph)


def translations(graph: Graph) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Placeholders for torch's calls, for `custom_translation_table`."""
    if not has_recurrent(graph):
        return {}
    from onnxscript import opset18

    def lstm(input: Any, hx: Any, params: Any, *rest: Any) -> Any:
        return opset18.LSTM(
            input, params[0], params[1], initial_h=hx[0], initial_c=hx[1], hidden_size=1
        )

    def gru(input: Any, hx: Any, params: Any, *rest: Any) -> Any:
        return opset18.GRU(input, params[0], params[1], initial_h=hx, hidden_size=1)

    def rnn(input: Any, hx: Any, params: Any, *rest: Any) -> Any:
        return opset18.RNN(input, params[0], params[1], initial_h=hx, hidden_size=1)

    made = (lstm, gru, rnn, rnn)
    calls = (getattr(torch.ops.aten, kind.split(".")[1]).input for kind in CALLS)
    return dict(zip(calls, made, strict=True))


def write_recurrent(model: Any, graph: Graph, *, contrib: bool) -> None:
    """Put the nodes of each layer in the place of its placeholder.

    Args:
        model: an `onnx_ir.Model`, not optimized yet; what is not read any more stays in it.
        graph: what it was exported from.
        contrib: whether ONNX Runtime's own operators may be used.
    """
    nodes = Nodes(model, graph)
    found = nodes.of_ops()
    for op in graph:
        if op.role == "recurrent":
            kind = _NODES[op.kind.removeprefix("quantized_")]
            (placeholder,) = [node for node in found[op.name] if node.op_type == kind]
            value = placeholder.inputs[0]
            if op.input_form is not None:  # what the exporter wrote out of the rounding begins so
                value = next(n for n in found[op.name] if n.op_type == "ReduceMin").inputs[0]
            _Layer(nodes, op, placeholder, contrib).write(value)


def dequantized(graph: Graph) -> list[str]:
    """Stored matrices of recurrent layers that are floats again when a file is loaded."""
    return [
        f"{op.name}.{name}_l{number}"
        for op in graph
        if isinstance(op.layer, Recurrent) and op.weight_form is not None
        for number in range(op.layer.num_layers)
        for name in "WR"
    ]


def integer_recurrent(nodes: Iterable[Any]) -> set[str]:
    """Recurrent layers all of whose nodes multiply integers, of an `onnx.GraphProto`'s nodes."""
    kinds = {_INTEGERS: True} | dict.fromkeys(_NODES.values(), False)
    found: dict[str, bool] = {}
    for node in nodes:
        if node.op_type in kinds:
            name = node.name.rpartition("_l")[0]
            found[name] = found.get(name, True) and kinds[node.op_type]
    return {name for name, ran in found.items() if ran}


class _Layer:
    """One layer op: a node for each of its layers."""

    def __init__(self, nodes: Nodes, op: Op, placeholder: Any, contrib: bool) -> None:
        assert isinstance(op.layer, Recurrent)
        self.integers = contrib and op.kind == "quantized_lstm" and op.input_form is not None
        self.kind = op.kind.removeprefix("quantized_")
        self.nodes, self.op, self.placeholder = nodes, op, placeholder
        self.layer: Recurrent = op.layer
        self.states = len(op.args) - 1

    def write(self, value: Any) -> None:
        """All of it, of the layer's input."""
        layer = self.layer
        if self.op.input_form is not None and not self.integers:
            rounded = self.nodes.several(self.placeholder, "DynamicQuantizeLinear", [value], 3)
            value = self._node("DequantizeLinear", rounded)
        if layer.batch_first:
            value = self._node("Transpose", [value], perm=[1, 0, 2])
        states: list[list[Any]] = []
        for number in range(layer.num_layers):
            out, *last = self._cells(number, value)
            states.append(last)
            value = self._joined(out)
        if layer.batch_first:
            value = self._node("Transpose", [value], perm=[1, 0, 2])
        wholes = [
            parts[0] if len(parts) == 1 else self._node("Concat", [*parts], axis=0)
            for parts in zip(*states, strict=True)
        ]
        # the exporter drops the last of them where nothing reads them
        for old, new in zip(self.placeholder.outputs, (value, *wholes), strict=False):
            self.nodes.replace(old, new)

    def _cells(self, number: int, value: Any) -> list[Any]:
        """[length, directions, n, hidden], and the last states [directions, n, hidden]."""
        layer, settings = self.layer, dict(_SETTINGS.get(self.kind, {}))
        inputs = [value, *self._weights(number)]
        inputs += [None] * (5 - len(inputs)) + self._first(number)  # 4: lengths, which are equal
        if self.integers:  # 7: peepholes, which torch has none of
            inputs += [None] * (8 - len(inputs)) + self._scales(number)
        if self.kind == "rnn":
            settings["activations"] = [str(layer.nonlinearity).capitalize()] * layer.directions
        made = self.nodes.several(
            self.placeholder,
            _INTEGERS if self.integers else _NODES[self.kind],
            inputs,
            1 + layer.STATES,
            domain=MICROSOFT if self.integers else "",
            hidden_size=layer.hidden_size,
            direction="bidirectional" if layer.bidirectional else "forward",
            **settings,
        )
        made[0].producer().name = f"{self.op.name}_l{number}"
        return made

    def _weights(self, number: int) -> list[Any]:
        """Of both directions: inputs', states' [directions, gates * hidden, ...], and biases."""
        found = [self._matrices(name, number) for name in _MATRICES]
        if self.layer.bias:
            pair = [self._stacked(f"bias_{of}", number) for of in ("ih", "hh")]
            found.append(self._hold(f"B_l{number}", torch.cat(pair, 1)))
        return found

    def _matrices(self, kind: str, number: int) -> Any:
        """Matrices [directions, rows, count] as a node takes them."""
        name, stacked = f"{kind}_l{number}", self._stacked(_MATRICES[kind], number)
        if self.op.weight_form is None:
            return self._hold(name, stacked)
        if self.integers:
            return self._hold(name, stacked.transpose(1, 2))
        scale = self._stacked(_MATRICES[kind], number, "_scale").flatten()
        inputs = [self._hold(name, stacked.flatten(0, 1)), self._hold(f"{name}_scale", scale)]
        value = self._node("DequantizeLinear", inputs, axis=0)
        return self._node("Reshape", [value, self._numbers(list(stacked.shape))])

    def _scales(self, number: int) -> list[Any]:
        """[directions, rows] of the inputs' matrices and the states', and zero points, none."""
        found = []
        for name, local in _MATRICES.items():
            scale = self._stacked(local, number, "_scale")
            found.append(self._hold(f"{name}_l{number}_scale", scale))
            zeros = torch.zeros(scale.shape, dtype=torch.int8)
            found.append(self._hold(f"{name}_l{number}_zero_point", zeros))
        return found

    def _stacked(self, local: str, number: int, ending: str = "") -> torch.Tensor:
        """A tensor of each direction, one after the other."""
        directions = ("", "_reverse")[: self.layer.directions]
        return torch.stack([self._in_order(f"{local}_l{number}{d}{ending}") for d in directions])

    def _in_order(self, name: str) -> torch.Tensor:
        """A tensor with its gates in the order of ONNX."""
        gates = getattr(self.layer, name).detach().chunk(self.layer.GATES)
        return torch.cat([gates[place] for place in _GATES[self.kind]])

    def _first(self, number: int) -> list[Any]:
        """The states that a layer starts from; none where these are zeros."""
        if not self.states:
            return []
        given = self.placeholder.inputs[5 : 5 + self.layer.STATES]
        if self.layer.num_layers == 1:
            return list(given)
        ends = [number * self.layer.directions, (number + 1) * self.layer.directions]
        start, end, axis = (self._numbers([n]) for n in (*ends, 0))
        return [self._node("Slice", [state, start, end, axis]) for state in given]

    def _joined(self, value: Any) -> Any:
        """[length, directions, n, hidden] -> [length, n, directions * hidden]."""
        if not self.layer.bidirectional:
            return self._node("Squeeze", [value, self._numbers([1])])
        value = self._node("Transpose", [value], perm=[0, 2, 1, 3])
        sizes = self._numbers([0, 0, self.layer.hidden_size * 2])  # 0: as it is
        return self._node("Reshape", [value, sizes])

    def _node(self, kind: str, inputs: list[Any], **settings: Any) -> Any:
        return self.nodes.before(self.placeholder, kind, inputs, **settings)

    def _numbers(self, values: list[int]) -> Any:
        name = f"{self.op.name}.sizes:{len(self.nodes.model.graph.initializers)}"
        return self.nodes.hold(name, torch.tensor(values, dtype=torch.int64))

    def _hold(self, local: str, tensor: torch.Tensor) -> Any:
        return self.nodes.hold(f"{self.op.name}.{local}", tensor)
