"""From what a user writes, `flip,shift(pixels=2)` or `file.py:function`, to augmentations."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.arrays import as_targets, bad
from compressc.data.dataset import Dataset
from compressc.data.generators import generators_kept, seed_all
from compressc.data.python_file import load_function
from compressc.data.samples import tensor_of, tree_of
from compressc.data.split import Split
from compressc.data.views import Augmentation, Augmented, Draw
from compressc.errors import CompresscError
from compressc.spec import parse, split_top_level
from compressc.strangers import reading

#: Parameters of a user's function: with labels, and without.
_WITH_LABELS, _WITHOUT = 3, 2


class Own(Augmentation):
    """A user's function: `function(inputs, generator)`, or `function(inputs, labels, generator)`.

    It is called for one sample at a time: `inputs` is a tensor, or a tuple or dict of them, without
    the dimension of the batch. It returns the inputs (with labels: a pair) in the same shapes. All
    of torch's, numpy's and Python's own generators are seeded, too.
    """

    name: ClassVar[str] = "own"

    path: Path
    """The file; its content counts for the fingerprint of the data."""

    function: str
    """A function in it."""

    @property
    def text(self) -> str:
        """As a user writes it."""
        return f"{self.path}:{self.function}"

    def identity(self) -> str:
        """Name and content of the file."""
        return f"{self.function} {hashlib.sha256(self.path.read_bytes()).hexdigest()}"

    def apply(self, batch: Split, draw: Draw) -> Split:
        """Sample by sample.

        Raises:
            CompresscError: CC302 where the function fails, or makes something else of a sample.
        """
        call = load_function(self.path, self.function)
        labelled = _parameters(call, self.text) == _WITH_LABELS
        seeds = draw.seeds()
        made = []
        with generators_kept():
            for row, (seed, position) in enumerate(zip(seeds, draw.positions, strict=True)):
                sample = _row(batch, row)
                where = f"{self.text}, sample {int(position)}"
                with reading("CC302", "augmentation makes a sample of a sample", where):
                    made.append(_called(call, sample, int(seed), labelled, where))
        return _joined(made, batch, self.text)


Sample = tuple[tuple[Tensor, ...], Any]


def _called(
    call: Callable[..., Any], sample: tuple[Any, Any], seed: int, labelled: bool, where: str
) -> Sample:
    seed_all(seed)
    generator = torch.Generator().manual_seed(seed % 2**63)
    inputs, labels = sample
    if labelled:
        inputs, labels = call(inputs, labels, generator)
    else:
        inputs = call(inputs, generator)
    if isinstance(inputs, dict):
        inputs = tuple(inputs.values())
    rows = inputs if isinstance(inputs, tuple | list) else (inputs,)
    tensors = tuple(tensor_of(x, where) for x in rows)
    return tensors, None if labels is None else as_targets(tree_of(labels, where), where)


def _row(batch: Split, row: int) -> tuple[Any, Any]:
    """One sample as a user's function sees it; a copy, which it may write into."""
    inputs = tuple(x[row].clone() for x in batch.inputs)
    labels = (
        None if batch.labels is None else pytree.tree_map(lambda x: x[row].clone(), batch.labels)
    )
    if batch.names is not None and len(inputs) > 1:
        return dict(zip(batch.names, inputs, strict=True)), labels
    return inputs[0] if len(inputs) == 1 else inputs, labels


def _joined(made: Sequence[Sample], before: Split, where: str) -> Split:
    for inputs, _ in made:
        forms = [[(x.dtype, list(x.shape)) for x in side] for side in (inputs, made[0][0])]
        if forms[0] != forms[1]:
            got = f"{forms[0]} and {forms[1]}".replace("torch.", "")
            raise CompresscError(
                "CC302", "augmentation makes samples of one shape", got=got, where=where
            )
    columns = tuple(torch.stack(rows) for rows in zip(*(inputs for inputs, _ in made), strict=True))
    labels = before.labels
    if labels is not None:
        trees = [tree for _, tree in made]
        labels = pytree.tree_map(lambda *rows: torch.stack(rows), trees[0], *trees[1:])
    return Split.of(columns, labels, before.names)


def _parameters(call: Callable[..., Any], where: str) -> int:
    count = len(inspect.signature(call).parameters)
    if count not in (_WITHOUT, _WITH_LABELS):
        wanted = "augmentation is function(inputs, generator) or (inputs, labels, generator)"
        raise bad(wanted, f"{count} parameters", where, "")
    return count


def parse_augmentations(text: str) -> list[Augmentation]:
    """Read a list.

    Args:
        text: names with options, and `file.py:function`, which runs that code; commas between them.

    Raises:
        CompresscError: CC107 for an unknown name, CC102 or CC103 for its options, CC300 for a file
            that cannot be used.
    """
    found: list[Augmentation] = []
    for item in split_top_level(text):
        path, colon, function = item.rpartition(":")
        if colon and path.endswith(".py"):
            call = load_function(Path(path), function)
            _parameters(call, item)
            found.append(Own(path=Path(path), function=function))
        else:
            found.append(parse(Augmentation, item))  # type: ignore[type-abstract]
    return found


def augmented(dataset: Dataset, text: str) -> Dataset:
    """The data set with a training part that has views.

    Raises:
        CompresscError: as `parse_augmentations`; CC301 where it does not fit the samples.
    """
    augmentations = parse_augmentations(text)
    if not augmentations:
        return dataset
    train = Augmented(dataset.train, augmentations, f"{dataset.name}.train")
    parts = {**dataset.parts, "train": train}
    return Dataset(dataset.name, **parts)
