"""Teachers of some classes: what they say of all of them by hand, and a distillation by them."""

from __future__ import annotations

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.families.teachers.specialists import Specialist, lifted, split
from distill_nets import MLP, Start
from rows_of import response, softmax

from compressc.distillation import Answers
from compressc.errors import CompresscError
from compressc.ir import lower, parse_graph, save_bundle
from compressc.pipeline import Context, parse_passes
from compressc.testing import check_resumes

#: Two of the three classes, and one score for none of them.
TWO = MLP.replace("mlp", "two").replace("out=3", "out=2").replace("b,3", "b,2")


def two(teacher, scores=2):
    """The teacher's own second and third score, ten times as sure: it tells these two apart."""
    tensors = {name: tensor.detach().clone() for name, tensor in teacher.tensors().items()}
    for name in ("fc2.weight", "fc2.bias"):
        rows = [10 * tensors[name][2:3], 10 * tensors[name][1:2]]  # class 2, then class 1
        rows += [torch.full_like(rows[0], 3.0)] * (scores - 2)
        tensors[name] = torch.nn.Parameter(torch.cat(rows))
    text = TWO.replace("out=2", f"out={scores}").replace("b,2", f"b,{scores}")
    return parse_graph(text, {name: torch.nn.Parameter(t) for name, t in tensors.items()})


@pytest.fixture
def files(tmp_path, teacher):
    save_bundle(teacher, tmp_path / "all")
    save_bundle(two(teacher), tmp_path / "two")
    save_bundle(two(teacher, 3), tmp_path / "none")
    return {name: str(tmp_path / name) for name in ("all", "two", "none")}


def test_a_specialist_decides_among_its_classes_and_others_say_how_likely_these_are():
    draw = torch.Generator().manual_seed(0)
    general, special = (torch.randn(5, n, generator=draw).double() * 2 for n in (4, 3))
    found = lifted(general, special, (3, 1)).exp()  # the third score is of none of them
    for i in range(5):
        p, q = softmax(general[i].tolist()), softmax(special[i, :2].tolist())
        want = [p[0], (p[1] + p[3]) * q[1], p[2], (p[1] + p[3]) * q[0]]
        assert found[i].tolist() == pytest.approx(want, rel=1e-5)
    assert found.sum(1).tolist() == pytest.approx([1] * 5, rel=1e-6)


def test_the_mean_of_the_general_teachers_says_how_likely_they_are():
    class Says:
        def __init__(self, values):
            self.values = values

        def answers(self, batch):
            return Answers((self.values,))

        def close(self):
            self.closed = True

    general, special = [torch.randn(2, 3) for _ in range(2)], Says(torch.randn(2, 2))
    one = Specialist(special, (0, 2), [Says(x) for x in general], response())
    got = one.answers(None).learned[0]  # type: ignore[arg-type]
    assert torch.allclose(got, lifted(sum(general) / 2, special.values, (0, 2)))
    one.close()
    assert special.closed


@pytest.mark.parametrize("name", ["two", "none"])
def test_a_student_learns_what_the_specialist_tells_apart(
    teacher, student, unlabelled, files, name
):
    """Where the general teacher is unsure of two classes, the student is as sure as the other."""
    graph, ctx = student.copy(), Context(teacher, unlabelled)
    named = f"{files['all']},{files[name]}@2+1"
    Distill(epochs=30, lr=0.05, features=0.0, temperature=1, teachers=named).run(graph, ctx)
    (x,) = unlabelled.train.inputs
    with torch.no_grad():
        theirs, ours = (lower(g)(x) for g in (teacher, graph))
        sharp = lifted(theirs, lower(two(teacher))(x), (2, 1))
    wanted = (theirs.log_softmax(1) + sharp) / 2

    def distance(log):
        p = log.softmax(1)
        return float((p * (log.log_softmax(1) - ours.log_softmax(1))).sum(1).mean())

    assert distance(wanted) < 0.5 * distance(theirs)
    (text,) = [text for _, text in ctx.notes if text.startswith("2 teachers")]
    assert "@2+1" in text


def test_killed_and_begun_again_it_is_the_same_run(teacher, data, files, tmp_path):
    named = f"{files['all']},{files['two']}@2+1"
    pass_ = Distill(epochs=3, batch_size=64, teachers=named, combine="learned")
    check_resumes([Start(), pass_], teacher, data, tmp_path / "cache", dies_at=7)


@pytest.mark.parametrize(
    ("teachers", "says"),
    [
        ("a.pt@0+1", "one of the teachers knows all classes"),
        ("a.pt,b.pt@1", "tells two classes apart or more"),
        ("a.pt,b.pt@1+1", "tells two classes apart or more"),
    ],
)
def test_names_that_are_none_are_refused(teachers, says):
    with pytest.raises(CompresscError, match=rf"CC102.*{says}"):
        parse_passes(f"distill(teachers='{teachers}')")
    assert split("a@b.pt") == ("a@b.pt", ())
    assert split("a.pt@10+2") == ("a.pt", (10, 2))


@pytest.mark.parametrize(
    ("name", "classes", "says"),
    [
        ("two", "0+1+2", "a score for each.*got 2 scores"),
        ("all", "0+3", "classes of the run's model, 0 to 2.*got 3"),
    ],
)
def test_specialists_of_other_classes_are_refused(
    teacher, student, data, files, name, classes, says
):
    named = f"{files['all']},{files[name]}@{classes}"
    with pytest.raises(CompresscError, match=rf"CC208.*{says}"):
        Distill(teachers=named).run(student, Context(teacher, data))
