"""A part of the training data that is not trained on: it tells which epoch was best."""

from __future__ import annotations

import torch

from compressc.data import Split
from compressc.data.splitting import divide
from compressc.pipeline import Samples

#: Fewer samples than this say too little about an epoch.
LEAST = 64


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Split, Split]:
    """Split into (to train on, to validate on), each class in proportion.

    The part held out is `share` of the samples, 64 at least, but never more than half. Where there
    is a single sample, both parts hold it.
    """
    total = len(samples)
    count = min(max(round(share * total), LEAST), total // 2)
    held, kept = divide(samples.labels, total, count, seed)
    return _select(samples, kept), _select(samples, held if count else kept)


def _select(samples: Samples, index: torch.Tensor) -> Split:
    labels = None if samples.labels is None else samples.labels[index]
    return Split(tuple(tensor[index] for tensor in samples.inputs), labels)
