"""linear_softmax_kl against the loss of whole logits, chunk by chunk."""

import pytest
import torch

from compressc.errors import CompresscError
from compressc.kernels import dispatch, linear_softmax_kl, softmax_kl
from compressc.kernels.losses import linear_kl, products


def states(dtype=torch.float32):
    torch.manual_seed(0)
    h_s, h_t = torch.randn(3, 7, 16), torch.randn(3, 7, 24)
    w_s, w_t = torch.randn(50, 16), torch.randn(50, 24)
    return [tensor.to(dtype) for tensor in (h_s, w_s, h_t, w_t)]


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
def test_same_loss_and_gradients_as_with_whole_logits(
    implementation, monkeypatch, rows, reduction, weighted
):
    monkeypatch.setattr(linear_kl, "FEWEST", rows)
    monkeypatch.setattr(linear_kl, "CHUNK_BYTES", 0)
    h_s, w_s, h_t, w_t = states()
    weight = torch.rand(3, 7).round(decimals=1) if weighted else None
    if weight is not None:
        weight[1, 2] = 0
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    want = softmax_kl(h_s @ w_s.T, h_t @ w_t.T, 2.0, weight=weight, reduction=reduction)
    got = linear_softmax_kl((h_s, w_s), (h_t, w_t), 2.0, weight=weight, reduction=reduction)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * want, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            linear_softmax_kl((h_s, w_s), (h_t, w_t), 2.0, weight=weight, reduction=reduction), want
        )


def test_bfloat16_sums_of_chunks_are_not_rounded_each_time(implementation, monkeypatch):
    monkeypatch.setattr(linear_kl, "FEWEST", 1)
    monkeypatch.setattr(linear_kl, "CHUNK_BYTES", 0)
    h_s, w_s, h_t, w_t = states(torch.bfloat16)
    loss = linear_softmax_kl((h_s, w_s.requires_grad_()), (h_t, w_t), 2.0)
    (grad,) = torch.autograd.grad(loss, w_s)
    wide = w_s.detach().double().requires_grad_()
    with dispatch.using("reference"):
        logits, teacher = h_s.double() @ wide.T, h_t.double() @ w_t.double().T
        exact = softmax_kl(logits, teacher, 2.0, reduction="mean")
        (want,) = torch.autograd.grad(exact, wide)
    assert grad.dtype == torch.bfloat16
    assert (grad.double() - want).norm() < 0.02 * want.norm()
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck_and_gradcheck(dtype):
    h_s, w_s, h_t, w_t = states(dtype)
    h_s, h_t = h_s.flatten(0, 1), h_t.flatten(0, 1)
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    arguments = (*leaves, h_t, w_t, 2.0, 0.5, True, True, torch.rand(21))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.compressc.linear_softmax_kl, arguments, test_utils=tests)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(
            lambda h, w: linear_softmax_kl((h, w), (h_t, w_t), 2.0), leaves
        )


def test_compiled_it_is_the_same():
    h_s, w_s, h_t, w_t = states()
    h_s.requires_grad_()

    def loss(h):
        return linear_softmax_kl((h, w_s), (h_t, w_t), 2.0)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(h_s), loss(h_s))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(h_s), h_s)[0], torch.autograd.grad(loss(h_s), h_s)[0]
    )


@pytest.mark.parametrize("wanted", ["hidden", "weight"])
@pytest.mark.parametrize("pieces", [True, False])
def test_a_gradient_that_nobody_wants_is_not_made(monkeypatch, wanted, pieces):
    h_s, w_s, h_t, w_t = states()
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    both = torch.autograd.grad(linear_softmax_kl(leaves, (h_t, w_t), 2.0), leaves)
    if pieces:
        monkeypatch.setattr(linear_kl, "MOST_BYTES", 0)
    unwanted = "add_weight_grad" if wanted == "hidden" else "input_grad"
    monkeypatch.setattr(products, unwanted, None)
    place = 0 if wanted == "hidden" else 1
    leaves[1 - place].requires_grad_(False)
    (grad,) = torch.autograd.grad(linear_softmax_kl(leaves, (h_t, w_t), 2.0), leaves[place])
    torch.testing.assert_close(grad, both[place])
    assert not grad.requires_grad


def test_absent_tokens_may_hold_anything(implementation):
    h_s, w_s, h_t, w_t = states()
    weight = torch.ones(3, 7)
    weight[1, 2] = 0
    for hidden in (h_s, h_t):
        hidden[1, 2] = float("nan")
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(leaves, (h_t, w_t), 2.0, weight=weight)
    grad_h, grad_w = torch.autograd.grad(loss, leaves)
    kept = weight.flatten().bool()
    fewer = (h_s.detach().flatten(0, 1)[kept].requires_grad_(), w_s)
    want = linear_softmax_kl(fewer, (h_t.flatten(0, 1)[kept], w_t), 2.0)
    want_h, want_w = torch.autograd.grad(want, fewer)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(grad_w, want_w)
    torch.testing.assert_close(grad_h.flatten(0, 1)[kept], want_h)
    assert grad_h[1, 2].count_nonzero() == 0


@pytest.mark.parametrize("layout", ["rows", "transposed x", "transposed w", "strided"])
@pytest.mark.parametrize("vocab", [4096, 9000])
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_products_by_either_library_are_the_products(layout, vocab):
    torch.manual_seed(0)
    x, w, grad = torch.randn(33, 64), torch.randn(vocab, 64), torch.randn(33, vocab)
    if layout == "transposed x":
        x, grad = x.t().contiguous().t(), grad.t().contiguous().t()
    elif layout == "transposed w":
        w = w.t().contiguous().t()
    elif layout == "strided":
        x, w, grad = (t.repeat_interleave(2, dim=1)[:, ::2] for t in (x, w, grad))
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    suits = fast and layout in ("rows", "transposed w") and torch.backends.mkldnn.is_available()
    assert products._suits_onednn(x, w) == suits
    outputs, inputs = x.double() @ w.double().T, grad.double() @ w.double()
    torch.testing.assert_close(products.linear(x, w).double(), outputs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(products.input_grad(grad, w).double(), inputs, rtol=1e-5, atol=1e-3)
    with torch.backends.mkldnn.flags(enabled=False):
        assert products.linear(x, w).equal(x @ w.t())
        assert products.input_grad(grad, w).equal(grad @ w)
    assert products.linear(x.double(), w.double()).equal(x.double() @ w.double().t())


def test_the_first_weight_gradient_overwrites_what_was_there():
    torch.manual_seed(0)
    x, grad, total = torch.randn(3, 4), torch.randn(3, 5), torch.full((5, 4), float("nan"))
    products.add_weight_grad(total, grad, x, first=True)
    torch.testing.assert_close(total, grad.T @ x)
    products.add_weight_grad(total, grad, x, first=False)
    torch.testing.assert_close(total, 2 * grad.T @ x)


def test_a_kept_graph_adds_the_same_gradients_every_time():
    h_s, w_s, h_t, w_t = states()
    leaves = (h_s.requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(leaves, (h_t, w_t))
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    for _ in range(3):
        loss.backward(retain_graph=True)
    for leaf, grad in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, 3 * grad)


def test_without_tokens_loss_and_gradients_are_zero():
    h_s, w_s, h_t, w_t = states()
    leaves = (h_s[:0].requires_grad_(), w_s.requires_grad_())
    loss = linear_softmax_kl(leaves, (h_t[:0], w_t))
    assert loss == 0
    grads = torch.autograd.grad(loss, leaves)
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]
    assert grads[1].count_nonzero() == 0


def test_what_does_not_fit_is_refused():
    h_s, w_s, h_t, w_t = states()
    for student, teacher, temperature, code in [
        ((h_s, w_s.T), (h_t, w_t), 1.0, "CC204"),
        ((h_s, w_s), (h_t[:2], w_t), 1.0, "CC204"),
        ((h_s, w_s), (h_t, w_t[:49]), 1.0, "CC204"),
        ((h_s, w_s), (h_t, w_t), 0.0, "CC100"),
    ]:
        with pytest.raises(CompresscError) as caught:
            linear_softmax_kl(student, teacher, temperature)
        assert caught.value.code == code
