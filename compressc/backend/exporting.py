"""Graph -> exported program with open dimensions: what every emitted format starts from."""

from __future__ import annotations

import re

import torch

from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.ir.recurrent import whole_sequences
from compressc.quiet import quiet

#: Sizes 0 and 1 are constants to torch.export, and so would the open batch be.
_LEAST_BATCH = 3
#: How terminals are told colours, which some libraries write into their errors.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def export_graph(graph: Graph, example: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The graph as a `torch.export` program, open where the graph's input types are.

    Args:
        graph: a well-formed graph.
        example: inputs [n, ...]; few samples are repeated, for one sample would fix the batch.

    Raises:
        CompresscError: CC503 where torch.export fails or fixes a dimension that the graph leaves
            open.
    """
    inputs = tuple(_enlarged(tensor) for tensor in example)
    shapes = [graph.type_of(op.name).shape for op in graph.inputs]
    automatic = torch.export.Dim.AUTO  # equal symbols of several inputs are found by the tracer
    dynamic = tuple(
        {dim: automatic for dim, size in enumerate(shape) if not isinstance(size, int)}
        for shape in shapes
    )
    try:
        with quiet(), whole_sequences(), torch.no_grad():
            program = torch.export.export(
                lower(graph), inputs, dynamic_shapes=dynamic, strict=False
            )
    except Exception as error:  # torch.export has no exception type of its own
        raise unwritable("torch.export", error) from error
    _check_open(graph, program)
    return program


def _enlarged(tensor: torch.Tensor) -> torch.Tensor:
    repeats = -(-_LEAST_BATCH // len(tensor))
    return tensor.repeat(repeats, *[1] * (tensor.dim() - 1)) if repeats > 1 else tensor[:8]


def _check_open(graph: Graph, program: torch.export.ExportedProgram) -> None:
    users = set(program.graph_signature.user_inputs)
    values = [
        n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in users
    ]
    for op, value in zip(graph.inputs, values, strict=True):
        for dim, size in enumerate(graph.type_of(op.name).shape):
            if not isinstance(size, int) and not _is_open(value.shape[dim]):
                raise CompresscError(
                    "CC503",
                    f"dimension {dim} of input '%{op.name}' must stay open",
                    got=f"torch.export fixed it at {value.shape[dim]}",
                    where=graph.name,
                )


def _is_open(size: int | torch.SymInt) -> bool:
    """A size that the trace fixed is still a SymInt, of a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def unwritable(what: str, error: BaseException) -> CompresscError:
    """CC503 with what a library's error says of the cause."""
    return CompresscError(
        "CC503",
        f"{what} cannot write this graph",
        got=f"{type(error).__name__}: {_cause(error)[:200]}",
        hint="choose another format with --emit",
    )


#: Words that name the op or the reason, the most telling first: reports of exporters begin with
#: where in their own source they failed.
_TELLING = ("when translating node", "unsupported", "no conversion rule", "conversion is failed")


def _cause(error: BaseException) -> str:
    """The line that tells most, of an error and of those that it came from; else the first."""
    texts: list[str] = []
    at: BaseException | None = error
    while at is not None:
        texts.append(_COLOURS.sub("", str(at)))
        at = at.__cause__
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    found = (line for words in _TELLING for line in lines if words in line.lower())
    return next(found, lines[0] if lines else "")
