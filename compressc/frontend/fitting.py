"""A data set fitted to a model: inputs in the order and dtypes of the model, and checked."""

from __future__ import annotations

from functools import partial

import torch

from compressc.data import Dataset, Split
from compressc.frontend.inputs import Example, check_inputs
from compressc.frontend.precision import cast_inputs
from compressc.ir import Graph
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


def fit_data(graph: Graph, dataset: Dataset) -> Dataset:
    """The same samples as a graph takes them.

    Args:
        graph: the model.
        dataset: read from; parts that are not in memory stay where they are.

    Raises:
        CompresscError: CC301 where inputs are not called as the model's, CC204 where one has
            another dtype or size.
    """
    fitted = dataset.ordered([op.name for op in graph.inputs])
    fitted = fitted.cast(partial(cast_inputs, graph))
    for part, source in fitted.parts.items():
        looked_at = source if isinstance(source, Split) else source.take(_LOOKED_AT)
        check_inputs(graph, looked_at.inputs, f"{dataset.name}.{part}")
    return fitted
