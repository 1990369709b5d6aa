"""The products of a linear layer and of its gradients, for many tokens and a wide output.

On a CPU with AVX-512, oneDNN's linear ran the first two in float32 at 1.1 to 1.35 times the speed
of `torch.mm` (MKL; AMD, 1 and 2 threads), so it is taken there. The rule looks at the tensors
alone, never at a clock: training must give the same bits every time. `torch.backends.mkldnn.flags`
switches it off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressc.kernels import onednn

#: Outputs that `input_grad` sums over in one product: all 32000 at once are a fifth slower.
_OUTPUTS = 4096
_SMALLEST = 1 << 20  # multiplications: below, calling oneDNN costs more than it saves


def linear(x: Tensor, w: Tensor) -> Tensor:
    """`x @ w.T`, `[B, V]`, of `[B, D]` and `[V, D]`."""
    return onednn.linear(x, w) if _suits_onednn(x, w) else torch.mm(x, w.t())


def input_grad(grad: Tensor, w: Tensor) -> Tensor:
    """`grad @ w`, `[B, D]`: the gradient of `x` in `linear`, from that of its result `[B, V]`."""
    first = slice(0, _OUTPUTS)
    if not _suits_onednn(grad[:, first], w[first].t()):
        return torch.mm(grad, w)
    total = onednn.linear(grad[:, first], w[first].t())
    for begin in range(_OUTPUTS, w.shape[0], _OUTPUTS):
        piece = slice(begin, begin + _OUTPUTS)
        total += onednn.linear(grad[:, piece], w[piece].t())
    return total


def add_weight_grad(total: Tensor, grad: Tensor, x: Tensor, first: bool) -> None:
    """`total += grad.T @ x`, in the dtype of `total` `[V, D]`; the first time, `total =`."""
    total.addmm_(grad.to(total.dtype).t(), x.to(total.dtype), beta=0 if first else 1)


def _suits_onednn(x: Tensor, w: Tensor) -> bool:
    """Whether oneDNN has its fast kernel for this: in other layouts it can be far slower."""
    mkldnn: Any = torch.backends.mkldnn
    return (
        x.dtype == w.dtype == torch.float32
        and x.device.type == w.device.type == "cpu"
        and x.stride(1) == 1
        and 1 in w.stride()
        and x.numel() * w.shape[0] >= _SMALLEST
        and mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and onednn.operator() is not None
    )
