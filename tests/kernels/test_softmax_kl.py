"""softmax_kl against float64, over every built implementation and both ways to its gradient."""

import pytest
import torch
import torch.nn.functional as F
from measure import FLOATS, assert_as_exact_as_plain, solve
from torch import Tensor

from compressc.errors import CompresscError
from compressc.kernels import reference, softmax_kl

SHAPES = [(1, 1), (3, 10), (5, 17), (4, 1000), (3, 1023), (2, 2049), (1, 32000), (1, 50257)]
INF = float("inf")


def textbook(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The loss as people write it; also the plain torch whose error is the measure of ours."""
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_q, p, reduction="none").sum(-1) * temperature**2


def eager(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return softmax_kl(student, teacher, temperature)


def registered(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return torch.ops.compressc.softmax_kl(student, teacher, temperature)


@pytest.mark.parametrize("way", [eager, registered])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2, 1e4])
def test_loss_and_gradient_are_as_exact_as_plain_torch(
    implementation, way, dtype, temperature, size
):
    torch.manual_seed(0)
    # The reference is plain torch too: between two such, luck decides by more than a factor 2.
    luck = (4, 2**-21 * max(temperature**2, 1)) if implementation == "reference" else ()
    for rows, vocab in SHAPES if dtype == torch.float32 else SHAPES[:-2]:
        student = (torch.randn(rows, vocab) * size).to(dtype)
        teacher = (torch.randn(rows, vocab) * size).to(dtype)
        upstream = torch.rand(rows) + 0.5
        ours = solve(lambda s, t=teacher: way(s, t, temperature), student, upstream)

        def formula(s: Tensor, t: Tensor = teacher) -> Tensor:
            return textbook(s, t.to(s.dtype), temperature)

        assert_as_exact_as_plain(ours, formula, student, upstream, *luck)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_an_offset_common_to_all_logits_costs_nothing(implementation, offset):
    torch.manual_seed(1)
    teacher = torch.randn(4, 1000) + offset
    student = teacher + 1e-2 * torch.randn(4, 1000)  # a small KL, where cancellation shows
    ours = solve(lambda s: eager(s, teacher, 2.0), student, torch.ones(4))
    assert_as_exact_as_plain(
        ours, lambda s: textbook(s, teacher.to(s.dtype), 2.0), student, torch.ones(4)
    )


def test_teacher_and_student_may_have_different_types_and_strides(implementation):
    torch.manual_seed(2)
    wide = torch.randn(6, 200)
    student = wide[::2, :100].requires_grad_()  # rows apart
    teacher = torch.randn(100, 3).to(torch.bfloat16).t()  # elements apart
    loss = softmax_kl(student, teacher, 3.0)
    want = textbook(student.detach().double(), teacher.double(), 3.0)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)


def test_masked_vocabulary_gives_no_nan(implementation):
    teacher = torch.tensor([[1.0, 2.0, -INF, -INF], [-INF] * 4, [0.0, 1.0, 2.0, 3.0]])
    student = torch.tensor([[0.5, 0.0, -INF, 1.0], [1.0] * 4, [0.0, 1.0, -INF, 3.0]])
    student.requires_grad_()
    loss = softmax_kl(student, teacher, 2.0)
    (grad,) = torch.autograd.grad(loss.sum(), student)
    p, q = torch.tensor([1.0, 2.0]) / 2, torch.tensor([0.5, 0.0, 1.0]) / 2
    want = 4 * (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0)[:2])).sum()
    torch.testing.assert_close(loss[0], want)
    assert loss[1] == 0, "a teacher that masks everything teaches nothing"
    assert loss[2] == INF, "the student rules out what the teacher does not"
    assert torch.isfinite(grad).all()
    assert (grad[1] == 0).all()
    want_grad = 2 * torch.cat([q.softmax(0)[:2] - p.softmax(0), torch.zeros(1), q.softmax(0)[2:]])
    torch.testing.assert_close(grad[0], want_grad)


def test_a_masked_block_in_a_long_row(implementation):
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 5000), torch.randn(2, 5000)
    student[:, 1000:3100] = teacher[:, 1000:3100] = -INF
    loss = softmax_kl(student, teacher)
    keep = [*range(1000), *range(3100, 5000)]
    want = textbook(student[:, keep].double(), teacher[:, keep].double(), 1.0)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("side", [0, 1])
def test_a_bad_logit_is_seen(implementation, bad, side):
    logits = [torch.randn(3, 40), torch.randn(3, 40)]
    logits[side][1, 33] = bad
    loss = softmax_kl(*logits)
    assert torch.isnan(loss).tolist() == [False, True, False]


def test_a_row_of_weight_zero_is_not_read(implementation):
    torch.manual_seed(4)
    student, teacher = torch.randn(4, 33), torch.randn(4, 33)
    weight = torch.tensor([1.0, 0.0, 0.5, 2.0])
    want = softmax_kl(student, teacher, 2.0) * weight
    student[1], teacher[1] = float("nan"), INF
    student.requires_grad_()
    torch.testing.assert_close(softmax_kl(student, teacher, 2.0, weight=weight), want)
    mean = softmax_kl(student, teacher, 2.0, weight=weight, reduction="mean")
    torch.testing.assert_close(mean, want.sum() / 3.5)
    (grad,) = torch.autograd.grad(mean, student)
    assert (grad[1] == 0).all()
    assert (grad[0] != 0).all()
    assert softmax_kl(student, teacher, weight=torch.zeros(4), reduction="mean") == 0


def test_reductions_leading_dimensions_and_empty_tensors(implementation):
    torch.manual_seed(5)
    student, teacher = torch.randn(2, 3, 50).requires_grad_(), torch.randn(2, 3, 50)
    rows = softmax_kl(student, teacher, 2.0)
    assert rows.shape == (2, 3)
    for reduction, want in (("mean", rows.mean()), ("sum", rows.sum())):
        got = softmax_kl(student, teacher, 2.0, reduction=reduction)
        torch.testing.assert_close(got, want)
        (a,) = torch.autograd.grad(got * 3, student, retain_graph=True)
        (b,) = torch.autograd.grad(want * 3, student, retain_graph=True)
        torch.testing.assert_close(a, b)
    for shape in ((0, 7), (3, 0)):
        empty = torch.zeros(shape, requires_grad=True)
        loss = softmax_kl(empty, empty.detach())
        assert loss.tolist() == [0.0] * shape[0]
        assert torch.autograd.grad(loss.sum(), empty)[0].shape == shape


def test_a_kept_graph_gives_the_same_gradient_twice(implementation):
    student = torch.randn(4, 300).requires_grad_()
    loss = softmax_kl(student, torch.randn(4, 300))
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (first,) = torch.autograd.grad(loss, student, upstream, retain_graph=True)
    (second,) = torch.autograd.grad(loss, student, upstream)
    assert torch.equal(first, second)


def test_a_kept_graph_adds_the_same_gradient_every_time(implementation):
    student, teacher = torch.randn(4, 300).requires_grad_(), torch.randn(4, 300)
    loss = softmax_kl(student, teacher, reduction="mean")
    (once,) = torch.autograd.grad(loss, student, retain_graph=True)
    for _ in range(3):
        loss.backward(retain_graph=True)
    torch.testing.assert_close(student.grad, 3 * once)


def test_a_default_device_is_not_taken_for_the_tensors_own(implementation):
    student, teacher = torch.randn(4, 30), torch.randn(4, 30)
    want = softmax_kl(student, teacher, reduction="mean")
    with torch.device("meta"):
        got = softmax_kl(student, teacher, reduction="mean")
    assert torch.equal(got, want)


def test_the_same_bytes_every_time(implementation):
    student, teacher = torch.randn(64, 1000), torch.randn(64, 1000)
    threads = torch.get_num_threads()
    runs = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        runs.append(solve(lambda s: eager(s, teacher, 2.0), student, torch.ones(64)))
    torch.set_num_threads(threads)
    for loss, grad in runs[1:]:
        assert torch.equal(loss, runs[0][0])
        assert torch.equal(grad, runs[0][1])


def test_a_second_derivative_is_refused_not_wrong():
    student = torch.randn(4, 30).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(
            softmax_kl(student, torch.randn(4, 30)).sum(), student, create_graph=True
        )


def test_gradcheck_of_the_definition():
    torch.manual_seed(6)
    student = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 7, dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: reference.softmax_kl(s, teacher, 3.0, weight), student
    )
    assert torch.autograd.gradcheck(lambda s: softmax_kl(s, teacher, 3.0, weight=weight), student)


def test_a_float16_loss_scale_is_not_lost(implementation):
    student, teacher = torch.randn(4, 32000).half().requires_grad_(), torch.randn(4, 32000).half()
    loss = softmax_kl(student, teacher, reduction="mean")
    (scaled,) = torch.autograd.grad(loss * 4096.0, student)
    wide = student.detach().double()
    exact_grad = solve(
        lambda s: textbook(s, teacher.double(), 1.0), wide, torch.full((4,), 1024.0)
    )[1]
    torch.testing.assert_close(scaled.double(), exact_grad, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "code"),
    [
        ((2, 3), (2, 4), {}, "CC204"),
        ((), (), {}, "CC204"),
        ((2, 3), (2, 3), {"weight": torch.ones(3)}, "CC204"),
        ((2, 3), (2, 3), {"temperature": 0.0}, "CC100"),
        ((2, 3), (2, 3), {"temperature": float("nan")}, "CC100"),
    ],
)
def test_what_cannot_be_computed_is_refused(student, teacher, options, code):
    with pytest.raises(CompresscError) as caught:
        softmax_kl(torch.zeros(student), torch.zeros(teacher), **options)
    assert caught.value.code == code
