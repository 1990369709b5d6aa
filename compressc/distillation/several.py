"""Several teachers that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressc.distillation.teacher import Answering, Answers
from compressc.tasks import Response
from compressc.training import Drawn

#: What several teachers say together: of their answers `[b, ...]` to the judged output, and what
#: that output is.
Rule = Callable[[Sequence[Tensor], Response], Tensor]


def mean(answers: Sequence[Tensor], response: Response) -> Tensor:
    """The mean of the answers as they are: of class scores the mean of the logits.

    Its softmax at any temperature is the geometric mean of the teachers' distributions at that
    temperature, normalized (Hinton, Vinyals and Dean 2015, section 1).
    """
    return torch.stack(list(answers)).mean(0)


@dataclass
class Several:
    """What several teachers answer together, and how many of them agree.

    Outputs that are not judged are meant over.

    Attributes:
        members: the teachers.
        judged: the output that the rule is about.
        rule: makes one answer of theirs.
        inner: who answers where inner values are asked for; None where none are.
    """

    members: Sequence[Answering]
    judged: Response
    rule: Rule = mean
    inner: Answering | None = None

    def answers(self, batch: Drawn) -> Answers:
        """Answers to the samples of a batch."""
        each = [member.answers(batch) for member in self.members]
        first, *others = zip(*(one.learned for one in each), strict=True)
        together = self.rule(first, self.judged)
        learned = (together, *(torch.stack(values).mean(0) for values in others))
        base = each[0] if self.inner is None else self.inner.answers(batch)
        known = min((one.known for one in each if one.known is not None), default=None)
        alike = self._agreement(first, together)
        return replace(base, learned=learned, agreement=alike, known=known)

    def close(self) -> None:
        """Let go of what is kept of any of them."""
        for one in (*self.members, *([self.inner] if self.inner is not None else [])):
            one.close()

    def _agreement(self, answers: Sequence[Tensor], together: Tensor) -> Tensor | None:
        """See `Answers.agreement`."""
        dim = self.judged.value_dim
        if self.judged.learned != "class_scores" or dim is None:
            return None
        best = together.argmax(dim, keepdim=True)
        alike = [x.argmax(dim, keepdim=True) == best for x in answers]
        return torch.stack(alike).to(together.dtype).mean(0)
