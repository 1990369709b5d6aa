"""Tables: rows of r numbers, then a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from compressc_lowrank.leading import balanced, leading
from compressc_lowrank.matrices import matrix_of
from compressc_lowrank.schemes.scheme import (
    Chain,
    Cost,
    Link,
    Ranks,
    Scheme,
    Spectrum,
    linear,
    with_weight,
)
from compressc_lowrank.schemes.svd import of_matrix
from compressc_lowrank.seen import Seen, weighed


class Embedding(Scheme):
    """A table [rows, width] becomes a table [rows, r] and a linear layer r -> width.

    As ALBERT has it (Lan et al. 2020, section 3.1), made of a trained table by singular values.
    With inputs seen, rows count by how often they were looked up.
    """

    name: ClassVar[str] = "embedding"
    kinds: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def moved(self, layer: Any) -> Sequence[int]:
        """Nothing is an image."""
        return 0, 0

    def full(self, layer: Any) -> Ranks:
        """The smaller side of the table."""
        return (min(layer.weight.shape),)

    def weights(self, layer: Any) -> Cost:
        """`rows * r + r * width`."""
        rows, width = layer.weight.shape
        return Cost(rows * width, rows, width)

    def spectrum(self, layer: Any, seen: Seen | None = None) -> Spectrum:
        """By the squared singular values of the table."""
        return of_matrix(weighed(matrix_of(layer).double().T, seen))

    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """A row that is padding stays one."""
        wide = matrix_of(layer).double().T  # [width, rows]
        basis = leading(weighed(wide, seen), *ranks)
        across, rows = balanced(basis, basis.T @ wide)
        with torch.device("meta"):
            table = nn.Embedding(layer.num_embeddings, ranks[0], layer.padding_idx)
        links = (
            Link("rows", "embedding", with_weight(table, rows.T, layer.weight.dtype)),
            Link("", "linear", linear(across, layer.weight.dtype)),
        )
        return Chain(links, (across @ rows).T)
