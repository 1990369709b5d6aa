"""Quality on labelled data, and agreement of two models on any data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.data.dataset import Split
from compressc.errors import CompresscError

#: Takes the input tensors of a batch, `[n, ...]` each, and returns logits `[n, ..., classes]`.
Runner = Callable[..., Tensor]


def predict(run: Runner, split: Split, batch_size: int = 256) -> Tensor:
    """Logits `[n, ..., classes]` of all samples, on the CPU, computed without gradients.

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


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in 0..1.

    Args:
        logits: `[n, ..., classes]`; the classes are the last dimension. A row that holds NaN counts
            as wrong.
        labels: int `[n, ...]`; positions labelled -100 are left out.

    Returns:
        The share of correct positions; NaN where no position has a label.

    Raises:
        CompresscError: CC301 where the shapes do not fit or there are fewer than two classes.
    """
    hits, _ = _hits(logits, labels)
    return float(hits.double().mean())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur in `labels` of the accuracy within the class, in 0..1.

    Shapes and errors are those of `accuracy`. It shows a student that gave up rare classes, which
    the plain accuracy hides.
    """
    hits, classes = _hits(logits, labels)
    if not len(classes):
        return float("nan")
    _, index = torch.unique(classes, return_inverse=True)
    total = torch.bincount(index).double()
    return float((torch.bincount(index, weights=hits.double()) / total).mean())


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of positions at which two models choose the same class, in 0..1.

    Args:
        a: `[n, ..., classes]`. A position where either holds NaN counts as disagreement.
        b: of the same shape.

    With a single output (regression) there is nothing to choose: the agreement is 1 by definition.

    Raises:
        CompresscError: CC301 where the shapes differ.
    """
    if a.shape != b.shape:
        raise _unlike(f"{list(a.shape)} and {list(b.shape)}")
    if a.ndim < 2:
        a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    same = (a.argmax(-1) == b.argmax(-1)) & ~_nan_rows(a) & ~_nan_rows(b)
    return float(same.double().mean())


def _hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Correct or not, and the label, of each labelled position; both `[positions]`."""
    if logits.ndim < 2 or logits.shape[:-1] != labels.shape:
        raise _unlike(f"logits {list(logits.shape)}, labels {list(labels.shape)}")
    if logits.shape[-1] < 2:
        raise CompresscError(
            "CC301",
            "top-1 accuracy needs logits of two classes or more",
            got=f"shape {list(logits.shape)}",
            hint="leave the labels out, or give the model one logit for each class",
        )
    known = labels != NO_LABEL
    if bool((labels[known] >= logits.shape[-1]).any()):
        raise CompresscError(
            "CC301",
            f"labels are below the model's {logits.shape[-1]} classes",
            got=str(int(labels.max())),
            hint="number the classes as the model does",
        )
    hits = (logits.argmax(-1) == labels) & ~_nan_rows(logits)
    return hits[known], labels[known]


def _nan_rows(logits: Tensor) -> Tensor:
    # argmax ranks NaN highest, so that a broken row would be right by luck
    return torch.isnan(logits).any(-1)


def _unlike(got: str) -> CompresscError:
    return CompresscError(
        "CC301", "predictions have the shape of what they are held against", got=got
    )
