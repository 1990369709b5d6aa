"""Accumulated scores of numbers and vectors: R^2, mean error, cosine, retrieval, perplexity.

All but retrieval keep sums alone, in float64: in float32 a sum of many terms stands still.
"""

from __future__ import annotations

import math

import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F

from compressc.data.checks import NO_LABEL
from compressc.tasks.response import Response, as_rows

#: Vectors that retrieval looks among: all of a large test set would be too many to hold.
GALLERY = 2048


class Errors(torchmetrics.Metric):
    """Numbers against numbers; `update(output, wanted)`, both `[b, ...]`.

    Integer labels of `NO_LABEL` are none; as a float, -100 may be any measurement.
    """

    full_state_update = False
    count: Tensor
    shift: Tensor
    sum: Tensor
    squares: Tensor
    error: Tensor
    absolute: Tensor

    def __init__(self, response: Response) -> None:
        super().__init__(sync_on_compute=False)
        self.response = response
        #: By feature: how many there are, a shift near their mean, sums of (label - shift).
        for name in ("count", "shift", "sum", "squares", "error", "absolute"):
            self.add_state(name, torch.zeros(0, dtype=torch.float64), None)

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Add a batch."""
        ours, theirs = (
            as_rows(x.reshape(output.shape).cpu().double(), self.response.dim)
            for x in (output, wanted)
        )
        known = torch.ones_like(theirs).bool() if wanted.is_floating_point() else theirs != NO_LABEL
        if not len(self.count):
            for name in ("count", "sum", "squares", "error", "absolute"):
                setattr(self, name, torch.zeros(theirs.shape[1], dtype=torch.float64))
            self.shift = torch.full((theirs.shape[1],), math.nan, dtype=torch.float64)
        # the first number there is: what never varies is then exactly 0 away from it
        first = theirs.gather(0, known.int().argmax(0, keepdim=True))[0]
        first = torch.where(known.any(0), first, math.nan)
        self.shift = torch.where(self.shift.isnan(), first, self.shift)
        away = torch.where(known, theirs - self.shift, 0.0)
        error = torch.where(known, ours - theirs, 0.0)
        self.count += known.sum(0)
        self.sum += away.sum(0)
        self.squares += away.square().sum(0)
        self.error += error.square().sum(0)
        self.absolute += error.abs().sum(0)

    def compute(self) -> dict[str, float]:
        """R^2 as `r2` and `teacher_r2`: 1 - squared error / variance, both summed over features.

        -inf where a number is not finite, NaN where what is wanted does not vary. And `mae`.
        """
        total = float(self.count.sum())
        error, spread = float(self.error.sum()), float(self._spread().sum())
        score = 1 - error / spread if spread > 0 else math.nan
        if spread > 0 and not math.isfinite(error):
            score = -math.inf
        mae = float(self.absolute.sum()) / total if total else math.nan
        finite = math.isfinite(error) or not total
        return {"r2": score, "teacher_r2": score, "mae": mae if finite else math.inf}

    def constant(self) -> dict[str, float]:
        """The mean explains nothing."""
        return {"r2": 0.0, "teacher_r2": 0.0} if float(self._spread().sum()) > 0 else {}

    def _spread(self) -> Tensor:
        return (self.squares - self.sum.square() / self.count.clamp_min(1)).clamp_min(0)


class Cosines(torchmetrics.Metric):
    """Mean cosine of the angle between rows; a row that is not finite counts as 0."""

    full_state_update = False
    cosines: Tensor
    rows: Tensor
    directions: Tensor

    def __init__(self, response: Response) -> None:
        super().__init__(sync_on_compute=False)
        self.response = response
        self.add_state("cosines", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("rows", torch.zeros((), dtype=torch.float64), "sum")
        #: Of the unit vectors that are wanted.
        self.add_state("directions", torch.zeros(0, dtype=torch.float64), None)

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Add a batch of outputs `[b, ...]` and the wanted ones."""
        ours, theirs = (unit(as_rows(x.cpu(), self.response.dim)) for x in (output, wanted))
        self.cosines += (ours * theirs).sum()
        self.rows += len(ours)
        total = theirs.sum(0)
        self.directions = total if not len(self.directions) else self.directions + total

    def compute(self) -> dict[str, float]:
        """In -1..1."""
        return {"cosine": float(self.cosines / self.rows)}

    def constant(self) -> dict[str, float]:
        """That of the mean direction."""
        return {"cosine": float((self.directions / self.rows).norm())}


class Retrieval(torchmetrics.Metric):
    """Share of vectors whose nearest other, by cosine, is the one that is wanted.

    Of the first `GALLERY` rows. NaN below three rows, where there is no choice.
    """

    full_state_update = False
    ours: Tensor
    theirs: Tensor

    def __init__(self, response: Response) -> None:
        super().__init__(sync_on_compute=False)
        self.response = response
        self.add_state("ours", torch.zeros(0, 0, dtype=torch.float64), None)
        self.add_state("theirs", torch.zeros(0, 0, dtype=torch.float64), None)

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Keep a batch of outputs `[b, ...]` and the wanted ones."""
        room = GALLERY - len(self.ours)
        if room <= 0:
            return
        ours, theirs = (unit(as_rows(x.cpu(), self.response.dim)[:room]) for x in (output, wanted))
        self.ours = ours if not len(self.ours) else torch.cat([self.ours, ours])
        self.theirs = theirs if not len(self.theirs) else torch.cat([self.theirs, theirs])

    def compute(self) -> dict[str, float]:
        """In 0..1."""
        if len(self.ours) < 3:
            return {"retrieval": math.nan}
        same = _nearest(self.ours) == _nearest(self.theirs)
        # a broken vector has no neighbours, whichever index a search may give
        same &= self.ours.norm(dim=1) > 0
        return {"retrieval": float(same.double().mean())}


class Likelihood(torchmetrics.Metric):
    """Negative log likelihood of tokens: over all of them, never a mean over batches."""

    full_state_update = False
    nll: Tensor
    tokens: Tensor
    wanted: Tensor

    def __init__(self, response: Response) -> None:
        super().__init__(sync_on_compute=False)
        self.response = response
        self.add_state("nll", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), "sum")
        #: How often each token is wanted.
        self.add_state("wanted", torch.zeros(0, dtype=torch.int64), "sum")

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Add outputs `[b, ...]` and labels i64 of their positions."""
        rows, labels = as_rows(output, self.response.dim), wanted.flatten().to(output.device)
        known = labels != NO_LABEL
        rows, labels = rows[known].float(), labels[known]
        logits = rows.log() if self.response.ending == "softmax" else rows
        nll = F.cross_entropy(logits, labels, reduction="none").double()
        self.nll += torch.nan_to_num(nll, nan=math.inf, posinf=math.inf).sum().cpu()
        self.tokens += len(labels)
        counts = torch.bincount(labels.cpu(), minlength=rows.shape[1])
        self.wanted = counts if not len(self.wanted) else self.wanted + counts

    def compute(self) -> dict[str, float]:
        """At least 1; NaN where no token is wanted."""
        if not self.tokens:
            return {"perplexity": math.nan}
        return {"perplexity": _exp(float(self.nll) / float(self.tokens))}

    def constant(self) -> dict[str, float]:
        """Of the frequencies of the tokens, whatever stands before them."""
        if not self.tokens:
            return {}
        shares = self.wanted.double() / float(self.tokens)
        return {"perplexity": _exp(float(-torch.special.xlogy(shares, shares).sum()))}


def unit(rows: Tensor) -> Tensor:
    """Rows `[n, d]` of length 1, f64; zeros for one that is not finite."""
    rows = rows.double()
    rows = torch.where(torch.isfinite(rows).all(-1, keepdim=True), rows, 0.0)
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows.div(lengths.clamp_min(1e-300))


def _nearest(rows: Tensor) -> Tensor:
    return (rows @ rows.T).fill_diagonal_(-math.inf).argmax(1)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
