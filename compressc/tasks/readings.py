"""The outputs that may be judged, and how each may be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.plugins import nearest
from compressc.tasks.known import infer
from compressc.tasks.response import Kind, Response
from compressc.tasks.rows import RowTask
from compressc.tasks.settled import SettledTask

_TITLES: dict[Kind, str] = {
    "class_scores": "class scores",
    "independent_scores": "independent scores",
    "values": "values",
    "embedding": "an embedding",
    "ids": "ids",
}


@dataclass(frozen=True)
class Readings:
    """What a task is settled among.

    Attributes:
        graph: the teacher.
        responses: every output with a row for each sample.
        output: the one that the user named, or None.
        task: the task that the user named, or None.
    """

    graph: Graph
    responses: Sequence[Response]
    output: str | None = None
    task: RowTask | None = None

    @property
    def candidates(self) -> list[Response]:
        """The outputs that may be judged: all, or the one that was named.

        Raises:
            CompresscError: CC301 where there is no output of that name.
        """
        return named_output(self.responses, self.output)

    def shape(self, response: Response) -> Sequence[Any]:
        """Sizes of an output; open ones are no numbers."""
        return self.graph.type_of(self.graph.output_names[response.index]).shape

    def reread(self, response: Response, output: Tensor | None = None) -> Response | None:
        """An output as the named task reads it, or None where it cannot be.

        Args:
            response: as the graph or the labels have it.
            output: what the teacher puts out, where it was asked.
        """
        task = self.task
        if task is None or task.takes(response, self.shape(response)):
            return response
        kind = task.answers[0]
        if response.ending or response.kind == "ids" or (kind != "values" and response.dim is None):
            return None
        chances = output is not None and bool(((output >= 0) & (output <= 1)).all())
        again = replace(
            response,
            kind=kind,
            learned=kind,
            value_dim=response.dim,
            threshold=0.5 if chances and kind == "independent_scores" else 0.0,
        )
        return again if task.takes(again, self.shape(again)) else None

    def settled(self, best: Response, **more: Any) -> SettledTask:
        """The task with that output judged."""
        return SettledTask(
            self.task or infer(best, self.shape(best)),
            best,
            tuple(best if r.index == best.index else r for r in self.responses),
            inputs=tuple(op.name for op in self.graph.inputs),
            named=self.task is not None,
            **more,
        )

    def misfit(self, got: str) -> CompresscError:
        """The named task cannot be this model's with these data."""
        assert self.task is not None
        return CompresscError(
            "CC301",
            f"task '{self.task.name}' judges {titled(self.task.answers[0])}; its targets are "
            f"{self.task.targets}",
            got=got,
            hint="name another task, or none: it is inferred then",
        )


def named_output(responses: Sequence[Response], output: str | None) -> list[Response]:
    """The outputs of that name; all where none is given.

    Raises:
        CompresscError: CC301 where there is no output of that name.
    """
    if output is None:
        return list(responses)
    names = [r.name for r in responses]
    if output not in names:
        raise CompresscError(
            "CC301",
            f"the output to judge is one of {', '.join(names)}",
            got=repr(output),
            hint=f"{_near(output, names)}outputs have the names of the graph's text, or their keys",
        )
    return [r for r in responses if r.name == output]


def _near(output: str, names: Sequence[str]) -> str:
    hint = nearest(output, names)
    return f"{hint} " if hint.startswith("did you mean") else ""


def titled(kind: Kind) -> str:
    """A kind in words."""
    return _TITLES[kind]
