"""Directions, cross-entropy mixing and top-k teachers against textbook formulas in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from measure import FLOATS, assert_as_exact_as_plain, solve
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import TopK, cuda, dispatch, native, softmax_kl, softmax_kl_ce
from compressc.kernels.losses.problem import Problem

SHAPES = [(1, 1), (3, 10), (5, 17), (3, 1023), (2, 2049)]
INF = float("inf")
TEACHER = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return t * t * kl((student / t).log_softmax(-1), (teacher / t).log_softmax(-1))


def jensen_shannon(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    m = (p + q) / 2
    terms = p * (p / m).log() + q * (q / m).log()
    return t * t * terms.sum(-1) / 2


def hinton(student, teacher, labels, t, kl_share, smoothing):
    soft = t * t * kl((teacher / t).log_softmax(-1), (student / t).log_softmax(-1))
    hard = F.cross_entropy(student, labels, reduction="none", label_smoothing=smoothing)
    return kl_share * soft + (1 - kl_share) * hard


def buckets(student: Tensor, teacher: TopK, t: float) -> Tensor:
    """KL of k + 1 events, the last of which pools everything outside the top k."""
    tail = teacher.tail.to(student.dtype)[:, None]
    p = (teacher.values.to(student.dtype) / t).softmax(-1) * (1 - tail)
    q = (student / t).softmax(-1)
    known = q.gather(-1, teacher.indices)
    rest = q.scatter(-1, teacher.indices, 0.0).sum(-1, keepdim=True)
    return (
        t * t * (torch.cat([p, tail], -1) * (torch.cat([p / known, tail / rest], -1)).log()).sum(-1)
    )


def check(call, formula, student: Tensor, temperature: float) -> Tensor:
    """Loss and gradient at most twice as wrong as plain torch's; returns the loss."""
    upstream = torch.rand(len(student)) + 0.5
    ours = solve(call, student, upstream)
    floor = max(temperature**2, 1) * 2**-20  # a few roundings of a log-probability, times T^2
    assert_as_exact_as_plain(ours, formula, student, upstream, floor=floor)
    return ours[0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("formula", [reverse, jensen_shannon])
def test_directions(implementation, formula, dtype, temperature):
    torch.manual_seed(0)
    for rows, vocab in SHAPES:
        student, teacher = torch.randn(2, rows, vocab).mul(2).to(dtype).unbind()
        call = partial(
            softmax_kl, teacher=teacher, temperature=temperature, direction=formula.__name__
        )
        check(
            call, lambda s, t=teacher: formula(s, t.to(s.dtype), temperature), student, temperature
        )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("kl_share", "smoothing"), [(0.5, 0.0), (0.9, 0.1), (0.0, 0.0), (1.0, 0.0)]
)
def test_mixed_with_cross_entropy(implementation, dtype, temperature, kl_share, smoothing):
    torch.manual_seed(1)
    for rows, vocab in SHAPES:
        student, teacher = torch.randn(2, rows, vocab).mul(2).to(dtype).unbind()
        labels = torch.randint(vocab, (rows,))
        mix = {"kl_share": kl_share, "label_smoothing": smoothing}
        call = partial(
            softmax_kl_ce, teacher=teacher, labels=labels, temperature=temperature, **mix
        )

        def formula(s: Tensor, t: Tensor = teacher, y: Tensor = labels) -> Tensor:
            return hinton(s, t.to(s.dtype), y, temperature, kl_share, smoothing)

        check(call, formula, student, temperature)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 4])
def test_top_k_teacher(implementation, dtype, temperature, k):
    torch.manual_seed(2)
    for rows, vocab in SHAPES[1:]:
        student, logits = torch.randn(2, rows, vocab).mul(2).to(dtype).unbind()
        teacher = TopK.of(logits, k, temperature)
        call = partial(softmax_kl, teacher=teacher, temperature=temperature)
        loss = check(call, partial(buckets, teacher=teacher, t=temperature), student, temperature)
        full = softmax_kl(student, logits, temperature)
        assert bool((loss <= full * 1.0001 + 1e-5).all()), "pooling cannot raise a KL"


def test_top_k_of_everything_is_the_full_loss(implementation):
    student, teacher = torch.randn(400, 12), torch.randn(400, 12)
    everything = TopK.of(teacher, 12, 2.0)
    assert bool((everything.tail == 0).all())
    torch.testing.assert_close(
        softmax_kl(student, everything, 2.0), softmax_kl(student, teacher, 2.0)
    )


def test_the_tail_of_a_confident_teacher_keeps_its_digits():
    teacher = torch.tensor([[30.0, 1.0, 0.0]])
    exact = torch.exp(teacher.double() - teacher.double().logsumexp(-1))[0, 1:].sum()
    assert TopK.of(teacher, 1).tail.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_confident_student_keeps_the_digits_of_its_tail(implementation):
    student = torch.zeros(1, 5000)
    student[0, 7] = 40.0  # all but 2e-14 of its mass
    teacher = TopK(torch.tensor([[1.0]]), torch.tensor([[7]]), torch.tensor([0.5]))
    upstream = torch.ones(1)
    loss, grad = solve(lambda s: softmax_kl(s, teacher, 1.0), student, upstream)
    exact_loss, exact_grad = solve(lambda s: buckets(s, teacher, 1.0), student.double(), upstream)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("direction", ["reverse", "jensen_shannon"])
def test_masked_vocabulary_in_other_directions(implementation, direction):
    teacher = torch.tensor([[1.0, 2.0, -INF, -INF], [-INF] * 4, [0.0, 1.0, -INF, 3.0]])
    student = torch.tensor([[0.5, 0.0, -INF, -INF], [1.0] * 4, [0.0, 1.0, 2.0, 3.0]])
    loss, grad = solve(
        lambda s: softmax_kl(s, teacher, 2.0, direction=direction), student, torch.ones(3)
    )
    whole = softmax_kl(student[:1, :2], teacher[:1, :2], 2.0, direction=direction)
    torch.testing.assert_close(loss[:1], whole)
    assert loss[1] == 0
    assert loss[2] == INF if direction == "reverse" else 0 < loss[2] < 4 * 0.6932
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("direction", ["reverse", "jensen_shannon"])
def test_nan_is_seen_in_other_directions(implementation, direction):
    student = torch.randn(2, 40)
    student[1, 3] = float("nan")
    loss = softmax_kl(student, torch.randn(2, 40), direction=direction)
    assert torch.isnan(loss).tolist() == [False, True]


def test_a_row_without_a_label_keeps_its_divergence(implementation):
    torch.manual_seed(3)
    student, teacher = torch.randn(3, 20), torch.randn(3, 20)
    labels = torch.tensor([4, -100, 19])
    loss, grad = solve(
        lambda s: softmax_kl_ce(s, teacher, labels, 2.0, kl_share=0.3), student, torch.ones(3)
    )
    soft, pull = solve(lambda s: softmax_kl(s, teacher, 2.0), student, torch.ones(3))
    torch.testing.assert_close(loss[1], 0.3 * soft[1])
    torch.testing.assert_close(grad[1], 0.3 * pull[1])
    assert loss[0] > 0.3 * soft[0]


def test_the_gradient_may_overwrite_what_it_was_made_of(implementation):
    """Every kernel reads a row before it writes it: linear_softmax_kl depends on it."""
    if implementation == "reference":
        pytest.skip("plain torch allocates")
    kernels = cuda if implementation == "cuda-emulated" else native

    torch.manual_seed(4)
    student, teacher = torch.randn(3, 3000), torch.randn(3, 3000)
    problems = [
        Problem(student, teacher, 2.0),
        Problem(student, teacher, 2.0, direction="reverse"),
        Problem(student, teacher, 2.0, direction="jensen_shannon"),
        Problem(student, teacher, 2.0, labels=torch.tensor([0, 2999, 7]), kl_share=0.5),
        Problem(student, TopK.of(teacher, 5, 2.0), 2.0),
    ]
    for problem in problems:
        loss, grad = kernels.rows_loss(problem, True, False)
        copy = problem._replace(student=student.clone())
        again, same = kernels.rows_loss(copy, True, False, in_place=True)
        assert same.data_ptr() == copy.student.data_ptr()
        assert torch.equal(loss, again)
        assert torch.equal(grad, same)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: softmax_kl(s, s, direction="reverse"),
        lambda s: softmax_kl(s, s, direction="jensen_shannon"),
        lambda s: softmax_kl_ce(s, TEACHER, torch.tensor([1, 2, -1]), 3.0, kl_share=0.4),
        lambda s: softmax_kl_ce(
            s, TEACHER, torch.tensor([1, 2, 0]), 3.0, kl_share=0.4, label_smoothing=0.2
        ),
        lambda s: softmax_kl(s, TopK.of(TEACHER, 3, 3.0), 3.0),
    ],
)
def test_gradcheck_of_the_closed_forms(call):
    torch.manual_seed(5)
    student = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    with dispatch.using("reference"):
        assert torch.autograd.gradcheck(call, student)


def test_what_cannot_be_computed_is_refused():
    x = torch.zeros(2, 3)
    refused = [
        (lambda: softmax_kl_ce(x, x, torch.tensor([0, 3])), "CC204"),
        (lambda: softmax_kl_ce(x, x, torch.tensor([0])), "CC204"),
        (lambda: softmax_kl_ce(x, x, torch.tensor([0, 1]), kl_share=1.5), "CC100"),
        (lambda: softmax_kl(x, TopK.of(x, 2), direction="reverse"), "CC100"),
        (lambda: softmax_kl(x, TopK(x, x.long() + 3, torch.zeros(2))), "CC204"),
        (lambda: softmax_kl(x, TopK(x[:1], x[:1].long(), torch.zeros(1))), "CC204"),
        (lambda: softmax_kl(x, x, direction="sideways"), "CC100"),
    ]
    for call, code in refused:
        with pytest.raises(CompresscError) as caught:
            call()
        assert caught.value.code == code
