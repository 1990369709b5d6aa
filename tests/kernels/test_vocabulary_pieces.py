"""linear_softmax_kl with the vocabulary in pieces, against the textbook with whole logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import assert_as_good
from torch import Tensor

from compressc.kernels import linear_softmax_kl
from compressc.kernels.losses import linear_kl, vocabulary_pieces
from compressc.measure import peak_bytes

INF = float("inf")
#: So large that twice it overflows float32: a weight that masks a token and yet is finite.
MASKING = -3e38


@pytest.fixture
def pieced(monkeypatch):
    """`pieced(columns, rows)` makes every call take pieces, and counts the chunks that did."""
    chunks = []
    inner = vocabulary_pieces.loss
    monkeypatch.setattr(
        vocabulary_pieces, "loss", lambda problem: chunks.append(problem) or inner(problem)
    )

    def force(columns: int, rows: int = 4) -> list:
        monkeypatch.setattr(linear_kl, "MOST_BYTES", 0)
        monkeypatch.setattr(vocabulary_pieces, "COLUMNS", columns)
        monkeypatch.setattr(vocabulary_pieces, "ROWS", rows)
        return chunks

    return force


def textbook(student: Tensor, teacher: Tensor, temperature: float, weight=None) -> Tensor:
    """`T^2 * weight * sum(p (log p - log q))` of each row; 0 for a row masked on either side."""
    dead = (student == -INF).all(-1) | (teacher == -INF).all(-1)
    student, teacher = student[~dead], teacher[~dead]
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    terms = torch.where(log_p.exp() == 0, 0.0, log_p.exp() * (log_p - log_q))
    rows = torch.zeros(dead.shape, dtype=student.dtype).masked_scatter(~dead, terms.sum(-1))
    rows = rows * temperature**2
    return rows if weight is None else rows * weight


def random_states(tokens: int, vocab: int, width: int = 6, dtype=torch.float32, size: float = 1.0):
    h_s, w_s = torch.randn(tokens, width) * size, torch.randn(vocab, width)
    h_t, w_t = torch.randn(tokens, width + 2) * size, torch.randn(vocab, width + 2)
    return [tensor.to(dtype) for tensor in (h_s, w_s, h_t, w_t)]


def as_states(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and weight whose product is these logits, bit by bit.

    A column that is -inf for all tokens comes from a finite weight that overflows.
    """
    masked = (logits == -INF).all(0)
    vocab = logits.shape[-1]
    hidden = torch.cat([logits.masked_fill(masked, 0.0), torch.full((len(logits), 1), 2.0)], -1)
    bias = torch.zeros(vocab, 1).masked_fill(masked.unsqueeze(-1), MASKING)
    return hidden, torch.cat([torch.eye(vocab), bias], -1)


def solve(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of given logits, and its gradients in them and in the weight's own columns."""
    hidden, w_s = as_states(student)
    leaves = (hidden.requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(leaves, as_states(teacher), temperature, reduction="sum")
    grad_h, grad_w = torch.autograd.grad(loss, leaves)
    return loss.detach(), grad_h[:, :-1], grad_w[:, :-1]


def exact(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    leaf = student.double().requires_grad_()
    loss = textbook(leaf, teacher.double(), temperature).sum()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("columns", [1, 7, 25, 50, 64])
@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
def test_any_pieces_and_chunks_give_the_textbook(pieced, columns, rows, reduction, weighted):
    torch.manual_seed(0)
    chunks = pieced(columns, rows)
    h_s, w_s, h_t, w_t = random_states(9, 50)
    weight = torch.rand(9).round(decimals=1).index_fill(0, torch.tensor([2, 5]), 0.0)
    factor = weight.double() if weighted else torch.ones(9, dtype=torch.float64)
    factor = factor / factor.sum() if reduction == "mean" else factor
    leaves = [h_s.double().requires_grad_(), w_s.double().requires_grad_()]
    want = textbook(leaves[0] @ leaves[1].T, h_t.double() @ w_t.double().T, 2.0, factor).sum()
    want_grads = torch.autograd.grad(want, leaves)
    arguments = {"weight": weight if weighted else None, "reduction": reduction}
    ours = (h_s.requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(ours, (h_t, w_t), 2.0, **arguments)
    assert loss.dtype == torch.float32
    assert len(chunks) == math.ceil(9 / rows)
    torch.testing.assert_close(loss.double(), want, rtol=3e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(loss, ours), want_grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=3e-6)
    with torch.no_grad():
        assert linear_softmax_kl(ours, (h_t, w_t), 2.0, **arguments).equal(loss)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("apart", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("columns", [1, 30, 256])
def test_small_divergences_and_offsets_are_as_exact_as_eager(
    pieced, temperature, offset, apart, columns
):
    """Row by row, at most twice the largest error of float32 eager torch, against float64."""
    torch.manual_seed(0)
    chunks = pieced(columns)
    student = torch.randn(32, 100) * 3
    teacher = student + apart * torch.randn(32, 100) + offset
    ours, eager, want = [], [], []
    for s, t in zip(student.split(1), teacher.split(1), strict=True):
        want.append(exact(s, t, temperature))
        ours.append(solve(s, t, temperature)[:2])
        leaf = s.clone().requires_grad_()
        log_q, p = F.log_softmax(leaf / temperature, -1), F.softmax(t / temperature, -1)
        loss = F.kl_div(log_q, p, reduction="sum") * temperature**2
        eager.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    assert len(chunks) == 32
    (loss, grad), (plain, plain_grad), (exact_loss, exact_grad) = (
        [torch.stack(values) for values in zip(*each, strict=True)] for each in (ours, eager, want)
    )
    assert (loss - exact_loss).abs().max() <= 2 * (plain - exact_loss).abs().max()
    assert_as_good(grad, plain_grad, exact_grad, 2**-22, times=2, floor=2**-24)


def test_a_student_far_narrower_than_its_teacher(pieced):
    """z_s / z_t is 1 / V: their excess alone would have lost it."""
    pieced(1000)
    student = torch.full((1, 20_000), -12.3)
    student[0, 7] = 0.0
    hidden, weight = torch.ones(1, 1), student.T.contiguous()
    teacher = (torch.ones(1, 1), torch.zeros(20_000, 1))
    want = textbook(student.double(), torch.zeros(1, 20_000, dtype=torch.float64), 1.0)
    loss = linear_softmax_kl((hidden, weight), teacher)
    torch.testing.assert_close(loss.double(), want.sum(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("columns", [1, 8, 13, 40])
@pytest.mark.parametrize("side", ["both", "teacher"])
@pytest.mark.parametrize("where", ["first", "last", "scattered", "all but one"])
def test_masked_vocabulary_whole_pieces_of_it_too(pieced, columns, side, where):
    torch.manual_seed(0)
    chunks = pieced(columns)
    student, teacher = torch.randn(2, 6, 40).unbind()
    masked = torch.zeros(40, dtype=torch.bool)
    index = {
        "first": range(24),
        "last": range(16, 40),
        "scattered": range(0, 40, 3),
        "all but one": [i for i in range(40) if i != 17],
    }[where]
    masked[list(index)] = True
    teacher = teacher.masked_fill(masked, -INF)
    if side == "both":
        student = student.masked_fill(masked, -INF)
    loss, grad, grad_w = solve(student, teacher, 2.0)
    want, want_grad = exact(student, teacher, 2.0)
    assert chunks
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad.double(), want_grad, rtol=1e-5, atol=1e-6)
    inputs = student.double().masked_fill(student == -INF, 0.0)
    torch.testing.assert_close(grad_w.double(), want_grad.T @ inputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 4, 10])
def test_a_token_that_only_the_student_masks_gives_inf_and_a_finite_gradient(pieced, columns):
    torch.manual_seed(0)
    pieced(columns)
    student, teacher = torch.randn(2, 3, 10).unbind()
    student[:, 3] = -INF
    loss, _, grad_w = solve(student, teacher, 1.0)
    assert loss == INF
    want = (student.softmax(-1) - teacher.softmax(-1)).T @ student.masked_fill(student == -INF, 0)
    torch.testing.assert_close(grad_w, want)


def test_a_token_masked_by_the_student_that_the_teacher_turns_out_to_exclude(pieced):
    """Its piece comes first and alone, so the sum is infinite until the maximum is known."""
    torch.manual_seed(0)
    pieced(1)
    student, teacher = torch.randn(2, 3, 10).unbind()
    student[:, 0], teacher[:, 0] = -INF, -1e4
    loss, _, _ = solve(student, teacher, 1.0)
    torch.testing.assert_close(loss.double(), exact(student, teacher, 1.0)[0])


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("columns", [1, 4, 10])
def test_without_a_finite_logit_on_a_side_the_loss_is_zero(pieced, columns, side):
    chunks = pieced(columns)
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 10).unbind()
    if side != "teacher":
        student = torch.full_like(student, -INF)
    if side != "student":
        teacher = torch.full_like(teacher, -INF)
    loss, grad, grad_w = solve(student, teacher, 2.0)
    assert chunks
    for result in (loss, grad, grad_w):
        assert result.count_nonzero() == 0


@pytest.mark.parametrize("side", [0, 2])
@pytest.mark.parametrize("columns", [1, 20, 50])
def test_nan_shows_in_the_loss_unless_its_token_is_absent(pieced, columns, side):
    torch.manual_seed(0)
    chunks = pieced(columns)
    states = random_states(9, 50)
    states[side][5] = math.nan
    h_s, w_s, h_t, w_t = states
    assert linear_softmax_kl((h_s, w_s), (h_t, w_t)).isnan()
    weight = torch.ones(9).index_fill(0, torch.tensor(5), 0.0)
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(leaves, (h_t, w_t), weight=weight)
    kept = [i for i in range(9) if i != 5]
    fewer = (h_s[kept], w_s)
    want = linear_softmax_kl(fewer, (h_t[kept], w_t))
    assert chunks
    torch.testing.assert_close(loss, want)
    for a, b in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(want, leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_what_whole_logits_give(pieced, dtype):
    torch.manual_seed(0)
    states = random_states(20, 50, dtype=dtype)
    leaves = (states[0].requires_grad_(), states[1].requires_grad_())
    results = []
    for columns in (None, 16):
        chunks = pieced(columns) if columns else []
        loss = linear_softmax_kl(leaves, tuple(states[2:]), 2.0)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    assert chunks
    assert results[1][1].dtype == results[1][2].dtype == dtype
    for a, b in zip(*results, strict=True):
        assert (a.double() - b.double()).norm() <= 2 * torch.finfo(dtype).eps * b.double().norm()


@pytest.mark.parametrize("columns", [1, 5, 13])
def test_opcheck_and_gradcheck(pieced, columns):
    torch.manual_seed(0)
    chunks = pieced(columns, rows=3)
    h_s, w_s, h_t, w_t = random_states(7, 13, dtype=torch.float64)
    leaves, weight = (h_s.requires_grad_(), w_s.requires_grad_()), torch.rand(7)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_softmax_kl((h, w), (h_t, w_t), 2.0, weight=weight), leaves
    )
    assert chunks
    arguments = (*leaves, h_t, w_t, 2.0, 0.5, True, True, weight)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.compressc.linear_softmax_kl, arguments, test_utils=tests)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(0, 12),
    vocab=st.integers(1, 70),
    columns=st.integers(1, 80),
    rows=st.integers(1, 13),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    size=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_random_sizes(seed, tokens, vocab, columns, rows, temperature, size, dtype):
    torch.manual_seed(seed)
    states = random_states(tokens, vocab, dtype=dtype, size=size)
    leaves = [tensor.double().requires_grad_() for tensor in states[:2]]
    teacher = states[2].double() @ states[3].double().T
    want = textbook(leaves[0] @ leaves[1].T, teacher, temperature).sum()
    want_grads = torch.autograd.grad(want, leaves)
    ours = [tensor.requires_grad_() for tensor in states[:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_kl, "MOST_BYTES", 0)
        patch.setattr(vocabulary_pieces, "COLUMNS", columns)
        patch.setattr(vocabulary_pieces, "ROWS", rows)
        loss = linear_softmax_kl(tuple(ours), tuple(states[2:]), temperature, reduction="sum")
    assert loss.dtype == dtype
    # The products round a logit in proportion to its size, and T times that comes into the loss.
    unit = 1e-6 if dtype == torch.float32 else 1e-14
    slack = 20 * unit * (1 + size) * max(temperature, 1.0) ** 2 * max(tokens, 1)
    torch.testing.assert_close(loss.double(), want, rtol=10 * unit, atol=slack)
    for a, b in zip(torch.autograd.grad(loss, ours), want_grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=10 * unit, atol=slack * (1 + size))


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    """At 400,000 tokens of vocabulary a chunk's whole logits would take 390 MiB."""
    pieces = []
    inner = vocabulary_pieces.loss
    monkeypatch.setattr(
        vocabulary_pieces, "loss", lambda problem: pieces.append(problem) or inner(problem)
    )
    h_s, w_s, h_t, w_t = random_states(128, 400_000, width=4)
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())

    def with_gradients():
        return torch.autograd.grad(linear_softmax_kl(leaves, (h_t, w_t)), leaves)

    def loss_alone():
        with torch.no_grad():
            return linear_softmax_kl(leaves, (h_t, w_t))

    bound = 5 * vocabulary_pieces.ROWS * vocabulary_pieces.COLUMNS * 4
    assert peak_bytes(with_gradients) - w_s.numel() * 4 < bound
    assert peak_bytes(loss_alone) < bound
    assert len(pieces) == 2
    # A smaller vocabulary is not cut: that would cost time for nothing.
    linear_softmax_kl((h_s[:, :2], w_s[:200_000, :2]), (h_t, w_t[:200_000]))
    assert len(pieces) == 2
