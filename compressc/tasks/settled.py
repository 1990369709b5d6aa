"""What is settled of a task before any pass runs: which output is judged, what labels mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from compressc.data.checks import NO_LABEL
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.tasks.known import of_kind
from compressc.tasks.language_model import MASK
from compressc.tasks.metric import AGREEMENT
from compressc.tasks.response import Kind, Response
from compressc.tasks.rows import RowTask
from compressc.tasks.task import Task


@dataclass(frozen=True)
class SettledTask:
    """What is learned and judged, settled once before any pass runs; see `settle`.

    Attributes:
        task: the plugin that knows the loss and the scores.
        judged: the output that scores are about.
        responses: every output with a row for each sample, the judged one among them.
        labels: whether labels can be used, to learn from and to judge by.
        per_position: whether there is a label for each position of a sample (pixels, tokens).
        signs: whether the judged values fall on both sides of zero, so that they may be answers of
            yes and no.
        inputs: names of the model's inputs, in order.
        shifted: whether labels are the ids of the same positions, and the next ones are wanted.
        named: whether the user named the task.
        reason: one sentence for the report: why this output, and why these labels or none.
        warnings: what the user should know before trusting a figure, one sentence each.
    """

    task: Task
    judged: Response
    responses: tuple[Response, ...]
    labels: bool = False
    per_position: bool = False
    signs: bool = False
    inputs: tuple[str, ...] = ()
    shifted: bool = False
    named: bool = False
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """Name of the judged output."""
        return self.judged.name

    @property
    def index(self) -> int:
        """Place of the judged output among the flattened outputs."""
        return self.judged.index

    @property
    def kind(self) -> Kind:
        """What the judged output is."""
        return self.judged.kind

    @property
    def others(self) -> tuple[Response, ...]:
        """The outputs that are not judged."""
        return tuple(r for r in self.responses if r.index != self.index)

    @property
    def learned(self) -> tuple[Response, ...]:
        """The outputs that can be learned: the judged one first, and the others.

        But for integers, and what no weight has a part in: an input that is handed through.
        """
        return (self.judged, *(r for r in self.others if r.learned != "ids" and r.trained))

    @property
    def answers(self) -> bool:
        """Whether the judged output chooses: classes, yes or no, integers."""
        return self.kind in AGREEMENT and (self.kind != "values" or self.signs)

    def cache_key(self) -> dict[str, Any]:
        """What the result of a pass that learns depends on."""
        return {
            "task": self.task.cache_key(),
            "judged": asdict(self.judged),
            "responses": [asdict(response) for response in self.responses],
            "labels": self.labels,
            "per_position": self.per_position,
            "shifted": self.shifted,
        }

    def outputs(self, returned: object) -> dict[str, Tensor]:
        """What scores read of what a model or a file returned, `[b, ...]` each, by name.

        Raises:
            CompresscError: CC301 where it returned fewer tensors.
        """
        if self.by_rows:
            return {self.output: _at(returned, self.judged)}
        return {response.name: _at(returned, response) for response in self.responses}

    def value_in(self, graph: Graph) -> str:
        """Name of the value that is learned; see `Response.value_in`."""
        return self.judged.value_in(graph)

    def values_in(self, graph: Graph) -> list[str]:
        """Names of the values that `loss` takes, in its order."""
        wanted = (self.judged,) if self.by_rows else self.learned
        return [response.value_in(graph) for response in wanted]

    def targets(self, inputs: Sequence[Tensor], labels: Any) -> Any:
        """What a batch is to be held against: its labels, or what its inputs say; None for nothing.

        Args:
            inputs: of the model, `[b, ...]` each.
            labels: as the data have them, or None.
        """
        if not self.labels:
            return None
        if isinstance(self.task, RowTask):
            return self.task.labels(self, dict(zip(self.inputs, inputs, strict=False)), labels)
        return labels

    def valid(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Which positions are no padding, bool `[b, s]`; None where no input says so.

        Args:
            inputs: of the model, `[b, ...]` each.
        """
        mask = dict(zip(self.inputs, inputs, strict=False)).get(MASK)
        return mask != 0 if mask is not None and mask.ndim == 2 else None

    def split(self, values: Sequence[Tensor], labels: Any) -> tuple[list[Tensor], Tensor | None]:
        """Learned values `[b, ...]` as rows `[n, v]`, and what the labels say of each row.

        Labels become i64[n] for class scores (`NO_LABEL` where a row has none), else f[n, v].
        Positions labelled `NO_LABEL` (padding, say) are left out; a *sample* labelled so is merely
        one whose class nobody knows: the teacher's answer to it still teaches. Labels that are no
        answers of rows, as those of a detector, say nothing of them.
        """
        rows = [self.judged.rows(value) for value in values]
        if labels is None or not self.labels or not self.by_rows:
            return rows, None
        if self.judged.learned != "class_scores":
            return rows, labels.reshape(rows[0].shape)
        labels = labels.flatten()
        if not self.per_position:
            return rows, labels
        known = torch.nonzero(labels != NO_LABEL).squeeze(1)
        return [x[known] for x in rows], labels[known]

    def loss(self, values: Sequence[Tensor], targets: Any) -> Tensor:
        """Scalar loss of a batch by its targets; by the model's own answers where it has none.

        Args:
            values: of `values_in`, `[b, ...]` each.
            targets: of `targets`.
        """
        if targets is None or not self.labels:
            return self.own_loss(self.judged.rows(values[0]))
        return self.task.loss(self, self.named_values(values), targets)

    def named_values(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Learned values by the names of their outputs, in the order of `learned`."""
        return {r.name: value for r, value in zip(self.learned, values, strict=False)}

    def supervised_loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of rows `[n, v]` against labels, both of `split`; see `RowTask.row_loss`."""
        assert isinstance(self.task, RowTask)
        return self.task.row_loss(self, rows, labels)

    @property
    def by_rows(self) -> bool:
        """Whether targets are answers of the rows of the judged output."""
        return isinstance(self.task, RowTask)

    @property
    def cross_entropy(self) -> bool:
        """Whether the loss by labels is plain cross entropy, as a fused kernel computes it."""
        plain = isinstance(self.task, RowTask) and type(self.task).row_loss is RowTask.row_loss
        return plain and self.judged.learned == "class_scores"

    def own_loss(self, rows: Tensor) -> Tensor:
        """A loss without labels, whose gradient says what the answers in the rows depend on.

        Cross entropy with the model's own choice for scores; half the mean square for the others,
        since the difference from its own value has no gradient.
        """
        if self.judged.learned == "class_scores" and rows.shape[-1] > 1:
            return F.cross_entropy(rows, rows.detach().argmax(-1))
        if self.judged.learned == "independent_scores":
            chosen = (rows.detach() > 0).to(rows.dtype)
            return F.binary_cross_entropy_with_logits(rows, chosen)
        return rows.pow(2).mean() / 2

    def read_values(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Learned values as what `of_values` scores, by name.

        A task by rows judges the value itself; any other gets outputs, with the final softmax,
        sigmoid or norm that the model has.
        """
        if self.by_rows:
            return {self.output: values[0]}
        wanted = zip(self.learned, values, strict=False)
        return {response.name: response.finish(value) for response, value in wanted}

    def of_values(self) -> SettledTask:
        """The task as if the value that is learned were the judged output; see `read_values`."""
        judged = self.judged
        if not self.by_rows:
            return self
        # chances are no labels of yes and no
        labels = self.labels and judged.kind in (judged.learned, "ids")
        kind, dim = judged.learned, judged.value_dim
        plain = replace(judged, kind=kind, dim=dim, ending="", threshold=0.0)
        task = self.task if kind in getattr(self.task, "answers", ()) else of_kind(kind)
        return replace(self, task=task, judged=plain, labels=labels)


def _at(returned: object, response: Response) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)]
    if response.index < len(tensors):
        return tensors[response.index]
    got = f"{len(tensors)} tensors" if tensors else type(returned).__name__
    raise CompresscError("CC301", f"a model returns output '{response.name}'", got=got)


def by_name(outputs: Mapping[str, Tensor]) -> str:
    """Names and shapes for an error: `'boxes' [8, 4, 5, 5]`."""
    return ", ".join(f"'{name}' {list(x.shape)}" for name, x in outputs.items())
