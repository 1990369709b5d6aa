"""Writes into complex numbers are traced so that they have a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.frontend import export_module, import_program
from compressc.ir import lower


class Spectral(nn.Module):
    """Low frequencies are mixed, others are zero, as in a layer of a Fourier neural operator.

    f32[b,3,8,8] -> f32[b,3,8,8].
    """

    def __init__(self, write: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 4, 3, 2))
        self.write = write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.fft.rfft2(x)
        low = torch.view_as_complex(self.weight)
        mixed = torch.einsum("bixy,ioxy->boxy", found[:, :, :4, :3], low)
        whole = torch.zeros_like(found)
        if self.write == "slice":
            whole[:, :, :4, :3] = mixed
        else:
            whole[:, :, 2] = mixed.repeat(1, 1, 1, 2)[:, :, 1, :5]
        return torch.fft.irfft2(whole, s=x.shape[-2:])


@pytest.mark.parametrize("write", ["slice", "select"])
def test_the_gradient_is_that_of_the_module(write: str) -> None:
    torch.manual_seed(0)
    module, x = Spectral(write), torch.randn(4, 3, 8, 8)
    graph = import_program(export_module(module, (x,)))
    assert any(op.kind == f"aten.{write}_scatter" for op in graph)
    lowered, want = lower(graph), module(x)
    assert torch.equal(lowered(x), want)
    (ours,), (theirs,) = lowered.parameters(), module.parameters()
    lowered(x).pow(2).sum().backward()
    want.pow(2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_writes_into_real_numbers_stay_one_op() -> None:
    class Write(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            whole = torch.zeros_like(x)
            whole[:, 1:3] = x[:, :2]
            return whole

    graph = import_program(export_module(Write(), (torch.randn(4, 5),)))
    assert not any("view_as" in op.kind for op in graph)
    assert sum(op.kind == "aten.slice_scatter" for op in graph) == 1
