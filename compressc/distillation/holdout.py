"""A part of the training data that is not trained on: it tells which epoch was best."""

from __future__ import annotations

from compressc.data.splitting import divide
from compressc.pipeline import Samples, TransferSet

#: Fewer samples than this say too little about an epoch.
LEAST = 64


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split into (to train on, to validate on), each class in proportion.

    The part held out is `share` of the samples, 64 at least, but never more than half. Where there
    is a single sample, both parts hold it.
    """
    total = len(samples)
    count = min(max(round(share * total), LEAST), total // 2)
    held, kept = divide(samples.all_labels(), total, count, seed)
    return samples.subset(kept), samples.subset(held if count else kept)


def parts_of(data: TransferSet, share: float, seed: int) -> tuple[Samples, Samples]:
    """What is taught, and what is examined: the data's own part for it, or a share held out."""
    if data.validation is not None:
        return data.train, data.validation
    return hold_out(data.train, share, seed)
