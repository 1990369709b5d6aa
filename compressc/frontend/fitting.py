"""A data set fitted to a model: inputs in the order and dtypes of the model, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.frontend.inputs import Example, check_inputs
from compressc.frontend.precision import cast_inputs
from compressc.ir import Graph, Op, TensorType
from compressc.ir.types import DTYPE_NAMES

#: Samples that a model is traced with.
_TRACED = 8
#: Samples of a part that are held against the model at once, where not all are in memory.
_LOOKED_AT = 64


def example_of(dataset: Dataset) -> Example:
    """A few samples as the arguments of `forward`: by name where the data have names."""
    few = dataset.calibration.take(_TRACED).inputs
    names = dataset.train.names
    return few if names is None or len(names) < 2 else dict(zip(names, few, strict=True))


def specs_of(dataset: Dataset) -> tuple[str, ...]:
    """Inputs in words, where batches are of several sizes: then these dimensions are open.

    Dimensions that go together in all batches looked at are the same one.
    """
    total = len(dataset.train)
    starts = {0, total // 2, max(0, total - _TRACED)}
    batches = [
        dataset.train.select(torch.arange(start, min(start + _TRACED, total))).inputs
        for start in sorted(starts)
    ]
    letters: dict[tuple[int, ...], str] = {}
    names, specs = dataset.train.names, []
    for place, tensors in enumerate(zip(*batches, strict=True)):
        sizes = ["b"]
        for seen in list(zip(*(tensor.shape for tensor in tensors), strict=True))[1:]:
            varies = len(set(seen)) > 1
            sizes.append(letters.setdefault(seen, f"s{len(letters)}") if varies else str(seen[0]))
        type_ = DTYPE_NAMES[tensors[0].dtype]
        name = f"{names[place]}: " if names else ""
        specs.append(f"{name}{type_}[{','.join(sizes)}]")
    return tuple(specs) if letters else ()


def add_inputs(graph: Graph, dataset: Dataset, others: Sequence[str]) -> None:
    """Give a model inputs that it reads nowhere: a student of it may learn from another view.

    Args:
        graph: edited in place: inputs of these names behind its own, of the type of the data.
        dataset: has them.
        others: names of inputs of the data.

    Raises:
        CompresscError: CC301 where the data have other inputs than the model and these.
    """
    own = graph.inputs
    few = dataset.beside([op.name for op in own], others).train.take(1).inputs[len(own) :]
    batch = graph.type_of(own[0].name).shape[0]
    behind = own[-1].name
    for name, tensor in zip(others, few, strict=True):
        if name in graph:
            wanted = f"an input beside the model's has a name that no op of it has: {name}"
            raise CompresscError("CC301", wanted, where=dataset.name, hint="rename it")
        type_ = TensorType(tensor.dtype, (batch, *tensor.shape[1:]))
        behind = graph.insert_after(behind, Op(name, "input", type=type_)).name


def fit_data(graph: Graph, dataset: Dataset, others: Sequence[str] = ()) -> Dataset:
    """The same samples as a graph takes them.

    Args:
        graph: the model.
        dataset: read from; parts that are not in memory stay where they are.
        others: of its inputs, those that `add_inputs` gave it.

    Raises:
        CompresscError: CC301 where inputs are not called as the model's, CC204 where one has
            another dtype or size.
    """
    names = [op.name for op in graph.inputs]
    own = names[: len(names) - len(others)]
    fitted = dataset.beside(own, others) if others else dataset.ordered(names)
    fitted = fitted.cast(partial(cast_inputs, graph))
    for part, source in fitted.parts.items():
        looked_at = source if isinstance(source, Split) else source.take(_LOOKED_AT)
        check_inputs(graph, looked_at.inputs, f"{dataset.name}.{part}")
    return fitted
