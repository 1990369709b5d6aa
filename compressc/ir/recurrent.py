"""Recurrent layers: LSTM, GRU and plain RNN, one op whatever their layers, directions and length.

They are leaf modules of our own, for torch's classes keep a second list of their weights, and ask
of their inputs what a traced graph does not say. Each calls the operator that torch's class calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch._decomp import decomposition_table

#: torch's operators for whole sequences.
CALLS: tuple[str, ...] = tuple(
    f"aten.{name}.input" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
)


class Recurrent(nn.Module):
    """Layers of cells that run along a sequence.

    Weights are named as in torch: `weight_ih_l0` f[gates * hidden, in], `weight_hh_l0`
    f[gates * hidden, hidden], `bias_ih_l0`, `bias_hh_l0`, and with `_reverse` behind for the
    direction from the end; further layers read what all directions of the one below give.

    Attributes:
        GATES: how many rows of a weight belong to one index of the state.
        STATES: how many states a cell hands on.
    """

    GATES: ClassVar[int] = 1
    STATES: ClassVar[int] = 1

    def __init__(  # noqa: PLR0913  (as torch's classes have them)
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional = bidirectional
        for suffix, width in self.parts():
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (width,),
                "weight_hh": (hidden_size,),
            }
            shapes |= {"bias_ih": (), "bias_hh": ()} if bias else {}
            for name, inner in shapes.items():
                blank = torch.zeros(self.GATES * hidden_size, *inner)
                self.register_parameter(name + suffix, nn.Parameter(blank))

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    def parts(self) -> Iterator[tuple[str, int]]:
        """(suffix of its weights' names, width of its input) of each direction of each layer."""
        for layer in range(self.num_layers):
            width = self.hidden_size * self.directions if layer else self.input_size
            for ending in ("", "_reverse")[: self.directions]:
                yield f"_l{layer}{ending}", width

    def names(self) -> Iterator[str]:
        """Of its weights and biases, in the order of torch's operators."""
        locals_ = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        for suffix, _ in self.parts():
            yield from (name + suffix for name in locals_)

    def weights(self) -> list[torch.Tensor]:
        """What it computes with, in the order of `names`."""
        return [getattr(self, name) for name in self.names()]

    def given(self, input: torch.Tensor) -> torch.Tensor:
        """Its input as it computes with it."""
        return input

    def call(self) -> Callable[..., Any]:
        """torch's operator."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run along the sequence.

        Args:
            input: [length, n, in], or [n, length, in] with `batch_first`.
            states: [layers * directions, n, hidden], as many as a cell has; none: zeros.

        Returns:
            [length, n, directions * hidden], [n, length, ...] with `batch_first`, of the last
            layer; and the last states.
        """
        if not states:
            batch = input.shape[0 if self.batch_first else 1]
            shape = self.num_layers * self.directions, batch, self.hidden_size
            states = tuple(
                torch.zeros(shape, dtype=input.dtype, device=input.device)
                for _ in range(self.STATES)
            )
        args = (
            self.given(input),
            list(states) if self.STATES > 1 else states[0],
            self.weights(),
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )
        # torch's own shape function goes step by step
        run = results_like if input.is_meta else self.call()
        return tuple(run(*args))


class Lstm(Recurrent):
    """`nn.LSTM` without projections; the rows of its gates are input, forget, cell, output."""

    GATES = 4
    STATES = 2

    def call(self) -> Callable[..., Any]:
        """torch's operator."""
        return torch.ops.aten.lstm.input


class Gru(Recurrent):
    """`nn.GRU`; the rows of its gates are reset, update, new."""

    GATES = 3

    def call(self) -> Callable[..., Any]:
        """torch's operator."""
        return torch.ops.aten.gru.input


class Rnn(Recurrent):
    """`nn.RNN`; `nonlinearity` is tanh or relu."""

    def __init__(self, *args: Any, nonlinearity: str = "tanh", **options: Any) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is tanh or relu, not {nonlinearity}")
        super().__init__(*args, **options)
        self.nonlinearity = nonlinearity

    def call(self) -> Callable[..., Any]:
        """torch's operator."""
        calls = torch.ops.aten
        return (calls.rnn_tanh if self.nonlinearity == "tanh" else calls.rnn_relu).input


# ---- types without steps -------------------------------------------------------------------------


def results_like(  # noqa: PLR0913  (the arguments of torch's operators)
    input: torch.Tensor,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """What a recurrent operator of torch returns, without numbers: shapes, strides and dtypes.

    Raises:
        ValueError: where the operands do not fit one another.
    """
    states = list(hx) if isinstance(hx, tuple | list) else [hx]
    directions = 2 if bidirectional else 1
    steps, batch = (input.shape[1], input.shape[0]) if batch_first else input.shape[:2]
    width = states[0].shape[2]  # of what goes out: less than the cell's with projections
    _require(len(params) > 0 and input.shape[2] == params[0].shape[1], "the input's last dimension")
    for state in states:
        _require(state.dim() == 3 and state.shape[0] == num_layers * directions, "the states")
        _require(state.shape[1] == batch and state.dtype == input.dtype, "the states' batch")
    out = input.new_empty((steps, batch, width * directions))
    out = out.transpose(0, 1) if batch_first else out
    return out, *(state.new_empty(state.shape) for state in states)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what} does not fit the recurrent layer")


@contextmanager
def whole_sequences(calls: tuple[str, ...] = CALLS) -> Iterator[None]:
    """Let a trace take recurrent operators whole, with an open length.

    torch finds their types by going step by step, which fixes the length at the traced one (2.13).

    Args:
        calls: kinds of the operators.
    """
    operators = [getattr(torch.ops.aten, kind.split(".")[1]).input for kind in calls]
    keys = torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd
    kept = [(op, dict(op.py_kernels), decomposition_table.get(op)) for op in operators]
    for op in operators:
        op.py_kernels.update(dict.fromkeys(keys, results_like))
        decomposition_table[op] = results_like
        op._dispatch_cache.clear()
    try:
        yield
    finally:
        for op, kernels, decomposition in kept:
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            if decomposition is None:
                decomposition_table.pop(op, None)
            else:
                decomposition_table[op] = decomposition
            op._dispatch_cache.clear()
