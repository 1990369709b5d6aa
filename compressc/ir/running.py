"""Running a graph: on whose inputs, with what outputs, and how far two runs are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils._pytree import tree_leaves

from compressc.ir.graph import Graph, dimension_symbols
from compressc.ir.lowering import lower
from compressc.ir.types import evaluate


@torch.no_grad()
def run_graph(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The outputs of a graph, flattened."""
    outputs = tree_leaves(lower(graph)(*inputs))
    return [leaf for leaf in outputs if isinstance(leaf, torch.Tensor)]


def largest_error(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> float:
    """How far outputs are from what was wanted, as a share of the root mean square of each."""
    errors = [_relative_error(g, w) for g, w in zip(got, want, strict=True)]
    return next((e for e in errors if math.isnan(e)), max(errors, default=0.0))


def _relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over the root mean square; equal infinities and NaNs do not differ."""
    same = (got == want) | (got.isnan() & want.isnan())
    scale = want[want.isfinite()].double().pow(2).mean().sqrt().clamp_min(1e-12)
    differences = (got.double() - want.double()).abs()[~same]
    return float(differences.max() / scale) if differences.numel() else 0.0


def random_inputs(graph: Graph, seed: int = 0, batch: int = 4) -> tuple[torch.Tensor, ...]:
    """Inputs of the right types: normal floats, zeros for integers.

    Open dimensions are `batch`, or the nearest size that the model takes.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: graph.within_limits(name, batch) for name in dimension_symbols(graph)}
    inputs = []
    for op in graph.inputs:
        type_ = graph.type_of(op.name)
        shape = [evaluate(size, sizes) for size in type_.shape]
        floating = type_.dtype.is_floating_point
        value = torch.randn(shape, generator=generator) if floating else torch.zeros(shape)
        inputs.append(value.to(type_.dtype))
    return tuple(inputs)


def random_weights(graph: Graph, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights for a graph that was read from its text alone, by their names in it.

    Matrices and filters are normal with a variance of 1 / fan in, biases and means normal, scales
    and variances between 0.5 and 1.5, integer weights of full range, counts zero.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, blank in graph.tensors().items():
        shape, local = list(blank.shape), name.rpartition(".")[2]
        if local == "scale":
            value = torch.rand(shape, generator=generator) + 0.5
        elif blank.dtype in (torch.int8, torch.uint8):
            value = torch.randint(0, 255, shape, generator=generator) - 127 * blank.dtype.is_signed
        elif not blank.is_floating_point():
            value = torch.zeros(shape)
        elif len(shape) > 1:
            fan_in = max(1, blank.numel() // max(1, shape[0]))
            value = torch.randn(shape, generator=generator) / fan_in**0.5
        elif local in ("bias", "running_mean"):
            value = torch.randn(shape, generator=generator)
        else:
            value = torch.rand(shape, generator=generator) + 0.5
        made[name] = value.to(blank.dtype)
    return made
