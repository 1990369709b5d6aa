"""Which weights are the least: of a layer, of each of its outputs, or of each group of inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """So many of every group of neighbours are kept.

    Attributes:
        keep: at least 1, fewer than `of`.
        of: the size of a group.
    """

    keep: int
    of: int

    @staticmethod
    def parse(text: str) -> Pattern:
        """Read `2:4`.

        Raises:
            ValueError: where it is none, or keeps nothing or everything.
        """
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"{text!r} is no pattern such as 2:4: two of every four are kept")
        return Pattern(int(found[1]), int(found[2]))


def smallest(score: Tensor, share: float, *, each_output: bool) -> Tensor:
    """Where the least of a weight are, bool of its shape.

    Args:
        score: of each weight, `[out, ...]`, at least 0.
        share: of them, rounded down.
        each_output: that share of each row, not of all together.
    """
    rows = score.flatten(1) if each_output else score.reshape(1, -1)
    order = rows.argsort(dim=1, stable=True)[:, : int(share * rows.shape[1])]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).reshape(score.shape)


def in_groups(score: Tensor, pattern: Pattern, dim: int) -> Tensor:
    """The least of each group of neighbours along a dimension, bool of the shape of `score`."""
    rows = score.movedim(dim, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, pattern.of)
    order = groups.argsort(dim=-1, stable=True)[..., : pattern.of - pattern.keep]
    found = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)
    return found.flatten(-2).movedim(-1, dim)
