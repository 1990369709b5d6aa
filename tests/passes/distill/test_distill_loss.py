"""The loss that the options stand for."""

from dataclasses import replace

import pytest
import torch
from compressc_distill.composing import Composition, objective_of
from compressc_distill.distill import Distill
from distill_nets import mlp

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import lower, parse_graph
from compressc.pipeline import Context, parse_pass
from compressc.spec import sum_text
from compressc.tasks import settle
from compressc.tasks.language_model import LanguageModel

TASK = settle(mlp())
NET = """
graph g(%x: f32[b,4]) {{
  %fc = linear(%x) {{in=4, out=3}} @fc.weight @fc.bias : f32[b,3]   # from fc
  %end = {end}
  return %end
}}
"""


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        ("aten.softmax.int(%fc, 1) : f32[b,3]   # from end", "kd"),
        ("sigmoid(%fc) : f32[b,3]   # from end", "bernoulli"),
        ("aten.sum.dim_IntList(%fc, [1]) : f32[b]   # from end", "scaled_mse"),
        ("relu(%fc) : f32[b,3]   # from end", "vectors"),
    ],
)
def test_the_objective_goes_by_what_is_put_out(end, wanted):
    tensors = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    task = settle(parse_graph(NET.format(end=end), tensors))
    assert objective_of(task.judged) == wanted
    ended = task.judged.ending in ("softmax", "sigmoid")
    graph = parse_graph(NET.format(end=end), tensors)
    assert task.value_in(graph) == ("fc" if ended else "end")


@pytest.mark.parametrize(
    ("options", "labels", "want"),
    [
        ({}, True, "0.3*ce + 0.7*kd + hint"),
        ({}, False, "kd + hint"),
        ({"alpha": 1.0, "features": 0.5}, True, "ce + 0.5*hint"),
        ({"alpha": 0.0, "features": 0.0, "temperature": 2.0}, True, "kd(T=2.0)"),
        ({"objective": "mse_logits", "features": 0.0}, False, "mse_logits"),
        ({"objective": "dkd(beta=2)", "features": 0.0}, False, "dkd(beta=2.0)"),
        (
            {"objective": "dkd(beta=2)", "features": 0.0, "temperature": 3.0},
            False,
            "dkd(T=3.0, beta=2.0)",
        ),
        ({"objective": "dkd(T=1)", "features": 0.0}, False, "dkd(T=1.0)"),
        ({"loss": "ce + 2*kd"}, True, "ce + 2*kd"),
    ],
)
def test_options_are_short_for_a_sum(options, labels, want):
    composition = Distill(**options)._composition
    assert isinstance(composition, Composition)
    assert sum_text(composition.terms(replace(TASK, labels=labels))) == want


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"features": 0.0}, "0.3*ce + 0.7*kd(T=1.0)"),
        ({"features": 0.0, "temperature": 2.0}, "0.3*ce + 0.7*kd(T=2.0)"),
        ({"objective": "mse_logits", "features": 0.0}, "0.3*ce + 0.7*mse_logits"),
        ({"loss": "ce + reverse_kl + 2*kd(T=3)"}, "ce + reverse_kl(T=1.0) + 2*kd(T=3.0)"),
        ({"loss": "kd(T=adaptive)"}, "kd(T=adaptive)"),
    ],
)
def test_next_words_are_learned_as_likely_as_they_are(options, want):
    task = replace(TASK, labels=True, task=LanguageModel())
    assert sum_text(Distill(**options)._composition.terms(task)) == want


def trained(teacher, student, data, text):
    ctx = Context(teacher, data)
    parse_pass(text).run(student, ctx)
    return {name: tensor.detach() for name, tensor in student.tensors().items()}, ctx


def test_the_sum_that_options_are_short_for_gives_the_same_bytes(teacher, student, data):
    short, _ = trained(teacher, student.copy(), data, "distill(epochs=3)")
    text = "distill(epochs=3, loss='0.3*ce + 0.7*kd(T=4) + hint')"
    long, ctx = trained(teacher, student.copy(), data, text)
    assert all(torch.equal(short[name], long[name]) for name in short)
    assert any("learned by 0.3*ce + 0.7*kd(T=4.0) + hint" in note for _, note in ctx.notes)
    other, _ = trained(teacher, student.copy(), data, text.replace("T=4", "T=3"))
    assert not all(torch.equal(short[name], other[name]) for name in short)


def test_terms_without_what_they_read_are_left_out_with_a_note(teacher, student, unlabelled):
    _, ctx = trained(teacher, student, unlabelled, "distill(epochs=1, loss='ce + kd')")
    assert any("ce is left out: there are no labels" in note for _, note in ctx.notes)
    with pytest.raises(CompresscError, match=r"CC105.*needs labels"):
        trained(teacher, student, unlabelled, "distill(epochs=1, loss=ce)")


def test_loss_and_what_it_stands_for_are_not_given_together():
    with pytest.raises(CompresscError, match=r"CC102.*loss and alpha: give one of them"):
        parse_pass("distill(loss=kd, alpha=0.5)")
    parse_pass("distill(loss=kd, feature_points=2)")


def test_what_an_objective_cannot_use_is_refused_before_training(teacher, student, data):
    two = Split(data.train.inputs, data.train.labels)
    with pytest.raises(CompresscError, match=r"CC107"):
        parse_pass("distill(loss='ce + nosuch')")
    graph = parse_graph(
        """
graph g(%x: f32[b,6]) {
  %fc = linear(%x) {in=6, out=2} @fc.weight @fc.bias : f32[b,2]   # from fc
  return %fc
}
""",
        {"fc.weight": torch.randn(2, 6), "fc.bias": torch.zeros(2)},
    )
    bare = Split(two.inputs)
    ctx = Context(graph, Dataset("bare", bare, bare, bare))
    with pytest.raises(CompresscError, match=r"CC301.*'dkd' needs 3 classes"):
        Distill(epochs=1, objective="dkd").run(graph.copy(), ctx)


def test_dot_gives_the_labels_a_momentum_of_their_own(teacher, student, data, unlabelled):
    text = "distill(epochs=3, lr=0.02, optimizer=sgd, dot={}, loss='ce + kd')"
    made = [trained(teacher, student.copy(), data, text.format(dot)) for dot in (0, 1e-9, 0.08)]
    plain, alike, apart = (weights for weights, _ in made)
    for name in plain:
        torch.testing.assert_close(alike[name], plain[name], rtol=1e-3, atol=1e-4)
    assert not all(torch.allclose(apart[n], plain[n], rtol=1e-2) for n in plain)
    terms = made[2][1].records["training"]["history"][0]["terms"]
    assert set(terms) == {"ce", "kd"}
    _, ctx = trained(teacher, student.copy(), unlabelled, text.format(0.05))
    assert any("no labels: dot makes one momentum of 0.95" in note for _, note in ctx.notes)


@pytest.mark.parametrize("more", ["", ", optimizer=sgd, lr=0.1, shard=true"])
def test_dot_needs_whole_weights_and_sgd(more):
    with pytest.raises(CompresscError, match=r"CC102.*dot has two momenta of optimizer=sgd"):
        parse_pass(f"distill(dot=0.05{more})")


TWO = """
graph two(%x: f32[b,6]) {
  %body = linear(%x) {in=6, out=8} @body.weight @body.bias : f32[b,8]   # from body
  %act = relu(%body) : f32[b,8]   # from act
  %left = linear(%act) {in=8, out=3} @left.weight @left.bias : f32[b,3]   # from left
  %right = linear(%act) {in=8, out=2} @right.weight @right.bias : f32[b,2]   # from right
  %scores = aten.softmax.int(%left, 1) : f32[b,3]   # from scores
  %signs = aten.sign.default(%right) : f32[b,2]   # from signs
  return {"scores": %scores, "signs": %signs}
}
"""


def two_headed():
    generator = torch.Generator().manual_seed(0)
    shapes = {"body": (8, 6), "left": (3, 8), "right": (2, 8)}
    tensors = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        tensors[f"{name}.weight"] = torch.nn.Parameter(weight)
        tensors[f"{name}.bias"] = torch.nn.Parameter(torch.zeros(shape[0]))
    return parse_graph(TWO, tensors)


def test_values_learns_outputs_that_no_gradient_passes():
    teacher, student = two_headed(), two_headed()
    with torch.no_grad():
        for name in ("left", "right"):
            student[name].layer.weight.mul_(0.1)
    x = Split((torch.randn(400, 6, generator=torch.Generator().manual_seed(1)),))
    ctx = Context(teacher, Dataset("bare", x, x, x))
    Distill(epochs=10, lr=0.02, loss="values").run(student, ctx)
    heads = [lower(graph, also=["left", "right"])(*x.inputs)[1] for graph in (student, teacher)]
    for ours, theirs in zip(*heads, strict=True):  # no gradient passes the sign of the second
        assert float((ours - theirs).pow(2).mean() / theirs.var()) < 0.1  # 0.8 before
    notes = dict(ctx.notes)
    assert "matched with the teacher's %right" in notes["right"]
    assert any(text == "learned by values, taken before its softmax" for _, text in ctx.notes)


def test_a_student_without_lineage_has_its_heads_matched_by_output():
    teacher, student = two_headed(), two_headed()
    for op in student:
        op.lineage = ()
    x = Split((torch.randn(100, 6),))
    ctx = Context(teacher, Dataset("bare", x, x, x))
    with torch.no_grad():
        student["right"].layer.weight.mul_(0.1)
    Distill(epochs=1, loss="values").run(student, ctx)
    assert "matched with the teacher's %right" in dict(ctx.notes)["right"]
