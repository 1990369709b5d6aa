"""oneDNN's linear layer, by a private operator of torch: it may be absent in another version."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def operator() -> Any:
    """The operator, or None."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this dtype here: bfloat16 needs AVX-512 or newer."""
    if operator() is None:
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(supported()))


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ w.T + bias`, `[..., out]` of `[..., in]`.

    Raises:
        RuntimeError: oneDNN does not take this dtype or layout.
    """
    return cast("Tensor", operator()(x, w, bias, "none", [], ""))
