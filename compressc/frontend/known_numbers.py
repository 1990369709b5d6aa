"""Numbers that a module keeps in buffers and computes sizes from, known while it is traced.

Audio codecs keep strides and kernel sizes so, and compute the padding of an input from them; what
converters make of ONNX files keeps shapes and scales so. A trace takes a buffer for a value that is
not known, and cannot say how long the padded input is, or what the shape is that it shall have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

#: Whole numbers of one buffer, at most: a shape, and no table of indices.
_MOST = 64
#: Floats, at most: the scales of an image's dimensions, and no weights.
_MOST_FLOATS = 8


def has_known_numbers(module: nn.Module) -> bool:
    """Whether there are any."""
    return any(_numbers(each) for each in module.modules())


@contextmanager
def as_constants(module: nn.Module) -> Iterator[None]:
    """Inside, every such buffer is read as numbers that are known, and what follows from them is.

    Where they meet a value of the trace, they are constants.
    """
    changed = [(each, type(each), found) for each in module.modules() if (found := _numbers(each))]
    buffers = [dict(each._buffers) for each, _, _ in changed]  # in the order of a state dict
    try:
        for each, kind, numbers in changed:
            for name in numbers:
                del each._buffers[name]
            each.__class__ = type(kind.__name__, (kind,), {n: _read(t) for n, t in numbers.items()})
        yield
    finally:
        for (each, kind, _), whole in zip(changed, buffers, strict=True):
            each.__class__ = kind
            each._buffers.clear()
            each._buffers.update(whole)


def _numbers(module: nn.Module) -> Mapping[str, Tensor]:
    """Those of this module alone, by name."""
    return {name: t for name, t in module._buffers.items() if t is not None and _is(t, module)}


def _is(tensor: Tensor, holder: nn.Module) -> bool:
    """Whole numbers; floats where the holder computes nothing, and so has no weights of its own."""
    if tensor.dim() > 1 or tensor.is_complex():
        return False
    if not tensor.is_floating_point():
        return tensor.numel() <= _MOST
    return type(holder) is nn.Module and tensor.numel() <= _MOST_FLOATS


def _read(tensor: Tensor) -> property:
    known = tensor.detach().cpu().clone().as_subclass(_Known)

    def read(module: Any) -> Tensor:
        return known

    return property(read)


class _Known(Tensor):
    """Numbers outside the trace: what is computed of these alone is another of them."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = args, kwargs or {}
        leaves = pytree.tree_leaves(given)
        if any(isinstance(leaf, _TRACED) and not isinstance(leaf, cls) for leaf in leaves):
            args, kwargs = pytree.tree_map_only(cls, _constant, given)
            return func(*args, **kwargs)
        with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass():
            args, kwargs = pytree.tree_map_only(cls, _plain, given)
            return pytree.tree_map_only(Tensor, _known, func(*args, **kwargs))


#: What a trace has values of.
_TRACED = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)


def _plain(known: Tensor) -> Tensor:
    return known.as_subclass(Tensor)


def _known(plain: Tensor) -> Tensor:
    return plain.as_subclass(_Known)


def _constant(known: Tensor) -> Tensor:
    """Made inside the trace, which sees the number."""
    with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass():
        numbers, dtype = known.tolist(), known.dtype
    return torch.tensor(numbers, dtype=dtype)
