"""Does a pass that calls itself exact keep the outputs?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.ir import Graph, dimension_symbols, evaluate, lower
from compressc.pipeline.pass_ import Pass

#: An exact pass may change outputs by this share of their root mean square: what reassociating
#: float32 sums costs, not more.
EXACT_TOLERANCE = 1e-4


def check_exact(pass_: Pass, before: Graph, after: Graph, inputs: tuple[torch.Tensor, ...]) -> None:
    """Run both graphs on the inputs and compare.

    Raises:
        CompresscError: CC501 where an output moved by more than `EXACT_TOLERANCE`.
    """
    error = largest_error(run_graph(after, inputs), run_graph(before, inputs))
    if not error <= EXACT_TOLERANCE:
        raise CompresscError(
            "CC501",
            f"pass '{pass_.name}' declares itself exact: outputs must stay within "
            f"{EXACT_TOLERANCE:g} of their root mean square",
            got=f"{error:.3g}",
        )


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
