"""Numbers in buffers may say how long things are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program
from compressc.frontend.known_numbers import as_constants, has_known_numbers
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
    with pytest.raises(CompresscError, match=r"CC202.*cannot be traced") as caught:
        export_module(module, (torch.randn(3, 4),))
    place = caught.value.where.removeprefix("tests/unit/frontend/")
    assert place.startswith("test_frontend_known_numbers.py:")
    assert place.endswith(", in forward: return x if x.sum() > self.steps else -x")
    assert type(module) is Branch
    assert module.steps is module._buffers["steps"]


class Converted(nn.Module):
    """As converters write it: shapes, a table and scales of a file beside code that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.fc = nn.Module(), nn.Linear(12, 12)
        self.held.register_buffer("shape", torch.tensor([0, 3, 2, -1]))
        self.held.register_buffer("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))
        self.held.register_buffer("ends", torch.tensor([1, 3]))
        self.held.register_buffer("shift", torch.arange(12.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x) + self.held.shift
        shape = self.held.shape
        if torch.any(shape == 0):
            kept = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]
            x = x.reshape(kept)
        if (self.held.scales[:2] != 1).any():
            raise NotImplementedError
        x = F.interpolate(x, scale_factor=self.held.scales[2:].numpy().tolist())
        start, end = (int(n) for n in self.held.ends * 2 - 1)
        return x[..., start:end] * self.held.ends[1]


def test_shapes_that_a_converter_keeps_are_traced():
    torch.manual_seed(0)
    module, x = Converted().eval(), torch.randn(4, 12)
    graph = import_program(export_module(module, (x,)))
    for rows in (4, 2):
        want = module(x[:rows])
        assert want.shape == (rows, 3, 4, 3)  # from 2 x 2 by 2, columns 1 to 5 of 4
        torch.testing.assert_close(lower(graph)(x[:rows]), want)
    assert "shift" in " ".join(graph.tensors())  # more floats than a scale has: no constant
    assert type(module.held) is nn.Module
    assert list(module.held.state_dict()) == ["shape", "scales", "ends", "shift"]


def test_only_whole_numbers_become_constants():
    module = nn.Sequential(Padded(), nn.BatchNorm1d(4))
    assert has_known_numbers(module)
    assert not has_known_numbers(nn.Linear(2, 2))
    with as_constants(module):
        assert [name for name, _ in module.named_buffers()] == [
            "0.gain", "1.running_mean", "1.running_var",
        ]  # fmt: skip
        assert int(module[0].stride) == 4
        assert module[0].kernel.dtype == torch.int64
