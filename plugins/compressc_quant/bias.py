"""Bias correction: what rounding adds to a layer's results on average goes out through its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.2, with the means taken from data. nncf's own is left off: it holds each layer against constant
inputs, skips most layers for one bias near zero, and where it works made the error of small trained
and untrained networks two to four times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from compressc.ir import PRODUCTS, Graph, Op, lower
from compressc.ir.lowering import module_names
from compressc_quant.calibrating import Calibration

#: Samples that means are taken over, all at once: each layer sees what those before it hand on,
#: which are corrected by then.
SAMPLES = 128

Inputs = tuple[Tensor, ...]


def some(batches: Sequence[Inputs]) -> Inputs:
    """The first samples of all batches together, at most `SAMPLES`."""
    if isinstance(batches, Calibration):
        return batches.first(SAMPLES)
    first = list(islice(batches, -(-SAMPLES // len(batches[0][0]))))
    return tuple(torch.cat(column)[:SAMPLES] for column in zip(*first, strict=True))


@torch.no_grad()
def channel_means(graph: Graph, inputs: Inputs) -> dict[str, Tensor]:
    """Mean result of each layer that has a bias, for each output channel: name -> f32[out]."""
    means: dict[str, Tensor] = {}

    def take(op: Op, output: Tensor) -> None:
        means[op.name] = _mean(op, output)

    with _watched(graph, [op for op in graph if _has_bias(op)], take) as module:
        module(*inputs)
    return means


@torch.no_grad()
def correct_biases(graph: Graph, means: dict[str, Tensor], inputs: Inputs) -> list[str]:
    """Give the rounded layers the mean results that they had as floats.

    Args:
        graph: quantized; edited in place.
        means: of the float graph, by `channel_means`.
        inputs: the same.

    Returns:
        Names of the layers whose bias is another one now.
    """
    corrected: list[str] = []

    def correct(op: Op, output: Tensor) -> Tensor:
        error = _mean(op, output) - means[op.name]
        if not bool(torch.isfinite(error).all()):
            return output
        layer: Any = op.layer
        layer.bias = nn.Parameter(layer.bias.detach() - error, layer.bias.requires_grad)
        corrected.append(op.name)
        return output - error.reshape(-1, *[1] * (output.dim() - 1 - _channel(op) % output.dim()))

    if not means:
        return corrected
    rounded = [op for op in graph if op.weight_form is not None and _has_bias(op)]
    layers = [op for op in rounded if op.name in means]
    alone = [op for op in layers if len(graph.holders(op.layer.bias)) == 1]  # type: ignore[union-attr,arg-type]
    with _watched(graph, alone, correct) as module:
        module(*inputs)
    return corrected


@contextmanager
def _watched(
    graph: Graph, ops: Sequence[Op], see: Callable[[Op, Tensor], Tensor | None]
) -> Iterator[nn.Module]:
    """The graph as a module that shows what these layers put out, and takes what comes back."""
    module = lower(graph)
    wanted = {op.name: op for op in ops}
    hooks = []
    for target, name in module_names(module).items():
        if name in wanted:
            op = wanted[name]
            hook = _hook(op, see)
            hooks.append(module.get_submodule(target).register_forward_hook(hook))
    try:
        yield module
    finally:
        for handle in hooks:
            handle.remove()


def _hook(op: Op, see: Callable[[Op, Tensor], Tensor | None]) -> Callable[..., Tensor | None]:
    return lambda layer, args, output: see(op, output)


def _has_bias(op: Op) -> bool:
    return op.role in PRODUCTS and getattr(op.layer, "bias", None) is not None


def _channel(op: Op) -> int:
    return -1 if op.role == "linear" else 1


def _mean(op: Op, output: Tensor) -> Tensor:
    """Over all but the output channels."""
    return output.float().movedim(_channel(op), -1).flatten(0, -2).mean(0)
