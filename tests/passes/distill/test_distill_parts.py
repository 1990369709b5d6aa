"""The parts of a distillation: logits as rows, the part held out, the teacher's answers."""

import pytest
import torch
from compressc_distill.features import Pair
from compressc_distill.holdout import hold_out
from compressc_distill.outputs import Rows, logits_name
from compressc_distill.teacher import Reader, Teacher

from compressc.data import Split
from compressc.errors import CompresscError
from compressc.ir import parse_graph

CPU = torch.device("cpu")


def test_a_classifiers_logits_are_rows_already():
    logits = torch.randn(4, 3)
    labels = torch.tensor([0, 1, -100, 2])
    ours, theirs, kept = Rows.fit(logits, labels).split(logits, logits + 1, labels)
    assert torch.equal(ours, logits)
    assert torch.equal(theirs, logits + 1)
    assert kept.tolist() == [0, 1, -100, 2]  # an unknown class is still taught by the teacher


def test_positions_are_rows_and_padding_is_left_out():
    logits = torch.arange(12.0).view(1, 3, 4)
    labels = torch.tensor([[1, -100, 2]])
    ours, _, kept = Rows.fit(logits, labels).split(logits, logits, labels)
    assert ours.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize("labels", [torch.zeros(2, 5, 6, dtype=torch.long), None])
def test_images_of_logits_have_their_classes_second(labels):
    logits = torch.randn(2, 3, 5, 6)
    ours, _, _ = Rows.fit(logits, labels).split(logits, logits, labels)
    assert ours.shape == (60, 3)
    assert torch.equal(ours[7], logits[0, :, 1, 1])


def test_labels_that_fit_no_row_are_refused():
    with pytest.raises(CompresscError, match="CC301"):
        Rows.fit(torch.randn(4, 7, 3), torch.zeros(4, dtype=torch.long))


def test_the_first_output_with_classes_is_distilled(teacher):
    text = str(teacher).replace("return %fc2", "return [%fc1, %fc2]")
    assert logits_name(parse_graph(text, teacher.tensors())) == "fc1"
    assert logits_name(teacher) == "fc2"


def test_a_model_without_class_scores_is_refused():
    graph = parse_graph("graph g(%x: f32[b]) {\n  %y = aten.neg(%x) : f32[b]\n  return %y\n}\n", {})
    with pytest.raises(CompresscError, match="CC301"):
        logits_name(graph)


def samples(count, classes=4):
    rows = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    return Split((rows,), torch.arange(count) % classes)


def rows_of(split):
    return split.inputs[0].squeeze(1).int().tolist()


def test_the_held_out_part_is_apart_stratified_and_seeded():
    kept, held = hold_out(samples(1000), 0.1, seed=0)
    assert sorted(rows_of(kept) + rows_of(held)) == list(range(1000))
    assert torch.bincount(held.labels).tolist() == [25, 25, 25, 25]
    assert rows_of(hold_out(samples(1000), 0.1, seed=0)[1]) == rows_of(held)
    assert rows_of(hold_out(samples(1000), 0.1, seed=1)[1]) != rows_of(held)
    assert all(row % 4 == label for row, label in zip(rows_of(held), held.labels, strict=True))


@pytest.mark.parametrize(
    ("total", "share", "want"), [(1000, 0.2, 200), (300, 0.1, 64), (50, 0.1, 25), (2, 0.1, 1)]
)
def test_how_many_are_held_out(total, share, want):
    kept, held = hold_out(samples(total), share, seed=0)
    assert (len(kept), len(held)) == (total - want, want)


def test_a_single_sample_is_taught_and_examined():
    kept, held = hold_out(samples(1), 0.1, seed=0)
    assert rows_of(kept) == rows_of(held) == [0]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_answers_are_the_same_kept_or_asked_for(teacher, cache_bytes):
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    reader = Reader(teacher, "fc2", ["act"], CPU)
    asked = Teacher(reader, [Pair("act", "act", {1: (1, 4)})], (x,), cache_bytes)
    assert (asked.kept is None) == (cache_bytes == 0)
    index = torch.tensor([299, 0, 150])
    answers = asked.answers(index)
    w = {name: t.detach() for name, t in teacher.tensors().items()}
    hidden = torch.relu(x[index] @ w["fc1.weight"].T + w["fc1.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    assert torch.allclose(answers.logits, logits, atol=1e-5)
    assert torch.allclose(answers.features[0], hidden[:, [1, 4]], atol=1e-5)
    assert not answers.logits.requires_grad
