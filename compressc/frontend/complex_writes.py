"""Writes into complex numbers as writes into their real and imaginary parts.

A model that sets some frequencies of a spectrum is traced to such writes, and torch has the
gradient of those into real numbers alone.
"""

from __future__ import annotations

import torch
from torch import fx

from compressc.frontend.rewriting import arguments_of, traced

#: Calls with (self, src, dim, ...): a part of `self` becomes `src`.
CALLS = ("aten.slice_scatter", "aten.select_scatter")


def body_of(call: fx.Node) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """What one of `CALLS` computes, by parts, and its operands.

    Parts lie in a last dimension of their own, so that others are counted from the first one.

    Returns:
        None where the numbers are real, or where the place of the write is open.
    """
    whole = call.meta["val"]
    given = {"dim": 0, **arguments_of(call)}
    operands = [given.pop("self"), given.pop("src")]
    if not whole.is_complex() or any(isinstance(value, fx.Node) for value in given.values()):
        return None
    given["dim"] %= whole.dim()

    def body(*values: torch.Tensor) -> torch.Tensor:
        written = call.target(*map(torch.view_as_real, values), **given)  # type: ignore[operator]
        return torch.view_as_complex(written)

    return traced(body, operands, call), operands
