"""Hidden states and output weights to a distillation loss, without the logits ever being whole.

The logits of a chunk of tokens are made, turned into their own gradient in place, multiplied into
the gradients of hidden states and weight, and forgotten: memory is a chunk's, whatever the batch.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import one_pass, ops
from compressc.kernels.problem import Problem

#: Bytes of one side's logits in a chunk: few enough to stay in a last-level cache, many enough rows
#: for a matrix product to run at its speed.
CHUNK_BYTES = 16 << 20


def linear_softmax_kl(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    temperature: float = 1.0,
    *,
    weight: Tensor | None = None,
    reduction: Literal["sum", "mean"] = "mean",
) -> Tensor:
    """`softmax_kl(h_s @ W_s.T, h_t @ W_t.T, temperature)`, reduced, a chunk of tokens at a time.

    Args:
        student: hidden states `[..., D]` and output weight `[V, D]`; both get gradients.
        teacher: hidden states `[..., E]` and output weight `[V, E]`; neither does.
        temperature: T > 0.
        weight: `[...]`, a factor for each token; tokens of weight 0 are ignored.
        reduction: "sum", or "mean", which divides by the sum of the weights.

    Returns:
        A float32 scalar (float64 for float64 hidden states), differentiable once.

    Raises:
        CompresscError: CC204 if shapes do not fit, CC100 for a bad temperature.
    """
    (h_s, w_s), (h_t, w_t) = student, teacher
    _check(student, teacher, temperature, weight)
    rows = h_s.shape[:-1].numel()
    scale = 1.0
    if weight is not None:
        weight = weight.detach().reshape(rows)
        if reduction == "mean":
            total = weight.sum(dtype=torch.float32)
            weight = weight / torch.where(total == 0, 1.0, total)
    elif reduction == "mean":
        scale = 1.0 / max(rows, 1)
    h_s, h_t = h_s.reshape(rows, h_s.shape[-1]), h_t.reshape(rows, h_t.shape[-1])
    wanted = torch.is_grad_enabled() and (h_s.requires_grad or w_s.requires_grad)
    operator = torch.ops.compressc.linear_softmax_kl
    return cast("Tensor", operator(h_s, w_s, h_t, w_t, temperature, scale, wanted, weight)[0])


class _Chunks(NamedTuple):
    h_s: Tensor
    w_s: Tensor
    h_t: Tensor
    w_t: Tensor
    temperature: float
    scale: float
    want_grad: bool
    weight: Tensor | None = None


def _linear_softmax_kl(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and the gradients of hidden states and weight (empty where not wanted)."""
    a = _Chunks(*args)
    wide = torch.float64 if a.h_s.dtype == torch.float64 else torch.float32
    loss = torch.zeros((), dtype=wide, device=a.h_s.device)
    if not a.want_grad:
        for begin, end in _bounds(a):
            loss += _chunk(a, begin, end)[0]
        return loss, a.h_s.new_empty(0), a.w_s.new_empty(0)
    grad_h = torch.empty_like(a.h_s)
    # Sums over chunks: in the weight's own dtype they would be rounded at every chunk.
    grad_w = torch.zeros(a.w_s.shape, dtype=wide, device=a.w_s.device)
    for begin, end in _bounds(a):
        part, pull = _chunk(a, begin, end)
        assert pull is not None
        loss += part
        torch.mm(pull, a.w_s, out=grad_h[begin:end])
        grad_w.addmm_(pull.to(wide).t(), a.h_s[begin:end].to(wide))
        del pull  # before the next chunk needs its room
    return loss, grad_h, grad_w.to(a.w_s.dtype)


def _bounds(a: _Chunks) -> list[tuple[int, int]]:
    rows, vocab = a.h_s.shape[0], a.w_s.shape[0]
    step = max(CHUNK_BYTES // max(vocab * 4, 1), 1)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def _chunk(a: _Chunks, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
    """Loss of these tokens, and the gradient of their logits in the logits' memory."""
    logits = a.h_s[begin:end] @ a.w_s.t()
    teacher = a.h_t[begin:end] @ a.w_t.t()
    weight = None if a.weight is None else a.weight[begin:end]
    problem = Problem(logits, teacher, a.temperature, weight, scale=a.scale)
    return ops.loss_and_grad(problem, a.want_grad, True, in_place=a.want_grad)


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = _Chunks(*args)
    wide = torch.float64 if a.h_s.dtype == torch.float64 else torch.float32
    loss = a.h_s.new_empty((), dtype=wide)
    if not a.want_grad:
        return loss, a.h_s.new_empty(0), a.w_s.new_empty(0)
    return loss, torch.empty_like(a.h_s), torch.empty(a.w_s.shape, dtype=a.w_s.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # zeros in the shape of both gradients, for nothing
    ctx.save_for_backward(*output[1:])
    ctx.count = len(inputs)


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    grad_h, grad_w = ctx.saved_tensors
    if upstream is None:
        return tuple([None] * ctx.count)
    if one_pass.is_one(upstream):  # the usual case; a copy of both would double the memory
        return grad_h, grad_w, *([None] * (ctx.count - 2))
    if type(upstream) is Tensor and not torch.compiler.is_compiling():
        both = [one_pass.scaled(grad, upstream.expand(grad.shape[0])) for grad in (grad_h, grad_w)]
        return *both, *([None] * (ctx.count - 2))
    factor = upstream.to(grad_h.dtype)
    return grad_h * factor, grad_w * factor, *([None] * (ctx.count - 2))


def _check(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    temperature: float,
    weight: Tensor | None,
) -> None:
    (h_s, w_s), (h_t, w_t) = student, teacher
    tokens = h_s.shape[:-1]
    fits = w_s.dim() == w_t.dim() == 2 and w_s.shape[0] == w_t.shape[0]
    fits = fits and h_s.shape[-1:] == w_s.shape[1:] and h_t.shape[-1:] == w_t.shape[1:]
    if not fits or h_t.shape[:-1] != tokens or (weight is not None and weight.shape != tokens):
        shapes = [list(tensor.shape) for tensor in (h_s, w_s, h_t, w_t)]
        wanted = "hidden states [..., D] and weights [V, D] must fit one another"
        raise CompresscError("CC204", wanted, got=str(shapes))
    if not temperature > 0:
        raise CompresscError("CC100", "temperature must be above 0", got=str(temperature))


ops.LIBRARY.define(
    "linear_softmax_kl(Tensor h_s, Tensor w_s, Tensor h_t, Tensor w_t, float temperature, "
    "float scale, bool want_grad, Tensor? weight=None) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
ops.LIBRARY.impl("linear_softmax_kl", _linear_softmax_kl, "CompositeExplicitAutograd")
torch.library.register_fake("compressc::linear_softmax_kl", _fake, lib=ops.LIBRARY)
torch.library.register_autograd(
    "compressc::linear_softmax_kl", _backward, setup_context=_setup, lib=ops.LIBRARY
)
