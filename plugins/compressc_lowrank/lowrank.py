"""The `lowrank` pass: truncated singular value decomposition of linear layers and 1x1 convs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from compressc.analysis.coverage import Verdict, is_recurrent_weight, parameters_of
from compressc.editing import Stage, expand
from compressc.ir import Graph, Op, TensorType
from compressc.pipeline import Context, Pass
from compressc.training import reestimate_behind


class LowRank(Pass):
    """Replace a wide linear layer or 1x1 convolution by two thin ones.

    W [out, in] becomes U [out, r] V [r, in] with the r largest singular values (Eckart and Young
    1936), each factor carrying their square roots so that both train alike.

    Legal where r < limit * in * out / (in + out): never where the result would not be smaller.
    Cost: the discarded energy, which bounds the error of the layer.
    """

    name: ClassVar[str] = "lowrank"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[Mapping[str, str]] = {
        "distill": "distillation recovers what factorization loses",
        "quant": "int8 weights cannot be factorized",
    }
    after: ClassVar[Mapping[str, str]] = {
        "prune": "factors hide the channels that pruning scores",
    }

    energy: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the squared singular values to keep; not used where `rank` is given."""
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same rank for every layer; below 1, the share of its weights that the factors have."""
    limit: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Factorize only below this share of the break-even rank: near it, two layers run slower."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Factorize layer by layer; every layer with parameters left alone gets a note."""
        changed = []
        for op in graph:
            if not parameters_of(op):
                continue
            reason = obstacle(graph, op)
            rank = 0 if reason else self._rank(op)
            reason = reason or self._too_wide(op, rank)
            if reason:
                ctx.note(op.name, f"skipped: {reason}")
            else:
                self._factorize(graph, op, rank, ctx)
                changed.append(op.name)
        reestimate_behind(graph, changed, ctx)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the ranks that `run` would choose: singular values are computed, vectors are not."""
        return {op.name: self._verdict(graph, op) for op in graph}

    def _verdict(self, graph: Graph, op: Op) -> Verdict:
        if not parameters_of(op):
            return Verdict.idle("no weights")
        reason = obstacle(graph, op)
        if reason:
            return Verdict.cannot(reason)
        if self.rank is None and matrix_of(op).is_meta:
            return Verdict.unknown("does not say: the rank depends on weights that are not loaded")
        rank = self._rank(op)
        reason = self._too_wide(op, rank)
        if reason:
            return Verdict.cannot(reason)
        return Verdict.does(f"factorizes to rank {rank} of {min(matrix_of(op).shape)}", "weight")

    def _rank(self, op: Op) -> int:
        if isinstance(self.rank, float):
            matrix = matrix_of(op)
            return max(1, int(self.rank * matrix.numel() / sum(matrix.shape)))
        return self.rank or rank_for_energy(singular_values(matrix_of(op)), self.energy)

    def _too_wide(self, op: Op, rank: int) -> str:
        """Why a rank is no gain, or nothing."""
        matrix = matrix_of(op)
        break_even = matrix.numel() / sum(matrix.shape)
        if rank >= self.limit * break_even:
            return f"rank {rank} is not below {self.limit} of break-even {break_even:.1f}"
        return ""

    def _factorize(self, graph: Graph, op: Op, rank: int, ctx: Context) -> None:
        layer: Any = op.layer
        left, values, right = torch.linalg.svd(matrix_of(op).double(), full_matrices=False)
        roots = values[:rank].sqrt()
        thin = _linear_like(layer, right[:rank] * roots[:, None], bias=None, first=True)
        wide = _linear_like(layer, left[:, :rank] * roots, bias=layer.bias, first=False)
        assert isinstance(op.type, TensorType)
        channel = -3 if op.kind == "conv2d" else -1
        shape = list(op.type.shape)
        shape[channel] = rank
        first = Stage("v", thin, TensorType(op.type.dtype, tuple(shape)))
        expand(graph, op.name, [first], wide)
        kept = 1 - float((values[rank:] ** 2).sum() / (values**2).sum().clamp_min(1e-30))
        ctx.note(op.name, f"rank {rank} of {len(values)} keeps {kept:.1%} of the energy")


def rank_for_energy(values: torch.Tensor, energy: float) -> int:
    """Least rank whose squared singular values f64[k] sum to at least that share."""
    share = torch.cumsum(values**2, 0) / (values**2).sum()
    return min(int((share < energy).sum()) + 1, len(values))


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """All of them, descending, f64[min(out, in)]; for their energies, so small ones are rough.

    By the eigenvalues of the smaller Gram matrix: many times faster than a decomposition.
    """
    wide = matrix.double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    squares: torch.Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0).sqrt().flip(0)


def matrix_of(op: Op) -> torch.Tensor:
    """The weight of a linear layer or 1x1 convolution as a matrix [out, in]."""
    layer: Any = op.layer
    matrix: torch.Tensor = layer.weight.detach().flatten(1)
    return matrix


def obstacle(graph: Graph, op: Op) -> str:
    """Why a layer with parameters cannot be factorized at all, or nothing."""
    layer: Any = op.layer
    if is_recurrent_weight(graph, op):
        return "a weight of a recurrent layer, which takes whole matrices alone"
    if op.kind not in ("linear", "conv2d"):
        return f"{op.kind} is no linear layer or 1x1 convolution"
    if op.kind == "conv2d" and (set(layer.kernel_size) != {1} or layer.groups != 1):
        return "only 1x1 convolutions without groups are one matrix"
    if op.kind == "conv2d" and layer.padding not in ((0, 0), "valid"):
        return "a padded 1x1 convolution is not one matrix"
    return "its weight is tied to another layer" if len(graph.holders(layer.weight)) > 1 else ""


def _linear_like(layer: Any, matrix: torch.Tensor, *, bias: Any, first: bool) -> nn.Module:
    """A layer of the same kind with the given matrix [out, in]; strides stay with the first."""
    out, in_ = matrix.shape
    weight = matrix.to(layer.weight.dtype)
    factor: Any
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            factor = nn.Linear(in_, out, bias=bias is not None)
        else:
            stride = layer.stride if first else 1
            factor = nn.Conv2d(in_, out, 1, stride=stride, bias=bias is not None)
            weight = weight[:, :, None, None]
    factor.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        factor.bias = bias
    out_layer: nn.Module = factor.eval()
    return out_layer
