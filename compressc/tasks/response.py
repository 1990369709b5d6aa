"""What each output of a model is, as far as its graph tells; and the value it is learned from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx
from torch import Tensor
from torch.nn import functional as F

from compressc.analysis.coverage import parameters_of
from compressc.errors import CompresscError
from compressc.ir import Graph, TensorType
from compressc.tasks.endings import Ending, find_ending
from compressc.tasks.heads import Head, find_head

#: `class_scores`: one class for each row. `independent_scores`: yes or no for each number.
#: `values`: numbers that are meant as such. `embedding`: vectors whose direction counts.
#: `ids`: integers.
Kind = Literal["class_scores", "independent_scores", "values", "embedding", "ids"]

#: What a chance of one half becomes.
_THRESHOLDS = {"sigmoid": 0.5, "log_sigmoid": math.log(0.5)}


@dataclass(frozen=True)
class Response:
    """One output of a model.

    Attributes:
        index: its place among the flattened outputs; a pass may rename an output, not move it.
        name: what a user calls it: its key where the model returns a dict, else the op's name.
        kind: what the output is.
        dim: its dimension of classes or features; None for one number in each position.
        ending: what the model does to it last (softmax, sigmoid, normalize, argmax, ...), or "".
        learned: what the value before the ending is, the one that is learned from; see `value_in`.
        value_dim: its dimension of classes or features.
        threshold: of single numbers, the one above which the answer is yes.
        trained: whether anything that the model has learned has a part in it.
    """

    index: int
    name: str
    kind: Kind
    dim: int | None
    ending: str
    learned: Kind
    value_dim: int | None
    threshold: float = 0.0
    trained: bool = True

    def value_in(self, graph: Graph) -> str:
        """The name of the value that is learned, in the teacher's graph or a student's.

        It is the one before a final softmax, sigmoid, norm or argmax; the output where it has none.

        Raises:
            CompresscError: CC301 where the graph ends otherwise than the teacher.
        """
        output = graph.output_names[self.index]
        if not self.ending:
            return output
        ending = find_ending(graph, output)
        if ending.name != self.ending:
            raise CompresscError(
                "CC301",
                f"output '{self.name}' ends as the teacher's does: {self.ending}",
                got=ending.name or "no such ending",
                where=f"%{output}",
            )
        return ending.value

    def rows(self, value: Tensor) -> Tensor:
        """The learned value `[b, ...]` as rows `[n, v]`; the class dimension goes last."""
        return as_rows(value, self.value_dim)

    def finish(self, value: Tensor) -> Tensor:
        """The output that a learned value `[b, ...]` becomes by its ending."""
        dim = self.value_dim if self.value_dim is not None else -1
        if self.ending in ("softmax", "log_softmax"):
            logs = value.log_softmax(dim)
            return logs.exp() if self.ending == "softmax" else logs
        if self.ending in ("sigmoid", "log_sigmoid"):
            return value.sigmoid() if self.ending == "sigmoid" else F.logsigmoid(value)
        if self.ending == "normalize":
            return F.normalize(value, dim=dim)
        if self.ending == "argmax":
            return value.argmax(dim)
        return (value > 0).to(value.dtype) if self.ending == "threshold" else value

    def answers(self, output: Tensor) -> Tensor:
        """What an output `[b, ...]` chooses in each row or position, i64, flat.

        The best class, the integer itself, or whether a number is above the threshold.
        """
        if self.kind == "class_scores":
            return as_rows(output, self.dim).argmax(-1)
        if self.kind == "ids":
            return output.long().flatten()
        return (output > self.threshold).long().flatten()


def as_rows(value: Tensor, dim: int | None) -> Tensor:
    """`[b, ...]` as `[n, v]` with the dimension `dim` last; `[n, 1]` where there is none."""
    return value.reshape(-1, 1) if dim is None else value.movedim(dim, -1).flatten(0, -2)


def find_responses(graph: Graph) -> list[Response]:
    """Every output with one row for each sample, in order; empty where there is none."""
    batch = _batch_size(graph)
    found = []
    for index, (name, op) in enumerate(named_outputs(graph.outputs)):
        type_ = graph[op].type
        if isinstance(type_, TensorType) and type_.shape and type_.shape[0] == batch:
            found.append(_response(graph, index, name, op))
    return found


def named_outputs(outputs: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name for the user, op) of every returned value, flattened in order."""
    if isinstance(outputs, Mapping):
        for key, item in outputs.items():
            yield from named_outputs(item, f"{prefix}{key}")
    elif isinstance(outputs, tuple | list):
        for place, item in enumerate(outputs):
            yield from named_outputs(item, f"{prefix}.{place}" if prefix else "")
    elif hasattr(outputs, "name"):
        yield prefix or outputs.name, outputs.name


def _batch_size(graph: Graph) -> Any:
    sizes = [
        op.type.shape[0] for op in graph.inputs if isinstance(op.type, TensorType) and op.type.shape
    ]
    return sizes[0] if sizes else None


def _response(graph: Graph, index: int, name: str, op: str) -> Response:
    ending = find_ending(graph, op)
    type_, before = graph.type_of(op), graph.type_of(ending.value)
    kind, dim = _ended(ending, type_) or _bare(graph, op)
    learned, value_dim = kind, dim
    if ending.name:
        learned, value_dim = _learned(ending, before)
    threshold = _THRESHOLDS.get(ending.name, 0.0)
    sources = {op, *nx.ancestors(graph.dag, op)}
    trained = any(parameters_of(graph[each]) for each in sources)
    return Response(index, name, kind, dim, ending.name, learned, value_dim, threshold, trained)


def _ended(ending: Ending, type_: TensorType) -> tuple[Kind, int | None] | None:
    """Kind and dimension of an output that ends in something telling."""
    if not type_.dtype.is_floating_point:
        return "ids", None
    if ending.name in ("softmax", "log_softmax"):
        return "class_scores", ending.dim
    if ending.name in _THRESHOLDS:
        return "independent_scores", _feature_dim(type_)
    if ending.name == "normalize":
        return "embedding", ending.dim
    return None


def _learned(ending: Ending, before: TensorType) -> tuple[Kind, int | None]:
    """Kind and dimension of the value before an ending."""
    if ending.name == "normalize":
        return "embedding", ending.dim
    if ending.name in (*_THRESHOLDS, "threshold"):
        return "independent_scores", _feature_dim(before)
    return "class_scores", ending.dim


def _feature_dim(type_: TensorType) -> int | None:
    """Classes are last, or second for images; no dimension where there is one number."""
    rank = len(type_.shape)
    if rank < 2 or (type_.shape[-1] == 1 and rank < 4):
        return None
    return 1 if rank >= 4 else rank - 1


def _bare(graph: Graph, op: str) -> tuple[Kind, int | None]:
    """Kind and dimension of a float output, by what it is computed with.

    Only labels can tell class scores from other numbers; without them this is the likeliest.
    """
    type_ = graph.type_of(op)
    dim, head = _feature_dim(type_), find_head(graph, op)
    if head.width == 1:
        dim = None  # one number for each position, whatever the last dimension counts
    if dim is None or head.kind == "other":
        return "values", dim
    if head.kind == "hidden":
        return "embedding", dim
    if _like_an_input(graph, type_):
        return "values", dim
    return "class_scores", _class_dim(type_, head, dim)


def _class_dim(type_: TensorType, head: Head, default: int) -> int:
    """The dimension as wide as what the last layer puts out; its own place where two are."""
    last = len(type_.shape) - 1
    fits = [dim for dim in (last, 1) if type_.shape[dim] == head.width]
    if len(set(fits)) == 1:
        return fits[0]
    return 1 if head.channels_first and fits else default


def _like_an_input(graph: Graph, type_: TensorType) -> bool:
    """Whether an input is put out again: of the same shape, or an image with as many channels.

    So do networks that restore, enlarge or predict what they see; classes are rarely as many.
    """

    def like(given: object) -> bool:
        if not isinstance(given, TensorType) or not given.dtype.is_floating_point:
            return False
        images = len(given.shape) == len(type_.shape) >= 4
        return given.shape == type_.shape or (images and given.shape[1] == type_.shape[1])

    return any(like(op.type) for op in graph.inputs)
