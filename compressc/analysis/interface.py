"""Whether one model can stand for another: it takes and gives the same."""

from __future__ import annotations

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.ir.ops import refs_of


def require_alike(  # noqa: PLR0913  (two models, and what an error says of them)
    made: Graph, graph: Graph, code: str, where: str, *, who: str, whose: str
) -> None:
    """See that a model has the inputs and outputs of another, and takes all sizes that it does.

    Args:
        made: the model.
        graph: the other one.
        code: of the error.
        where: the first one came from.
        who, whose: what both are: `a student`, `its teacher`.

    Raises:
        CompresscError: of that code, with what is wanted and what there is.
    """
    for what, got, wanted in (
        ("take", _inputs(made), _inputs(graph)),
        ("give", _outputs(made), _outputs(graph)),
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


def _outputs(graph: Graph) -> str:
    return ", ".join(str(graph[ref.name].type) for ref in refs_of(graph.outputs))
