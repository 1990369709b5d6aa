"""Putting the changed layers of a graph back into the module that it was traced from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import islice, product

from torch import nn

from compressc.errors import CompresscError, first_line
from compressc.frontend.inputs.arguments import Arguments
from compressc.frontend.origin import Origin
from compressc.frontend.precision import cast_inputs
from compressc.ir import Graph, dimension_symbols, random_inputs
from compressc.pipeline import Samples
from compressc.transplant.agreement import Inputs, check_agreement
from compressc.transplant.blocks import find_gaps, leave_out
from compressc.transplant.counts import Count, find_counts
from compressc.transplant.homes import find_homes, owners
from compressc.transplant.layers import put_layers
from compressc.transplant.rounding import between_layers

#: Combinations of attributes that are tried, where their names do not tell.
_MOST_TRIED = 24
#: Samples that the result is run on, and then half of them.
_SAMPLES = 8


def apply_to(
    graph: Graph,
    before: Graph,
    module: nn.Module,
    origin: Origin | None,
    samples: Samples | None = None,
) -> nn.Module:
    """A copy of a module that computes a graph made of it.

    Widths of layers follow the graph, and so do numbers that the modules keep beside them; factors
    become a small `nn.Sequential` in the place of a layer, layers with stored integers are put in
    as they are, a module that rounds goes around those that read or make rounded values, and blocks
    that are gone leave their list, or are passed by.

    Args:
        graph: what it has to compute.
        before: the graph of the module, that `graph` was made of.
        module: what `before` was traced from; not changed.
        origin: how its `forward` takes the graph's inputs; by position where it is None.
        samples: real inputs, that the result is run on; else those that the origin has, or random.

    Raises:
        CompresscError: CC507 with the place where the module cannot hold the graph, or computes
            something else.
    """
    call = Arguments(random_inputs(before), {}) if origin is None else origin.call
    batches = list(_batches(before, call, samples))
    first: CompresscError | None = None
    for made, layers in fitted(graph, before, module):
        try:
            check_agreement(made, graph, call, batches, layers)
        except CompresscError as error:
            first = first or error
            continue
        return made
    assert first is not None
    raise first


def _batches(graph: Graph, call: Arguments, samples: Samples | None) -> Iterator[Inputs]:
    """Inputs of the graph at two batch sizes."""
    inputs = call.tensors if samples is None else samples.take(_SAMPLES).inputs
    inputs = cast_inputs(graph, inputs)
    yield inputs
    rows = len(inputs[0]) if inputs and inputs[0].dim() else 0
    few = tuple(x[: rows // 2] if x.dim() and len(x) == rows else x for x in inputs)
    if rows > 1 and dimension_symbols(graph):
        yield few


def fitted(
    graph: Graph, before: Graph, module: nn.Module
) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Copies of a module with the layers of a graph, the likeliest first; none was run.

    Yields:
        Each copy, and the path of the module that computes the value of each op.

    Raises:
        CompresscError: CC507 where a layer has no place in the module.
    """
    homes = find_homes(before, module)
    layers = owners(before, module, homes)
    between = between_layers(graph, before, layers)
    graph = between.plain
    gaps = find_gaps(graph, before, module)
    counts = find_counts(before, graph, module)
    for values in islice(_choices(counts), _MOST_TRIED):
        for shorten in (True, False) if any(gap.listed for gap in gaps) else (True,):
            made = _copied(module)
            put_layers(graph, before, made, homes, layers)
            for count, value in zip(counts, values, strict=True):
                setattr(made.get_submodule(count.path), count.name, value)
            between.put(made)
            moved = leave_out(made, gaps, shorten=shorten)
            places = ((op, moved(path)) for op, path in layers.items())
            yield made, {op: path for op, path in places if path is not None}


def _choices(counts: Sequence[Count]) -> Iterator[list[int]]:
    """Values of all counts; attributes of one name and class change together."""
    kinds: dict[tuple[str, tuple[int, ...]], None] = {}
    keys = [(count.name, count.values) for count in counts]
    kinds.update(dict.fromkeys(keys))
    for picked in product(*(values for _, values in kinds)):
        value = dict(zip(kinds, picked, strict=True))
        yield [value[key] for key in keys]


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # the user's class may hold anything
        raise CompresscError(
            "CC507",
            "the module must be copied",
            got=first_line(error),
            where=type(module).__name__,
            hint="copy.deepcopy(module) must work",
        ) from error
