"""Keeping nncf from holding the model several times over.

Left alone, it holds a copy of every weight, and each quantized weight twice more in float: as the
`val` of the two nodes that dequantize it, where a tensor without bytes says the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compressc.ir.sharing import copies_share


@contextmanager
def sparing() -> Iterator[None]:
    """Inside, nncf's copies share the weights and its remarks hold no numbers."""
    from nncf.experimental.torch.fx import transformations

    ordinary = transformations._set_meta_for_matches

    def set_meta(model: Any, matches: Any) -> None:
        for match in matches:
            ordinary(model, [match])
            for node in match.replacements:
                value = node.meta.get("val")
                if type(value) is torch.Tensor:
                    node.meta["val"] = value.to("meta")

    transformations._set_meta_for_matches = set_meta
    try:
        with copies_share():
            yield
    finally:
        transformations._set_meta_for_matches = ordinary
