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
#: By which outputs may differ, as a share of the largest: far above rounding, far below a mix-up.
TOLERANCE = 1e-2


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

    On tensor cores; on a CPU with oneDNN, which would else reorder every image around every
    convolution: steps of six nets took 1.01 to 1.7 times as long without, with AVX2 as with
    AVX-512.
    """
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return device.type == "cuda" and fast_precision(device) == "bfloat16"


def channels_last_for(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[bool, str]:
    """Whether a module is to be trained so: where it has filters and answers as before; else why.

    Args:
        module: in eval mode, on the device that it is trained on.
        inputs: one sample or more.
    """
    if not likes_channels_last(inputs[0].device) or not _filters([module]):
        return False, ""
    found = []
    try:
        for wanted in (False, True):
            with torch.no_grad(), channels_last({"model": module}, wanted):
                found.append(pytree.tree_leaves(module(*inputs)))
    except RuntimeError as error:  # an op that wants its operand in one order
        return False, str(error)
    same = all(_alike(a, b) for a, b in zip(*found, strict=True) if isinstance(a, Tensor))
    return same, "" if same else "its outputs differ: an op reads memory as it lies"


@contextmanager
def channels_last(modules: Mapping[str, nn.Module], wanted: bool) -> Iterator[None]:
    """Inside, filters of 2-d convolutions lie channels last; images follow them by themselves."""
    before = [(w, w.stride()) for w in _filters(modules.values())] if wanted else []
    hooks = [m.register_forward_pre_hook(_led) for m in _of_one_number(modules.values()) if wanted]
    for weight, _ in before:
        # `contiguous` leaves a filter of one channel as it is, and its results were planes
        rows = torch.empty_like(weight.data, memory_format=torch.channels_last)
        weight.data = rows.copy_(weight.data)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, stride in before:
            plain = torch.empty_strided(
                weight.shape, stride, dtype=weight.dtype, device=weight.device
            )
            weight.data = plain.copy_(weight.data)


def _alike(one: Tensor, other: Tensor) -> bool:
    """But for rounding, by the largest number."""
    scale = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _filters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    parts = (p for part in _convolutions(modules) for p in part.parameters(recurse=False))
    return list(dict.fromkeys(p for p in parts if p.dim() == 4))


def _convolutions(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    parts = (part for module in modules for part in module.modules())
    return (part for part in parts if isinstance(part, nn.Conv2d | nn.ConvTranspose2d))


def _of_one_number(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Convolutions with filters [n,1,1,1]: these lie both ways, and lead no image."""
    found = (m for m in _convolutions(modules) if m.weight[0].numel() == 1)  # type: ignore[index]
    return list(dict.fromkeys(found))


def _led(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images of one channel lie both ways, too, and are led by their strides."""
    image, *others = args
    if image.dim() == 4:
        image = image.to(memory_format=torch.channels_last)
    return image, *others
