"""A model's output for every sample of a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.pipeline import Samples

#: Takes the input tensors of a batch, `[n, ...]` each, and returns one output `[n, ...]`.
Runner = Callable[..., Tensor]


def labels_of(samples: Samples) -> Tensor | None:
    """The labels `[n, ...]` of all samples, where they have any."""
    if not samples.has_labels:
        return None
    known = samples.all_labels()
    return torch.cat([part.labels for part in samples.batches(256)]) if known is None else known


def predict(run: Runner, split: Samples, batch_size: int = 256) -> Tensor:
    """The output `[n, ...]` for all samples, on the CPU, computed without gradients.

    Raises:
        CompresscError: CC301 where `run` returns something else than one row for each sample.
    """
    rows = []
    with torch.no_grad():
        for batch in split.batches(batch_size):
            out = run(*batch.inputs)
            if not isinstance(out, Tensor) or not out.ndim or out.shape[0] != len(batch):
                got = f"shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
                raise CompresscError(
                    "CC301",
                    f"a model returns one tensor with {len(batch)} rows for {len(batch)} samples",
                    got=got,
                    hint="compress a module whose forward returns logits [n, ...]",
                )
            rows.append(out.detach().cpu())
    return torch.cat(rows)
