"""Whole numbers in buffers may say how long things are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program
from compressc.frontend.whole_numbers import as_constants, has_whole_numbers
from compressc.ir import lower


class Padded(nn.Module):
    """A convolution that pads so that its stride fits, as audio codecs do. f32[b,1,n]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 6, 4)
        self.register_buffer("stride", torch.tensor(4), persistent=False)
        self.register_buffer("kernel", torch.tensor(6, dtype=torch.int64))
        self.register_buffer("gain", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.ceil((x.shape[-1] - self.kernel) / self.stride + 1).to(torch.int64)
        more = (count - 1) * self.stride + self.kernel - x.shape[-1]
        return self.gain * self.conv(F.pad(x, (0, int(more))))


class Branch(nn.Module):
    """Looks at its input: no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > self.steps else -x


def test_a_length_that_follows_from_them_is_traced():
    torch.manual_seed(0)
    module, x = Padded(), torch.randn(5, 1, 29)
    graph = import_program(export_module(module, (x,)))
    for rows in (5, 2):
        want = module(x[:rows])
        assert want.shape == (rows, 4, 7)  # ceil((29 - 6) / 4 + 1)
        torch.testing.assert_close(lower(graph)(x[:rows]), want)
    # the module is as it was
    assert type(module) is Padded
    assert [name for name, _ in module.named_buffers()] == ["stride", "kernel", "gain"]
    assert list(module.state_dict()) == ["kernel", "gain", "conv.weight", "conv.bias"]


def test_a_branch_on_inputs_is_refused_and_leaves_the_module():
    module = Branch()
    with pytest.raises(CompresscError, match=r"CC202.*cannot be traced"):
        export_module(module, (torch.randn(3, 4),))
    assert type(module) is Branch
    assert module.steps is module._buffers["steps"]


def test_only_whole_numbers_become_constants():
    module = nn.Sequential(Padded(), nn.BatchNorm1d(4))
    assert has_whole_numbers(module)
    assert not has_whole_numbers(nn.Linear(2, 2))
    with as_constants(module):
        assert [name for name, _ in module.named_buffers()] == [
            "0.gain", "1.running_mean", "1.running_var",
        ]  # fmt: skip
        assert int(module[0].stride) == 4
        assert module[0].kernel.dtype == torch.int64
