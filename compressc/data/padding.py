"""Samples of unlike lengths in one batch: the shorter ones are filled up at their end.

Only integers are, along their first dimension: ids of a vocabulary, with the mask that says where
they are, and a target for each. What pads ids does not matter where an `attention_mask` says what
counts; a data set whose model takes none says it by an attribute `pad`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

#: The input that says what counts: 1 where a sample is, 0 where it is padded.
MASK = "attention_mask"
#: Inputs that are 0 behind the end of a sample, whatever pads ids.
_ZERO = (MASK, "token_type_ids")


def filling(name: str | None, names: Collection[str] | None, pad: int | None) -> int | None:
    """What fills up an input of that name among those; None where nothing may."""
    masked = MASK in (names or ())
    if name in _ZERO and (masked or pad is not None):
        return 0
    return pad if pad is not None else 0 if masked else None


def joined(rows: Sequence[Tensor], fill: int | None) -> Tensor:
    """`[k, longest, ...]` of tensors `[length, ...]`; of equal ones as they are, `[k, ...]`."""
    if fill is None or len({row.shape for row in rows}) == 1:
        return torch.stack(list(rows))
    return pad_sequence(list(rows), batch_first=True, padding_value=fill)


def may_differ(tensor: Tensor) -> bool:
    """Whether tensors like it may be of several lengths."""
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and tensor.dtype != torch.bool and tensor.ndim > 0
