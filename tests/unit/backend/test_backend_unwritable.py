"""What runtimes cannot take says which op it is; Fourier transforms keep their axis."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressc.backend import load_backend
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.testing import export_graph


class Mixed(nn.Module):
    """The mixing of FNet: real part of a transform over positions and channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real


class Circular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class OwnKernels(nn.Module):
    """A convolution with as many groups as samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        kernels = x.mean((2, 3)).view(b, c, 1, 1)
        return F.conv2d(x.reshape(1, b * c, h, w), kernels, groups=b).view(b, 1, h, w)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("batch", [1, 5])
def test_transforms_run_along_their_own_axis(name, batch, tmp_path):
    graph = export_graph(Mixed(), torch.randn(5, 6, 8))
    backend = load_backend(name)
    run = backend.load(backend.emit(graph, tmp_path, (torch.randn(5, 6, 8),)))
    x = torch.randn(batch, 6, 8)
    (got,) = run(x)
    torch.testing.assert_close(got, lower(graph)(x), atol=1e-4, rtol=1e-4)


CASES = [
    ("openvino", Circular(), "Unsupported padding mode: .wrap"),
    ("onnx", OwnKernels(), "when translating node %conv2d.*aten.conv2d"),
]


@pytest.mark.parametrize(("name", "module", "cause"), CASES)
def test_the_error_names_the_cause(name, module, cause, tmp_path):
    x = torch.randn(5, 3, 6, 6)
    with pytest.raises(CompresscError, match=f"CC503.*{cause}.*choose another format") as error:
        load_backend(name).emit(export_graph(module.eval(), x), tmp_path, (x,))
    assert "\x1b" not in str(error.value)
