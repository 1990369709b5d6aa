"""What objectives see of a batch: what does not count is left out, and nothing else is."""

from dataclasses import replace

import pytest
import torch

from compressc.distillation import Answers, Loss, look, parse_loss
from compressc.ir import parse_graph
from compressc.tasks import settle

NET = """
graph g(%x: f32[b,6,4]) {
  %fc = linear(%x) {in=4, out=5} @fc.weight @fc.bias : f32[b,6,5]   # from fc
  return %fc
}
"""
GRAPH = parse_graph(NET, {"fc.weight": torch.ones(5, 4), "fc.bias": torch.ones(5)})
TASK = settle(GRAPH)
#: Class scores at six positions of each sample, with a label for each.
TOKENS = replace(
    TASK, labels=True, per_position=True, judged=replace(TASK.judged, learned="class_scores")
)
LABELS = torch.tensor([[0, 1, 2, 3, -100, -100], [4, -100, 0, 0, 1, 2]])
KNOWN = LABELS >= 0


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, width, generator=generator).double() for width in (5, 3)]


@pytest.mark.parametrize(
    "text",
    [
        *("ce + 2*kd", "dkd", "nkd", "dist", "ttm", "wttm", "reverse_kl", "jsd", "skew_kl"),
        *("kd(T=adaptive)", "kd(standardize=true)", "mse_logits", "scaled_mse", "cosine"),
        *("bernoulli", "hint", "hidden"),
    ],
)
def test_padding_changes_neither_value_nor_gradient(text):
    loss, found = Loss(parse_loss(text)), []
    for noise in (0.0, 50.0):
        student, teacher = drawn(0), drawn(1)
        for value in (*student, *teacher):
            value[~KNOWN] += noise * torch.randn(int((~KNOWN).sum()), 1).double()
        for value in student:
            value.requires_grad_()
        sides = [Answers((rows,), (feature,)) for rows, feature in (student, teacher)]
        total = loss.total(look(TOKENS, *sides, LABELS, valid=KNOWN))
        slopes = torch.autograd.grad(total, student, allow_unused=True)
        found.append((total, slopes))
        for slope in slopes:
            assert slope is None or not slope[~KNOWN].any()
            assert slope is None or slope[KNOWN].any(-1).all()
    (total, slopes), (other, others) = found
    assert other.item() == pytest.approx(total.item())
    for one, two in zip(slopes, others, strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.allclose(one, two)


def test_a_sample_nobody_has_labelled_still_teaches():
    classes = replace(TASK, labels=True, judged=replace(TOKENS.judged, value_dim=1))
    rows = torch.randn(2, 5)
    seen = look(classes, Answers((rows,)), Answers((rows,)), torch.tensor([3, -100]))
    assert len(seen.student.rows) == 2
    assert seen.labels.tolist() == [3, -100]


def test_vectors_are_made_where_they_are_read():
    sides = [Answers((drawn(i)[0],)) for i in (0, 1)]
    assert look(TOKENS, *sides, LABELS).student.vectors is None
    vectors = look(TOKENS, *sides, LABELS, {"vectors"}).teacher.vectors
    assert torch.equal(vectors, drawn(1)[0].mean(1))
