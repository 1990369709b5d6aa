"""Several teachers: what they say together, by plain numbers, and a distillation by them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.teachers.combining import Stacked, confidence, learned
from distill_nets import MLP, Start, mlp, mlp_tensors
from rows_of import response, softmax
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.distillation import Answers, Several, Teaching, mean
from compressc.errors import CompresscError
from compressc.ir import Graph, load_bundle, lower, parse_graph, save_bundle
from compressc.pipeline import Context, PassCache, Pipeline, parse_passes
from compressc.tasks import settle, task_of
from compressc.testing import check_resumes
from compressc.training import Drawn

CPU = torch.device("cpu")


def logits(seed, rows=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_the_mean_is_the_geometric_mean_of_distributions_at_any_temperature(t):
    teachers = [logits(seed) for seed in range(3)]
    got = (mean(teachers, response()) / t).softmax(-1)
    for i in range(5):
        each = [softmax(x[i].tolist(), t) for x in teachers]
        means = [math.prod(p[c] for p in each) ** (1 / 3) for c in range(4)]
        want = [m / sum(means) for m in means]
        assert got[i].tolist() == pytest.approx(want, rel=1e-9)


def test_confidence_weighs_logits_by_entropy():
    teachers = [logits(0), 0.02 * logits(1)]  # the second is nearly as unsure as can be
    got = confidence(teachers, response())
    for i in range(5):
        sure = []
        for x in teachers:
            p = softmax(x[i].tolist())
            sure.append(1 + sum(q * math.log(q) for q in p) / math.log(4))
        want = [
            sum(w * float(x[i, c]) for w, x in zip(sure, teachers, strict=True)) / sum(sure)
            for c in range(4)
        ]
        assert got[i].tolist() == pytest.approx(want, rel=1e-5)
        assert sure[1] < 0.05 * sure[0]


def test_of_maps_the_classes_are_where_the_output_has_them():
    teachers = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    rows = [x.movedim(1, -1).reshape(-1, 3) for x in teachers]
    weights = torch.rand(2, 3).softmax(0)
    for rule in (confidence, Stacked(weights)):
        got = rule(teachers, response(dim=1)).movedim(1, -1).reshape(-1, 3)
        torch.testing.assert_close(got, rule(rows, response()))


class Given:
    """Answers by position."""

    def __init__(self, values):
        self.values = values

    def answers(self, batch):
        return Answers((self.values[batch.positions],))

    def close(self):
        pass


def test_agreement_is_the_share_that_chooses_as_all_together_do():
    one, other = torch.tensor([[3.0, 0], [1, 0]]), torch.tensor([[2.0, 0], [0, 5]])
    several = Several([Given(one), Given(other), Given(one)], response())
    batch = Drawn(torch.arange(2), None, Split((torch.zeros(2, 1),)))
    answers = several.answers(batch)
    assert answers.agreement.flatten().tolist() == pytest.approx([1.0, 1 / 3])
    assert torch.equal(answers.learned[0].argmax(1), torch.tensor([0, 1]))


def test_learned_weights_are_those_of_the_least_cross_entropy(teacher):
    """Two teachers of three classes, the best weights by a grid over the simplex of each class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    clear = 2 * F.one_hot(labels, 3).float()
    noise = [torch.randn(300, 3, generator=generator) for _ in range(2)]
    first = clear * torch.tensor([1.0, 1.0, 0.0]) + noise[0]  # knows nothing of class 2
    second = clear * torch.tensor([0.0, 1.0, 1.0]) + noise[1]  # and this one of class 0
    samples = Split((torch.zeros(300, 6),), labels)
    task = replace(settle(teacher, Dataset("toy", samples, samples, samples)), labels=True)
    several = Several([Given(first), Given(second)], task.judged)
    exam = Teaching(samples, CPU, several, None, task, None)
    weights = learned(exam, several, 0).weights
    logs = [x.log_softmax(1) for x in (first, second)]

    def loss(w):
        return float(F.cross_entropy(w * logs[0] + (1 - w) * logs[1], labels))

    steps = torch.linspace(0, 1, 21)
    best = min((loss(w), w.tolist()) for w in torch.cartesian_prod(steps, steps, steps))
    assert loss(weights[0]) <= best[0] + 2e-3
    assert weights[0].tolist() == pytest.approx(best[1], abs=0.15)
    assert weights[0, 0] > 0.6
    assert weights[0, 2] < 0.4
    assert loss(weights[0]) < min(loss(w) for w in (0.5, 0.0, 1.0))
    assert weights.sum(0).tolist() == pytest.approx([1, 1, 1])


@pytest.fixture
def files(tmp_path):
    """Three teachers of the same form as the run's, off from it by noise of their own."""
    names = []
    for seed in range(3):
        graph = mlp()
        generator = torch.Generator().manual_seed(10 + seed)
        with torch.no_grad():
            for tensor in graph.tensors().values():
                tensor.add_(0.4 * torch.randn(tensor.shape, generator=generator))
        save_bundle(graph, tmp_path / f"t{seed}")
        names.append(str(tmp_path / f"t{seed}"))
    return names


def taught(student: Graph, data: Dataset, teacher: Graph, **options):
    graph, ctx = student.copy(), Context(teacher, data)
    Distill(epochs=30, lr=0.05, features=0.0, **options).run(graph, ctx)
    return graph, ctx


def answers(graph, x):
    return lower(graph)(x).detach().log_softmax(1)


@pytest.mark.parametrize("combine", ["mean", "confidence"])
def test_an_ensemble_labels_an_unlabelled_set_and_one_student_learns_it(
    teacher, student, unlabelled, files, combine
):
    """Bucila, Caruana and Niculescu-Mizil 2006; the run's own model has no part in it."""
    graph, ctx = taught(
        student, unlabelled, teacher, alpha=0.0, teachers=",".join(files), combine=combine
    )
    (x,) = unlabelled.train.inputs
    each = [lower(load_bundle(Path(name)))(x).detach() for name in files]
    rule = {"mean": mean, "confidence": confidence}[combine]
    theirs = rule(each, response()).log_softmax(1)

    def distance(log):
        return float(F.kl_div(answers(graph, x), log, reduction="batchmean", log_target=True))

    assert distance(theirs) < 0.5 * min(distance(x.log_softmax(1)) for x in each)
    assert distance(theirs) < 0.5 * distance(answers(teacher, x))
    (text,) = [text for _, text in ctx.notes if text.startswith("3 teachers")]
    assert "agreement with all" in text
    assert len(ctx.records["teachers"]["scores"]) == 3


def test_the_runs_own_model_gives_inner_values_and_its_file_may_be_a_teacher(
    teacher, student, data, files
):
    graph, ctx = student.copy(), Context(teacher, data)
    Distill(epochs=2, teachers=",".join(files[:2]), combine="learned").run(graph, ctx)
    assert any(text.startswith("matched with the teacher's") for _, text in ctx.notes)
    weights = torch.tensor(ctx.records["teachers"]["weights"])
    assert weights.shape == (2, 3)
    assert weights.sum(0).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("combine", ["mean", "learned"])
def test_killed_and_begun_again_it_is_the_same_run(teacher, data, files, tmp_path, combine):
    passes = [
        Start(),
        Distill(epochs=3, batch_size=64, teachers=",".join(files), combine=combine),
    ]
    cache = tmp_path / "cache"
    check_resumes(passes, teacher, data, cache, dies_at=7)
    save_bundle(mlp(), tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "t1x")
    (tmp_path / "t1").rename(tmp_path / "gone")
    (tmp_path / "t1x").rename(tmp_path / "t1")  # of that name, and another model
    pipeline = Pipeline(passes, data, cache=PassCache(cache))
    assert not pipeline.run(teacher)[-1].cached


def test_a_teacher_of_other_classes_is_refused(teacher, student, data, tmp_path):
    tensors = mlp_tensors()
    tensors["fc2.weight"] = torch.nn.Parameter(torch.zeros(4, 12))
    tensors["fc2.bias"] = torch.nn.Parameter(torch.zeros(4))
    text = MLP.replace("out=3", "out=4").replace("f32[b,3]", "f32[b,4]")
    save_bundle(parse_graph(text, tensors), tmp_path / "four")
    with pytest.raises(CompresscError, match=r"CC208.*give what the run's model does.*f32\[b,4\]"):
        Distill(teachers=str(tmp_path / "four")).run(student, Context(teacher, data))


def test_what_teachers_cannot_be_is_refused(teacher, student, data, unlabelled, files):
    with pytest.raises(CompresscError, match="CC200"):
        Distill(teachers="nowhere.pt").cache_key()
    fitted = Distill(teachers=",".join(files), combine="learned")
    with pytest.raises(CompresscError, match=r"CC105.*by labels"):
        fitted.run(student, Context(teacher, unlabelled))
    sure = Distill(teachers=",".join(files), combine="confidence")
    task = replace(task_of(Context(teacher, data)), judged=replace(response(), learned="values"))
    with pytest.raises(CompresscError, match=r"CC301.*class scores"):
        sure.run(student, Context(teacher, data, task=task))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("distill(teachers='a.pt,a.pt')", "each once"),
        ("distill(teachers='a.pt,')", "files with commas"),
        ("distill(combine=confidence)", "of several teachers"),
        ("distill(teachers=a.pt,combine=learned)", "of several teachers"),
        ("distill(teachers=a.pt,answers_from=x)", "give one of them"),
        ("distill(teachers=a.pt,answers_top=4)", "give one of them"),
    ],
)
def test_options_that_contradict_each_other_are_refused(text, hint):
    with pytest.raises(CompresscError, match=rf"CC102.*{hint}"):
        parse_passes(text)
