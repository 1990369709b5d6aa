"""Where the teacher's word counts less, by plain numbers; and a weak teacher."""

import math
from dataclasses import replace

import language_nets
import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.teachers.trust import WAYS
from distill_nets import Start, cut, mlp
from rows_of import softmax

from compressc.data import Dataset, Split
from compressc.distillation import ByLabels, Loss, Readings, Seen, parse_loss
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.pipeline import Context, parse_passes
from compressc.tasks import NO_LABEL, settle
from compressc.tasks.language_model import LanguageModel
from compressc.testing import check_resumes

LABELS = torch.tensor([0, 3, 1, NO_LABEL, 2])


def rows(seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)


def seen(student, teacher, **more):
    by = ByLabels(lambda: torch.nn.functional.cross_entropy(student, LABELS), True)
    return Seen(Readings(student), Readings(teacher), LABELS, by, **more)


def trusted(way, teacher, agreement):
    """The weight of each row, by its formula."""
    for row, label, agree in zip(teacher.tolist(), LABELS.tolist(), agreement, strict=True):
        p = softmax(row)
        if way == "labels":
            yield 1.0 if label < 0 else p[label] / max(p)
        elif way == "entropy":
            yield 1 + sum(q * math.log(q) for q in p) / math.log(4)
        else:
            yield agree


@pytest.mark.parametrize("way", ["labels", "entropy", "agreement"])
def test_the_teachers_term_is_weighed_row_by_row_and_that_of_the_labels_is_not(way):
    student, teacher, agreement = rows(0), rows(1), [1.0, 1 / 3, 2 / 3, 1.0, 1 / 3]
    weights = list(trusted(way, teacher, agreement))
    assert min(weights) < 0.9
    of = seen(student, teacher, agreement=torch.tensor(agreement, dtype=torch.float64))
    assert WAYS[way](of).tolist() == pytest.approx(weights, rel=1e-5)
    each = []
    for mine, its in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(its, 4.0), softmax(mine, 4.0)
        each.append(16 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    known = [(row, y) for row, y in zip(student.tolist(), LABELS.tolist(), strict=True) if y >= 0]
    ce = -sum(math.log(softmax(row)[y]) for row, y in known) / len(known)
    kd = sum(w * v for w, v in zip(weights, each, strict=True)) / 5  # of all rows: less is less
    loss = Loss(parse_loss("0.3*ce + 0.7*kd(T=4)"), trust=WAYS[way])
    assert float(loss.total(of)) == pytest.approx(0.3 * ce + 0.7 * kd, rel=1e-5)
    values = loss.values(of)
    assert float(values["kd"]) == pytest.approx(kd, rel=1e-5)
    assert float(values["ce"]) == pytest.approx(ce, rel=1e-5)


def test_a_teacher_that_is_right_is_trusted_in_full():
    teacher = 50.0 * torch.nn.functional.one_hot(LABELS.clamp_min(0), 4).double()
    for way in ("labels", "entropy"):
        assert WAYS[way](seen(rows(0), teacher)).tolist() == pytest.approx([1.0] * 5)


@pytest.fixture
def weak(data):
    """A teacher that takes class 0 for class 1, and the right labels."""
    graph = mlp()
    with torch.no_grad():
        for tensor in (graph.tensors()["fc2.weight"], graph.tensors()["fc2.bias"]):
            tensor.copy_(tensor[[1, 0, 2]])
    return graph


def labelled_task(teacher, data):
    """By the labels, although the teacher is often wrong or most of them are not known."""
    return replace(settle(teacher, data), labels=True)


def right(graph, data):
    (x,) = data.train.inputs
    return float((lower(graph)(x).argmax(1) == data.train.labels).float().mean())


def learn(teacher, data, **options):
    student, ctx = cut(mlp()), Context(teacher, data)
    Distill(epochs=30, lr=0.05, **options).run(student, ctx)
    return student, [text for _, text in ctx.notes], ctx


def test_where_the_teacher_is_wrong_the_labels_win(weak, data):
    task, found = labelled_task(weak, data), {}
    for trust in (None, "labels"):
        student, ctx = cut(mlp()), Context(weak, data, task=task)
        Distill(epochs=30, lr=0.05, features=0.0, trust=trust).run(student, ctx)
        said = [text for _, text in ctx.notes]
        found[trust] = right(student, data)
        told = [t for t in said if t.startswith("trust=labels: the teacher's word counts")]
        assert bool(told) == bool(trust)
        noticed = any(t.startswith("a weak teacher: the student's accuracy") for t in said)
        assert noticed == ctx.records["beside the teacher"]["weak"]
    assert noticed
    assert right(weak, data) < 0.6
    assert found["labels"] > found[None] + 0.1


def test_a_teacher_that_is_as_good_is_not_called_weak(teacher, data):
    _, said, ctx = learn(teacher, data)
    assert not any(text.startswith("a weak teacher") for text in said)
    assert ctx.records["beside the teacher"]["teacher"] == 1.0


@pytest.mark.parametrize("top", [0, 2])
def test_likelihoods_of_answers_kept_short_are_not_held_against_the_teacher(top):
    """What two of 17 words leave to the others is no likelihood of each of them."""
    net = language_nets.trained(language_nets.Bigrams(), 20)
    graph, data = language_nets.graph_of(net), language_nets.dataset()
    ctx = Context(graph, data, task=settle(graph, data, task=LanguageModel()))
    Distill(epochs=1, loss="kd", answers_top=top).run(graph.copy(), ctx)
    assert ("beside the teacher" in ctx.records) == (top == 0)
    assert not any(text.startswith("a weak teacher") for _, text in ctx.notes)


def test_terms_that_are_not_of_rows_are_said(teacher, data):
    _, said, _ = learn(teacher, data, loss="ce + kd + cc", trust="entropy")
    assert [text for text in said if "not weighed by trust" in text] == [
        "cc is not weighed by trust: its values are of pairs, not of rows"
    ]


def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path):
    pass_ = Distill(epochs=3, batch_size=64, trust="entropy")
    check_resumes([Start(), pass_], teacher, data, tmp_path, dies_at=8)


def test_what_cannot_be_trusted_is_refused(teacher, student, unlabelled):
    with pytest.raises(CompresscError, match=r"CC105.*trust=labels needs labels"):
        Distill(trust="labels").run(student, Context(teacher, unlabelled))
    for text in ("distill(trust=agreement)", "distill(trust=agreement,teachers=a.pt)"):
        with pytest.raises(CompresscError, match=r"CC102.*of several teachers"):
            parse_passes(text)
    with pytest.raises(CompresscError, match=r"CC102.*trust and answers_top"):
        parse_passes("distill(trust=entropy,answers_top=2)")


def test_values_are_no_word_to_trust(teacher, student, data):
    values = Split(data.train.inputs, torch.randn(400, 3))
    numbers = Dataset("numbers", values, values, values)
    task = settle(teacher, numbers)
    task = replace(task, judged=replace(task.judged, learned="values"))
    with pytest.raises(CompresscError, match=r"CC301.*class scores"):
        Distill(trust="entropy").run(student, Context(teacher, numbers, task=task))


@pytest.mark.parametrize("labelled", [0, 12])
def test_stretches_without_a_label_have_no_part_in_it(teacher, student, data, labelled):
    """A teacher's own labels, most of which nobody knows; the test part has all of them."""
    hidden = data.train.labels.clone()
    hidden[labelled:] = NO_LABEL
    train = Split(data.train.inputs, hidden)
    few = Dataset("few", train, train, data.train, validation=train)
    ctx = Context(teacher, few, task=labelled_task(teacher, few))
    Distill(epochs=1, alpha=0.3 if labelled else 0.0).run(student, ctx)
    assert ("beside the teacher" in ctx.records) == bool(labelled)
