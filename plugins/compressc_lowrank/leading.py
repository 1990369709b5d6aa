"""The leading directions of a matrix: exactly, or by a random sketch where few are wanted.

Exactly means by the eigenvectors of the smaller Gram matrix in double precision: several times
faster than a singular value decomposition, and good to half the digits of float64, which is more
than weights in float32 have.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: A sketch is taken where the smaller side is at least this, and so many times the rank.
SKETCHED, TIMES = 1024, 8
#: Directions beyond the rank, and power iterations: Halko, Martinsson and Tropp 2011, section 4.5.
#: What is lost is then within 1 % of what the best basis loses, on a flat spectrum too
#: (benchmarks/lowrank.py).
_EXTRA, _POWERS = 16, 5


def energies(matrix: Tensor) -> Tensor:
    """All squared singular values, descending, f64[min(m, n)]; small ones are rough."""
    values: Tensor = torch.linalg.eigvalsh(_gram(matrix.double()))
    return values.clamp_min(0).flip(0)


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The left singular vectors of the largest values, f64 [m, rank], orthonormal.

    Args:
        matrix: [m, n].
        rank: at most the smaller side.
    """
    if min(matrix.shape) >= max(SKETCHED, TIMES * rank):
        return sketched(matrix, rank)
    wide = matrix.double()
    vectors: Tensor = torch.linalg.eigh(_gram(wide)).eigenvectors.flip(1)[:, :rank]
    if wide.shape[0] > wide.shape[1]:  # they are the right ones
        vectors = torch.linalg.qr(wide @ vectors).Q
    return vectors


def sketched(matrix: Tensor, rank: int) -> Tensor:
    """As `leading`, by a random sketch in float32: the same directions for the same matrix."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        wanted = min(rank + _EXTRA, *matrix.shape)
        found, _, _ = torch.svd_lowrank(matrix.float(), q=wanted, niter=_POWERS)
    basis: Tensor = torch.linalg.qr(found[:, :rank].double()).Q
    return basis


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product by factors that have the same singular values, so that both train alike.

    Args:
        left: f64 [m, r], orthonormal columns.
        right: f64 [r, n].
    """
    squares, turn = torch.linalg.eigh(right @ right.T)
    roots = squares.flip(0).clamp_min(0) ** 0.25
    roots = roots.clamp_min(float(roots[0]) * 1e-6)
    if not float(roots[0]):
        roots = torch.ones_like(roots)
    turn = turn.flip(1)
    return left @ turn * roots, (turn.T @ right) / roots[:, None]


def _gram(wide: Tensor) -> Tensor:
    return wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
