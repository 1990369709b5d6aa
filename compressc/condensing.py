"""A training part condensed to a few samples of each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compressc.errors import CompresscError
from compressc.events import Listener, ignore
from compressc.making import made_once

if TYPE_CHECKING:  # imports below are inside the functions, as in `compile`
    from torch import Tensor

    from compressc.data import Dataset


def condense(  # noqa: PLR0913  (each is an option of the command line)
    data: Dataset,
    per_class: int = 10,
    method: str = "matching",
    *,
    seed: int = 0,
    device: str = "cpu",
    cache: str | Path | None = "default",
    checkpoint_every: float = 60.0,
    tell: Listener = ignore,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Tensor, Tensor]:
    """Make or choose samples from which a student learns as much of the training part as it can.

    Args:
        data: with one input of floats and a class for each sample; only `train` is read.
        per_class: samples of each class.
        method: a condensation by name, with options.
        seed: of every random choice; the same seed gives the same bytes.
        device: where it works.
        cache: folder to keep how far it is in; None keeps nothing.
        checkpoint_every: seconds of work that a crash may cost.
        tell: told how far it is.
        say: told what a user should know of the result.

    Returns:
        Inputs `[classes * per_class, ...]`, class by class, and their labels i64.

    Raises:
        CompresscError: CC105 without labels, CC107 for an unknown method, CC301 for data of another
            form, or with fewer samples of a class than are wanted.
    """
    from compressc.distillation import parse_condensation

    chosen = parse_condensation(method)
    inputs, labels = _samples(data, per_class)
    made = made_once(
        {"data": data.train.identity, "pass": chosen.cache_key(), "per_class": per_class},
        chosen.text,
        lambda making: {"x": chosen.make(inputs, labels, per_class, making)},
        seed=seed,
        device=device,
        cache=cache,
        checkpoint_every=checkpoint_every,
        tell=tell,
        say=say,
    )
    import torch

    return made["x"], torch.arange(int(labels.max()) + 1).repeat_interleave(per_class)


def _samples(data: Dataset, per_class: int) -> tuple[Tensor, Tensor]:
    """The training part in memory, those samples that have a label."""
    import torch

    if per_class < 1:
        raise CompresscError("CC100", "a sample of each class or more", got=str(per_class))
    labels = data.train.all_labels()
    if labels is None:
        raise CompresscError("CC105", "data with a label for each sample", where=data.name)
    if labels.ndim != 1 or labels.is_floating_point():
        wanted = "labels are one class for each sample"
        got = f"{str(labels.dtype).removeprefix('torch.')}{list(labels.shape)}"
        raise CompresscError("CC301", wanted, got=got, where=data.name)
    whole = data.train.take(len(data.train))
    if len(whole.inputs) != 1 or not whole.inputs[0].is_floating_point():
        found = ", ".join(str(x.dtype).removeprefix("torch.") for x in whole.inputs)
        wanted = "samples of one input of floats can be condensed"
        raise CompresscError("CC301", wanted, got=found, where=data.name)
    known = labels >= 0
    inputs, labels = whole.inputs[0][known].float(), labels[known]
    counts = torch.bincount(labels)
    if not len(counts) or int(counts.min()) < per_class:
        least = int(counts.argmin()) if len(counts) else 0
        there = int(counts[least]) if len(counts) else 0
        wanted = f"{per_class} samples of each class"
        got = f"{there} of class {least}"
        hint = f"--per-class {there}" if there else "number the classes from 0 on, without a gap"
        raise CompresscError("CC301", wanted, got=got, where=data.name, hint=hint)
    return inputs, labels
