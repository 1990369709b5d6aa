"""Bias correction: what rounding adds to a layer's results on average goes out through its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.2, with the means taken from data. nncf's own is left off: it holds each layer against constant
inputs, skips most layers for one bias near zero, and where it works made the error of small trained
and untrained networks two to four times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressc.ir import PRODUCTS, Graph, Op, lower
from compressc.ir.lowering import module_names

#: Samples that means are taken over.
SAMPLES = 128

Inputs = tuple[Tensor, ...]


def some(batches: Sequence[Inputs]) -> Sequence[Inputs]:
    """The first batches: about `SAMPLES`."""
    return batches[: -(-SAMPLES // len(batches[0][0]))]


@torch.no_grad()
def channel_means(graph: Graph, batches: Sequence[Inputs]) -> list[dict[str, Tensor]]:
    """Mean result of each layer that has a bias, for each output channel.

    Returns:
        Of each batch, name -> f32[out].
    """
    found: list[dict[str, Tensor]] = []

    def take(op: Op, output: Tensor) -> None:
        found[-1][op.name] = _mean(op, output)

    with _watched(graph, [op for op in graph if _has_bias(op)], take) as module:
        for batch in batches:
            found.append({})
            module(*batch)
    return found


@torch.no_grad()
def correct_biases(
    graph: Graph, means: Sequence[Mapping[str, Tensor]], batches: Sequence[Inputs]
) -> list[str]:
    """Give the rounded layers the mean results that they had as floats.

    In each batch a layer sees what those before it hand on without the errors that they have in
    this batch; taken out in the end is the mean of its errors over the batches.

    Args:
        graph: quantized; edited in place.
        means: of the float graph, by `channel_means`.
        batches: the same; one is in memory at a time.

    Returns:
        Names of the layers whose bias is another one now.
    """
    known: Mapping[str, Tensor] = means[0] if means else {}
    layers = [op for op in graph if op.weight_form is not None and op.name in known]
    alone = [op for op in layers if len(graph.holders(op.layer.bias)) == 1]  # type: ignore[union-attr,arg-type]
    errors: dict[str, list[Tensor]] = {op.name: [] for op in alone}
    want = dict(known)

    def take(op: Op, output: Tensor) -> Tensor:
        error = _mean(op, output) - want[op.name]
        errors[op.name].append(error)
        if not bool(torch.isfinite(error).all()):
            return output
        behind = output.dim() - 1 - _channel(op) % output.dim()
        # in place: it is the layer's own result, and may be the largest value of the model
        return output.sub_(error.reshape(-1, *[1] * behind))

    if not alone:
        return []
    with _watched(graph, alone, take) as module:
        for found, batch in zip(means, batches, strict=True):
            want.update(found)
            module(*batch)
    corrected = []
    for op in alone:
        error = torch.stack(errors[op.name]).mean(0)
        if bool(torch.isfinite(error).all()):
            layer: Any = op.layer
            layer.bias = nn.Parameter(layer.bias.detach() - error, layer.bias.requires_grad)
            corrected.append(op.name)
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
    channel = _channel(op) % output.dim()
    return output.float().mean([dim for dim in range(output.dim()) if dim != channel])
