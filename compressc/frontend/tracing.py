"""A module in memory -> a verified graph that computes the same, as open as the model allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import sympy
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend.export import export_module
from compressc.frontend.faithful import check_faithful
from compressc.frontend.folding import fold_weights
from compressc.frontend.guards import check_guards
from compressc.frontend.importer import import_program
from compressc.frontend.inputs.arguments import Example, arguments_of
from compressc.frontend.inputs.specs import ConstantSpec, InputSpec
from compressc.ir import Graph, TensorType, symbol, verify
from compressc.ir.types import Size

Specs = Sequence[InputSpec | ConstantSpec]
Notes = tuple[str, ...]


def trace_graph(
    module: nn.Module, example: Example, specs: Specs, name: str
) -> tuple[Graph, Notes]:
    """Trace, raise, verify, and compare with the module.

    Some models compute with sizes what a trace cannot say for all of them (`ceil(s / 256)` blocks
    that were one when it looked). Then every dimension but the batch is closed at the example's
    size, and a note says so.

    Args:
        module: any module.
        example: its arguments.
        specs: where the tensors go, and which dimensions are open.
        name: what the graph prints as.

    Raises:
        CompresscError: CC202, CC204 from the trace, CC206 where it computes something else, CC401
            where it is true at no other size than the example's.
    """
    try:
        return _trace(module, example, specs, name)
    except CompresscError as error:
        closed, letters = _closed(specs, example)
        if error.code != "CC401" or not letters:
            raise
        graph, notes = _trace(module, example, closed, name)
        sizes = ", ".join(f"{letter} = {size}" for letter, size in letters.items())
        note = (
            f"the model's code does other things at other sizes, so these are fixed: {sizes}; "
            f"--input chooses them ({error.wanted})"
        )
        return graph, (note, *notes)


def _trace(module: nn.Module, example: Example, specs: Specs, name: str) -> tuple[Graph, Notes]:
    program = export_module(module, example, specs=specs)
    letters = [spec.type.shape for spec in specs if isinstance(spec, InputSpec)]
    graph = import_program(program, name, letters or _one_batch(example))
    check_guards(module, program, graph)
    folded = fold_weights(graph)
    verify(graph)
    return graph, (
        *check_faithful(module, program, graph),
        *folded,
        *fixed_dimensions(graph, letters),
    )


def _one_batch(example: Example) -> list[Sequence[Size]]:
    """Shapes that say that inputs with as many rows as the first one share its batch.

    Samples are of one length, also where the model itself would take others (`h.gather(1, at)`).
    """
    shapes = [tensor.shape for tensor in arguments_of(example).tensors]
    rows = next((shape[0] for shape in shapes if shape), None)
    return [(symbol("b"), *shape[1:]) if shape and shape[0] == rows else () for shape in shapes]


def fixed_dimensions(graph: Graph, shapes: Sequence[Sequence[Size]]) -> Iterator[str]:
    """Notes on dimensions that were to be open, and that the trace found to have one size."""
    for op, shape in zip(graph.inputs, shapes, strict=False):
        for wanted, size in zip(shape, graph.type_of(op.name).shape, strict=True):
            if isinstance(size, int) and not isinstance(wanted, int):
                yield (
                    f"dimension {wanted} of {op.name} is fixed at {size}: "
                    "the model's code takes no other"
                )


def _closed(specs: Specs, example: Example) -> tuple[Specs, dict[str, int]]:
    """The specs with every open dimension but the batch at the example's size; those sizes."""
    inputs = [spec for spec in specs if isinstance(spec, InputSpec)]
    batch = next((spec.type.shape[0] for spec in inputs if spec.type.shape), None)
    sizes: dict[Size, int] = {}
    if not inputs:
        return specs, {}
    for spec, tensor in zip(inputs, arguments_of(example).tensors, strict=True):
        sizes |= dict(zip(spec.type.shape, tensor.shape, strict=True))
    letters = {s: n for s, n in sizes.items() if isinstance(s, sympy.Symbol) and s != batch}

    def close(spec: InputSpec) -> InputSpec:
        shape = tuple(letters.get(size, size) for size in spec.type.shape)
        return replace(spec, type=TensorType(spec.type.dtype, shape))

    closed = [close(spec) if isinstance(spec, InputSpec) else spec for spec in specs]
    return closed, {str(letter): size for letter, size in letters.items()}
