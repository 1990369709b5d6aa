"""How closely one model's outputs follow another's, number by number."""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from compressc.errors import CompresscError

#: Numbers that are compared at once: in float64, 8 MB for each of some five arrays.
_PIECE = 1 << 20


class Fidelity(BaseModel):
    """Distance between two models' outputs on the same samples.

    Where either output holds NaN, or an infinity that the other does not, the errors are infinite
    and the cosine is 0, so that every threshold, whichever way it is written, is missed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    #: Largest absolute difference of two entries.
    max_abs_error: float
    #: Root mean square of the difference over that of the wanted outputs.
    relative_rms_error: float
    #: Cosine of the angle between the outputs, taken as two long vectors.
    cosine: float
    #: Share of equal answers of the judged output, where the model puts out answers.
    agreement: float | None = None
    #: Number of samples compared.
    samples: int


def fidelity(got: Tensor, want: Tensor) -> Fidelity:
    """Compare outputs `[n, ...]` of one shape, in float64.

    Infinities of the same sign at the same place (masked logits) are equal and count for nothing.

    Raises:
        CompresscError: CC301 where the shapes differ or there is no sample.
    """
    if got.shape != want.shape or not got.ndim or not got.numel():
        raise CompresscError(
            "CC301",
            "outputs to compare have the same shape and at least one sample",
            got=f"{list(got.shape)} and {list(want.shape)}",
        )
    samples = int(got.shape[0])
    largest = 0.0
    squares = torch.zeros(4, dtype=torch.float64)  # of the error, a and b; the product
    for pair in zip(
        *(torch.split(x.detach().reshape(-1), _PIECE) for x in (got, want)), strict=True
    ):
        a, b = (piece.cpu().double() for piece in pair)
        masked = torch.isinf(a) & (a == b)
        a, b = a[~masked], b[~masked]
        if not bool((torch.isfinite(a) & torch.isfinite(b)).all()):
            return Fidelity(
                max_abs_error=math.inf,
                relative_rms_error=math.inf,
                cosine=0.0,
                samples=samples,
            )
        error = a - b
        largest = max(largest, float(error.abs().max()) if len(a) else 0.0)
        squares += torch.stack([error @ error, a @ a, b @ b, a @ b])
    off, a_squared, b_squared, product = squares.tolist()
    return Fidelity(
        max_abs_error=largest,
        relative_rms_error=_ratio(math.sqrt(off), math.sqrt(b_squared)),
        cosine=_cosine(a_squared, b_squared, product, equal=largest == 0.0),
        samples=samples,
    )


def _ratio(error: float, size: float) -> float:
    if size > 0.0:
        return error / size
    return 0.0 if error == 0.0 else math.inf


def _cosine(a: float, b: float, product: float, *, equal: bool) -> float:
    """Of the squared lengths of two vectors and their product."""
    # one root of the product, so that equal outputs give 1 and not the float before it
    lengths = math.sqrt(a * b)
    if lengths == 0.0:
        return 1.0 if equal else 0.0
    return max(-1.0, min(1.0, product / lengths))
