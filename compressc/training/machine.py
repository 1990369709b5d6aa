"""What the machine is good at: decided by what it says of itself, never by a clock, so that the
same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Precision = Literal["float32", "bfloat16"]


def fast_precision(device: torch.device) -> Precision:
    """`bfloat16` where matrix products in it run on units of their own, else `float32`.

    On a CPU those are AMX or AVX512-BF16, on CUDA tensor cores from Ampere on.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        units = torch.cpu.get_capabilities()
        fast = bool(units.get("amx_bf16") or units.get("avx512_bf16"))
    return "bfloat16" if fast else "float32"


class InBfloat16(nn.Module):
    """A module whose matrix products and convolutions run in bfloat16; what comes out is float32.

    The weights stay float32, and so do norms and sums (`torch.autocast`).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        """As the module's."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            outputs = self.module(*inputs)
        return pytree.tree_map_only(Tensor, _widened, outputs)


def precision_for(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Precision, str]:
    """The fast precision, where the module has float32 weights and runs in it; else why not.

    Args:
        module: on the device that it is trained on.
        inputs: one sample or more.
    """
    fast = fast_precision(inputs[0].device)
    if fast == "float32" or any(p.dtype != torch.float32 for p in module.parameters()):
        return "float32", ""
    try:
        with torch.no_grad():
            InBfloat16(module)(*inputs)
    except RuntimeError as error:  # an op that does not mix its operands' dtypes
        return "float32", str(error)
    return fast, ""


def likes_channels_last(device: torch.device) -> bool:
    """Whether convolutions are faster where the channels of a pixel are neighbours in memory.

    On tensor cores; on a CPU oneDNN orders filters and images by itself, block by block.
    """
    return device.type == "cuda" and fast_precision(device) == "bfloat16"


@contextmanager
def channels_last(modules: Mapping[str, nn.Module], wanted: bool) -> Iterator[None]:
    """Inside, filters of 2-d convolutions lie channels last; images follow them by themselves."""
    before = [(w, w.stride()) for w in _filters(modules.values())] if wanted else []
    for weight, _ in before:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, stride in before:
            plain = torch.empty_strided(
                weight.shape, stride, dtype=weight.dtype, device=weight.device
            )
            weight.data = plain.copy_(weight.data)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _filters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    found = [
        p
        for m in modules
        for part in m.modules()
        if isinstance(part, kinds)
        for p in part.parameters(recurse=False)
        if p.dim() == 4
    ]
    return list(dict.fromkeys(found))
