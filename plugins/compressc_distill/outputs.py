"""Which output of a model is distilled, and how its rows line up with the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir import Graph, TensorType

#: Label of a row that has none, as in torch's cross entropy.
NO_LABEL = -100


def logits_name(graph: Graph) -> str:
    """The value that is distilled: the first returned float tensor of rank 2 or more.

    Raises:
        CompresscError: CC301 where the model returns none.
    """
    for name in graph.output_names:
        type_ = graph[name].type
        if isinstance(type_, TensorType) and type_.dtype.is_floating_point and len(type_.shape) > 1:
            return name
    raise CompresscError(
        "CC301",
        "'distill' needs an output of floats with a batch and a class dimension",
        got=", ".join(str(graph[name].type) for name in graph.output_names),
    )


@dataclass(frozen=True)
class Rows:
    """How logits become rows of class scores.

    Attributes:
        class_dim: the dimension that holds the classes.
        per_position: whether labels are given for positions, not for samples.
    """

    class_dim: int
    per_position: bool = False

    @staticmethod
    def fit(logits: Tensor, labels: Tensor | None) -> Rows:
        """Find the class dimension: the last, or the second of images of logits `[b, v, h, w]`.

        Args:
            logits: `[b, ..., v]` or `[b, v, h, w]`.
            labels: one for each row of class scores; None where there are none.

        Raises:
            CompresscError: CC301 where the labels fit neither.
        """
        last = logits.ndim - 1
        if labels is None:
            return Rows(1 if logits.ndim == 4 else last)
        for dim in (last, 1):
            if labels.shape == logits.shape[:dim] + logits.shape[dim + 1 :]:
                return Rows(dim, per_position=labels.ndim > 1)
        raise CompresscError(
            "CC301",
            f"logits {list(logits.shape)} need one label for each row of scores",
            got=f"labels {list(labels.shape)}",
            hint="without labels, distillation is by the teacher's answers alone",
        )

    def split(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Student and teacher logits `[n, v]` and labels `[n]`, leading dimensions flattened.

        Positions labelled -100 (padding, say) are left out; a *sample* labelled -100 is merely one
        whose class nobody knows: the teacher's answer to it still teaches.
        """
        ours, theirs = (x.movedim(self.class_dim, -1).flatten(0, -2) for x in (student, teacher))
        if labels is None:
            return ours, theirs, None
        labels = labels.flatten()
        if not self.per_position:
            return ours, theirs, labels
        known = torch.nonzero(labels != NO_LABEL).squeeze(1)
        return ours[known], theirs[known], labels[known]
