"""A part of the training data that is not trained on: it tells which epoch was best."""

from __future__ import annotations

from compressc.data.splitting import divide
from compressc.pipeline import Samples, TransferSet

#: Fewer samples than this say little about an epoch,
LEAST = 64
#: but where all are few, they are worth more for learning: no more than this share is added.
FEW = 1 / 8


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split into (to train on, to validate on), each class in proportion.

    The part held out is `share` of the samples, and 64 at least where these are no more than an
    eighth; an eighth of fewer; never more than half. Where there is a single sample, both parts
    hold it.
    """
    total = len(samples)
    least = max(1, min(LEAST, int(FEW * total)))
    count = min(max(round(share * total), least), total // 2)
    held, kept = divide(samples.all_labels(), total, count, seed)
    return samples.subset(kept), samples.subset(held if count else kept)


def parts_of(data: TransferSet, share: float, seed: int) -> tuple[Samples, Samples]:
    """What is taught, and what is examined: the data's own part for it, or a share held out."""
    if data.validation is not None:
        return data.train, data.validation
    return hold_out(data.train, share, seed)
