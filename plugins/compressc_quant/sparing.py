"""Keeping nncf from holding the model several times over.

Left alone, it holds a copy of every weight, and each quantized weight twice more in float: as the
`val` of the two nodes that dequantize it, where a tensor without bytes says the same. And what it
has no more use for, it leaves in cycles: the floats of each weight that it has made integers of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compressc.collecting import give_back
from compressc.ir.sharing import copies_share

#: Bytes of floats that became integers, after which what is left of them is looked for.
_GARBAGE = 1 << 22


@contextmanager
def sparing() -> Iterator[None]:
    """Inside, nncf's copies share the weights, its remarks hold no numbers, and garbage goes."""
    from nncf.experimental.torch.fx import transformations

    ordinary = transformations._set_meta_for_matches
    update, done = transformations.constant_update, _GARBAGE  # it has observed: that is left, too

    def update_constant(model: Any, node: Any, value: Any, *args: Any, **options: Any) -> None:
        nonlocal done
        update(model, node, value, *args, **options)
        done += value.numel() * torch.float32.itemsize
        if done >= _GARBAGE:
            done = 0
            give_back()

    def set_meta(model: Any, matches: Any) -> None:
        for match in matches:
            ordinary(model, [match])
            for node in match.replacements:
                value = node.meta.get("val")
                if type(value) is torch.Tensor:
                    node.meta["val"] = value.to("meta")

    transformations._set_meta_for_matches = set_meta
    transformations.constant_update = update_constant
    try:
        with copies_share():
            yield
    finally:
        transformations._set_meta_for_matches = ordinary
        transformations.constant_update = update
        give_back()
