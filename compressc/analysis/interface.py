"""Whether one model can stand for another: it takes and gives the same."""

from __future__ import annotations

from dataclasses import replace

import sympy

from compressc.errors import CompresscError
from compressc.ir import Graph, TensorType
from compressc.ir.ops import refs_of


def require_alike(  # noqa: PLR0913  (two models, and what an error says of them)
    made: Graph,
    graph: Graph,
    code: str,
    where: str,
    *,
    who: str,
    whose: str,
    but: tuple[int, int] | None = None,
) -> None:
    """See that a model has the inputs and outputs of another, and takes all sizes that it does.

    Args:
        made: the model.
        graph: the other one.
        code: of the error.
        where: the first one came from.
        who, whose: what both are: `a student`, `its teacher`.
        but: an output by its place, and its dimension, that may be of another size.

    Raises:
        CompresscError: of that code, with what is wanted and what there is.
    """
    for what, got, wanted in (
        ("take", _inputs(made), _inputs(graph)),
        ("give", _outputs(made, but), _outputs(graph, but)),
    ):
        if got != wanted:
            text = f"{who} must {what} what {whose} does: {wanted}"
            raise CompresscError(code, text, got=got, where=where)
    for name, (least, most) in made.limits.items():
        first, last = graph.limits.get(name, (1, None))
        if least > first or (most is not None and (last is None or most < last)):
            wanted = f"{who} must take the sizes that {whose} does: {name} {first} to "
            wanted += "any" if last is None else str(last)
            got = f"{least} to {'any' if most is None else most}"
            raise CompresscError(code, wanted, got=got, where=where)


def _inputs(graph: Graph) -> str:
    return ", ".join(str(op.type) for op in graph.inputs)


def _outputs(graph: Graph, but: tuple[int, int] | None) -> str:
    types = [graph[ref.name].type for ref in refs_of(graph.outputs)]
    if but is not None and but[0] < len(types):
        type_ = types[but[0]]
        if isinstance(type_, TensorType) and -len(type_.shape) <= but[1] < len(type_.shape):
            shape = list(type_.shape)
            shape[but[1]] = sympy.Symbol("any")
            types[but[0]] = replace(type_, shape=tuple(shape))
    return ", ".join(map(str, types))
