"""A student that sees another view than its teacher: bound by name, taught, kept and emitted."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import compressc
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import graph_hash, lower
from compressc.pipeline import parse_passes
from compressc.target import Target
from compressc.testing import Killed, kill_at

FACTORY = Path(__file__).with_name("views_student.py")
STUDENT = f"student(factory='{FACTORY}:small')"
NOTHING = Target(backends=(), batches=())


def points(names=("image", "sums")):
    """Six numbers, which the teacher sees; the other view is three sums of two of them."""
    draw = torch.Generator().manual_seed(0)

    def part(count):
        x = torch.randn(count, 6, generator=draw)
        y = (x[:, :2].sum(1) > 0).long()
        return Split((x, x.unflatten(1, (3, 2)).sum(2)), y, names)

    return Dataset("points", part(128), part(32), part(64), part(48))


def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).eval()


def run(options="", data=None, passes="", **more):
    text = passes or f"{STUDENT},distill(loss='kd(T=2)',precision=float32{options})"
    given = {"cache": None, "target": NOTHING} | more
    return compressc.compile(teacher(), text, data=data or points(), **given)


def test_the_teacher_answers_to_its_view_and_the_student_learns_from_its_own():
    """Loss before training: T^2 KL(teacher(x)/T || student(sums)/T), in float64 by hand."""
    made = run(",epochs=2,student_inputs=sums")
    start = made.report.passes[-1].records["training"]["start"][0]
    data, net = points(), {}
    exec(compile(FACTORY.read_text(), str(FACTORY), "exec"), net)
    x, sums = data.validation.inputs
    theirs, ours = teacher()(x).double(), net["small"]()(sums).double()
    total = 0.0
    for row, mine in zip(theirs.tolist(), ours.tolist(), strict=True):
        p, q = ([math.exp(value / 2) for value in logits] for logits in (row, mine))
        p, q = ([value / sum(side) for value in side] for side in (p, q))
        total += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert start == pytest.approx(-total / len(x), rel=1e-4)
    assert made.report.passes[-1].records["training"]["best"][0] > start
    notes = [note.text for note in made.report.passes[-1].notes]
    assert notes[0].startswith("the student reads sums, the teacher ")


def test_graph_and_files_read_the_students_view_alone(tmp_path):
    made = run(",epochs=1,student_inputs=sums", target=Target(backends=("onnx",), batches=()))
    unread = [op.name for op in made.graph.inputs if not made.graph.users(op.name)]
    assert len(made.graph.inputs) == 2
    assert unread == [made.graph.inputs[0].name]
    record = made.save(tmp_path / "out")
    assert not record.failures
    file = onnx.load(tmp_path / "out" / record.files[0].path)
    assert [given.name for given in file.graph.input] == ["sums"]
    assert record.files[0].scores == record.passes[-1].scores
    first, other = points().test.inputs
    with torch.no_grad():
        answers = [lower(made.graph)(x, other) for x in (first, torch.zeros_like(first))]
    assert torch.equal(*answers)


def test_inputs_without_names_go_by_their_place():
    named, numbered = run(",epochs=1,student_inputs=sums"), None
    data = points(None)
    net = FACTORY.read_text().replace("sums", "x1")
    place = FACTORY.with_name("views_student_x1.py")
    place.write_text(net)
    try:
        passes = (
            f"student(factory='{place}:small'),distill(loss='kd(T=2)',precision=float32,epochs=1,"
        )
        numbered = run(data=data, passes=passes + "student_inputs=x1)")
    finally:
        place.unlink()
    scores = [made.report.passes[-1].scores for made in (named, numbered)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("dies_at", [3, 12])
def test_killed_and_begun_again_it_is_the_same_run(tmp_path, dies_at):
    options = ",epochs=3,batch_size=16,student_inputs=sums"

    want = run(options)
    with pytest.raises(Killed):
        run(options, cache=tmp_path, checkpoint_every=0.0, tell=kill_at(dies_at, "distill"))
    got = run(options, cache=tmp_path, checkpoint_every=0.0)
    assert graph_hash(got.graph) == graph_hash(want.graph)
    assert got.report.passes[-1].records == want.report.passes[-1].records


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (",student_inputs=sum", "CC301", "sum; there are image, sums"),
        (",student_inputs='image,sums'", "CC301", "all there are: image, sums"),
        (",student_inputs='sums,sums'", "CC102", "each once"),
        (",student_inputs=sums,generations=2", "CC102", "give one of them"),
    ],
)
def test_what_is_no_view_is_refused(options, code, says):
    with pytest.raises(CompresscError, match=rf"{code}.*{says}"):
        run(options)


def test_a_student_that_reads_the_teachers_view_is_refused():
    with pytest.raises(CompresscError, match=r"CC207.*reads sums alone.*hint: student\(factory="):
        run(passes="distill(epochs=1,student_inputs=sums)")


def test_without_the_option_data_with_two_views_are_refused_as_before():
    with pytest.raises(CompresscError, match=r"CC\d+"):
        run(passes="distill(epochs=1)")
    assert parse_passes("distill(student_inputs=' a , b ')")[0].other_inputs == ("a", "b")
    assert parse_passes("distill")[0].other_inputs == ()
