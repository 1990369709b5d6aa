"""Hidden states and output weights to a distillation loss, without the logits ever being whole.

The logits of a chunk of tokens are made, turned into their own gradient in place, multiplied into
the gradients of hidden states and weight, and forgotten: memory is a chunk's, whatever the batch.
Fewer than `FEWEST` tokens would make the products wait for memory; so where the logits of that many
exceed `MOST_BYTES` (a vocabulary above 262144 in float32), they are made in pieces of the
vocabulary as well (`vocabulary_pieces.py`). Their memory then depends on neither, and the price is
that they are made twice: six products in place of four. A loss without gradients needs them once.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels.losses import one_pass, operators, products, vocabulary_pieces
from compressc.kernels.losses.problem import Problem, mean_weight

#: Bytes of one side's logits in a chunk: few enough to stay in a last-level cache.
CHUNK_BYTES = 16 << 20
#: Tokens in a chunk at least, because every chunk reads both weights and updates a gradient.
FEWEST = 128
#: Bytes of both sides' logits in a chunk at most.
MOST_BYTES = 256 << 20


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
            weight = mean_weight(weight)
    elif reduction == "mean":
        scale = 1.0 / max(rows, 1)
    h_s, h_t = h_s.reshape(rows, h_s.shape[-1]), h_t.reshape(rows, h_t.shape[-1])
    recording = torch.is_grad_enabled()
    wanted = (recording and h_s.requires_grad, recording and w_s.requires_grad)
    operator = torch.ops.compressc.linear_softmax_kl
    return cast("Tensor", operator(h_s, w_s, h_t, w_t, temperature, scale, *wanted, weight)[0])


class _Tokens(NamedTuple):
    """The operator's arguments, for all tokens or for those of a chunk."""

    h_s: Tensor
    w_s: Tensor
    h_t: Tensor
    w_t: Tensor
    temperature: float
    scale: float
    want_h: bool
    want_w: bool
    weight: Tensor | None = None

    def wide(self) -> torch.dtype:
        """The dtype of the loss, and of sums over chunks."""
        return torch.float64 if self.h_s.dtype == torch.float64 else torch.float32

    def chunk(self, begin: int, end: int) -> _Tokens:
        """Some of the tokens. What absent ones hold is replaced, so that it reaches no product."""
        h_s, h_t = self.h_s[begin:end], self.h_t[begin:end]
        if self.weight is None:
            return self._replace(h_s=h_s, h_t=h_t)
        weight = self.weight[begin:end]
        absent = (weight == 0).unsqueeze(-1)
        h_s, h_t = h_s.masked_fill(absent, 0.0), h_t.masked_fill(absent, 0.0)
        return self._replace(h_s=h_s, h_t=h_t, weight=weight)


def _linear_softmax_kl(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and the gradients of hidden states and weight (empty where not wanted)."""
    a = _Tokens(*args)
    tokens = a.h_s.shape[0]
    step, whole = _plan(a)
    loss = torch.zeros((), dtype=a.wide(), device=a.h_s.device)
    grad_h = torch.empty_like(a.h_s) if a.want_h else a.h_s.new_empty(0)
    # In the weight's own dtype the sum over chunks would be rounded at every chunk. The first chunk
    # writes it.
    make = torch.empty if tokens else torch.zeros
    shape = a.w_s.shape if a.want_w else (0,)
    grad_w = make(shape, dtype=a.wide(), device=a.w_s.device)
    solve = _whole if whole else _pieced
    for begin in range(0, tokens, step):
        end = min(begin + step, tokens)
        part, grad = solve(a.chunk(begin, end), grad_w, begin == 0)
        loss += part
        if grad is not None:
            grad_h[begin:end] = grad
    return loss, grad_h, grad_w.to(a.w_s.dtype)


def _plan(a: _Tokens) -> tuple[int, bool]:
    """Tokens of a chunk, and whether the rows of its logits are whole."""
    row = max(a.w_s.shape[0], 1) * a.wide().itemsize
    step = max(CHUNK_BYTES // row // 16 * 16, FEWEST)
    if 2 * row * min(step, a.h_s.shape[0]) <= MOST_BYTES:
        return step, True
    return vocabulary_pieces.ROWS, False


def _whole(a: _Tokens, grad_w: Tensor, first: bool) -> tuple[Tensor, Tensor | None]:
    """Loss of a chunk, the gradient of its hidden states, and `grad_w` with its share."""
    loss, pull = _logits_grad(a)
    if pull is None:
        return loss, None
    if a.want_w:
        products.add_weight_grad(grad_w, pull, a.h_s, first)
    return loss, products.input_grad(pull, a.w_s) if a.want_h else None


def _logits_grad(a: _Tokens) -> tuple[Tensor, Tensor | None]:
    """Loss of a chunk, and the gradient of its logits in the logits' memory."""
    student, teacher = products.linear(a.h_s, a.w_s), products.linear(a.h_t, a.w_t)
    problem = Problem(student, teacher, a.temperature, a.weight, scale=a.scale)
    wanted = a.want_h or a.want_w
    return operators.loss_and_grad(problem, wanted, True, in_place=wanted)


def _pieced(a: _Tokens, grad_w: Tensor, first: bool) -> tuple[Tensor, Tensor | None]:
    """As `_whole`."""
    weight = a.weight if a.weight is not None else a.h_s.new_ones(a.h_s.shape[0])
    weight = weight.to(a.wide()) * a.scale
    pieces = vocabulary_pieces.Pieces(a.h_s, a.w_s, a.h_t, a.w_t, a.temperature, weight)
    loss, sums = vocabulary_pieces.loss(pieces)
    if not (a.want_h or a.want_w):
        return loss, None
    return loss, vocabulary_pieces.add_grads(
        pieces, sums, a.want_h, grad_w if a.want_w else None, first
    )


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = _Tokens(*args)
    loss = a.h_s.new_empty((), dtype=a.wide())
    grad_h = torch.empty_like(a.h_s) if a.want_h else a.h_s.new_empty(0)
    return loss, grad_h, a.w_s.new_empty(a.w_s.shape if a.want_w else 0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # zeros in the shape of both gradients, for nothing
    ctx.save_for_backward(*output[1:])
    asked = _Tokens(*inputs)
    ctx.wanted, ctx.count = (asked.want_h, asked.want_w), len(inputs)


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return tuple([None] * ctx.count)
    both = zip(ctx.saved_tensors, ctx.wanted, strict=True)
    grads = [_times(grad, upstream) if wanted else None for grad, wanted in both]
    return *grads, *([None] * (ctx.count - 2))


def _times(grad: Tensor, upstream: Tensor) -> Tensor:
    if one_pass.is_one(upstream):  # the usual case; a copy would double the memory
        return one_pass.owned(grad).detach()
    if type(upstream) is Tensor and not torch.compiler.is_compiling():
        return one_pass.scaled(grad, upstream.expand(grad.shape[0]))
    return grad * upstream.to(grad.dtype)


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


operators.LIBRARY.define(
    "linear_softmax_kl(Tensor h_s, Tensor w_s, Tensor h_t, Tensor w_t, float temperature, "
    "float scale, bool want_h, bool want_w, Tensor? weight=None) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
operators.LIBRARY.impl("linear_softmax_kl", _linear_softmax_kl, "CompositeExplicitAutograd")
torch.library.register_fake("compressc::linear_softmax_kl", _fake, lib=operators.LIBRARY)
torch.library.register_autograd(
    "compressc::linear_softmax_kl", _backward, setup_context=_setup, lib=operators.LIBRARY
)
