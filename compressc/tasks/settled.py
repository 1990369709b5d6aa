"""What a model is for: which output is judged, what is learned from it, and what labels mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from compressc.data.checks import NO_LABEL
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.tasks.response import Kind, Response


@dataclass(frozen=True)
class SettledTask:
    """What is learned and judged, settled once before any pass runs; see `settle`.

    Attributes:
        judged: the output that scores are about.
        responses: every output with a row for each sample, the judged one among them.
        labels: whether labels can be used, to learn from and to judge by.
        per_position: whether there is a label for each position of a sample (pixels, tokens).
        signs: whether the judged values fall on both sides of zero, so that they may be answers of
            yes and no.
        reason: one sentence for the report: why this output, and why these labels or none.
        warnings: what the user should know before trusting a figure, one sentence each.
    """

    judged: Response
    responses: tuple[Response, ...]
    labels: bool = False
    per_position: bool = False
    signs: bool = False
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

    def cache_key(self) -> dict[str, Any]:
        """What the result of a pass that learns depends on."""
        return {
            "judged": asdict(self.judged),
            "responses": [asdict(response) for response in self.responses],
            "labels": self.labels,
            "per_position": self.per_position,
        }

    def judging(self, run: Callable[..., object]) -> Callable[..., Tensor]:
        """A model or a file as a callable that returns the judged output alone."""
        return lambda *inputs: self.pick(run(*inputs))

    def pick(self, outputs: object) -> Tensor:
        """The judged output of what a model or a file returned.

        Raises:
            CompresscError: CC301 where it returned fewer tensors.
        """
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if self.index < len(tensors):
            return tensors[self.index]
        got = f"{len(tensors)} tensors" if tensors else type(outputs).__name__
        raise CompresscError("CC301", f"a model returns output '{self.output}'", got=got)

    def value_in(self, graph: Graph) -> str:
        """Name of the value that is learned; see `Response.value_in`."""
        return self.judged.value_in(graph)

    def split(
        self, values: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Learned values `[b, ...]` as rows `[n, v]`, and what the labels say of each row.

        Labels become i64[n] for class scores (`NO_LABEL` where a row has none), else f[n, v].
        Positions labelled `NO_LABEL` (padding, say) are left out; a *sample* labelled so is merely
        one whose class nobody knows: the teacher's answer to it still teaches.
        """
        rows = [self.judged.rows(value) for value in values]
        if labels is None or not self.labels:
            return rows, None
        if self.judged.learned != "class_scores":
            return rows, labels.reshape(rows[0].shape)
        labels = labels.flatten()
        if not self.per_position:
            return rows, labels
        known = torch.nonzero(labels != NO_LABEL).squeeze(1)
        return [x[known] for x in rows], labels[known]

    def supervised_loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of rows `[n, v]` against labels, both of `split`; 0 where nothing is labelled.

        Cross entropy for class scores, binary cross entropy for independent scores, the mean
        squared error for values.
        """
        known = torch.ones_like(labels).bool()
        if self.judged.learned != "values" or not labels.is_floating_point():
            known = labels != NO_LABEL  # as a float, -100 may be any measurement
        if not bool(known.any()):
            return rows.sum() * 0.0
        if self.judged.learned == "class_scores":
            return F.cross_entropy(rows, labels, ignore_index=NO_LABEL)
        rows, wanted = rows[known], labels[known].to(rows.dtype)
        if self.judged.learned == "independent_scores":
            return F.binary_cross_entropy_with_logits(rows, wanted)
        return F.mse_loss(rows, wanted)

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
