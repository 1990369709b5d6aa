"""Depth and width under a limit: what is tried, what is chosen, and that the limit holds."""

from __future__ import annotations

import pytest
import torch
from compressc_student import Student
from student_nets import rows, stack
from torch import nn

from compressc.analysis import total_cost
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash
from compressc.pipeline import Context, Pipeline, parse_pass, parse_passes, plan
from compressc.testing import export_graph


@pytest.fixture(scope="module")
def data():
    return rows(6, count=160)


def made(text: str, graph: Graph, data) -> tuple[Graph, Context]:
    (result,) = Pipeline(parse_passes(text), data).run(graph)
    context = Context(graph)
    context.notes, context.records = list(result.notes), dict(result.records)
    return result.graph, context


@pytest.fixture(scope="module")
def found(data):
    graph = stack(3)
    return graph, *made("student(params=0.5, steps=4)", graph, data)


def test_the_limit_holds_for_all_that_is_tried(found):
    graph, student, ctx = found
    tried = ctx.records["student search"]
    assert 2 <= len(tried) <= 4
    assert all(0.2 < shape["parameters"] <= 0.5 for shape in tried)
    ours, theirs = (total_cost(g, b=1).parameters for g in (student, graph))
    assert ours <= theirs / 2


def test_the_nearest_is_chosen_and_all_is_told(found, data):
    graph, student, ctx = found
    tried = ctx.records["student search"]
    assert all(shape["distance"] > 0 for shape in tried)
    best = min(tried, key=lambda shape: shape["distance"])
    said = [text for _, text in ctx.notes]
    assert sum(text.startswith("tried depth=") for text in said) == len(tried)
    (chosen,) = (text for text in said if text.startswith("chose "))
    assert chosen.endswith("the nearest to the teacher")
    text = f"student(depth={best['depth']:.3g}, width={best['width']:.3g})"
    assert text in chosen
    (again,) = Pipeline([parse_pass(text)], data).run(graph)
    assert graph_hash(again.graph) == graph_hash(student)


def test_the_same_seed_chooses_by_the_same_numbers(data):
    (_, first), (_, again) = (
        made("student(params=0.55, steps=3)", stack(2), data) for _ in range(2)
    )
    assert len(first.records["student search"]) == 2
    assert again.records == first.records
    assert again.notes == first.notes


def test_shapes_trade_depth_for_width(found):
    tried = found[2].records["student search"]
    depths, widths = ([shape[name] for shape in tried] for name in ("depth", "width"))
    assert depths == sorted(depths, reverse=True)
    assert widths == sorted(widths)
    assert widths[-1] > widths[0]


@pytest.mark.slow
def test_macs_are_another_limit(data):
    graph = stack(3)
    student, ctx = made("student(macs=0.6, params=0.7, steps=2)", graph, data)
    ours, theirs = (total_cost(g, b=1) for g in (student, graph))
    assert ours.macs <= 0.6 * theirs.macs
    assert ours.parameters <= 0.7 * theirs.parameters
    assert ctx.records["student"]["macs"] == [ours.macs, theirs.macs]


def test_a_limit_that_lets_all_through_is_the_teacher(data):
    graph = stack(2)
    student, ctx = made("student(params=1)", graph, data)
    assert graph_hash(student) == graph_hash(graph)
    assert any("the only one within the limit" in text for _, text in ctx.notes)


def test_no_student_is_that_small(data):
    with pytest.raises(CompresscError) as caught:
        made("student(params=0.01)", stack(2), data)
    assert caught.value.code == "CC102"
    assert "1% of the parameters" in caught.value.wanted
    assert caught.value.got.startswith("depth=0.5, width=0.1: ")


def test_width_alone_where_nothing_repeats():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 2))
    graph = export_graph(net.eval(), torch.randn(2, 6))
    student, ctx = made("student(params=0.5, steps=2)", graph, rows(6))
    assert total_cost(student).parameters <= total_cost(graph).parameters / 2
    assert [shape["depth"] for shape in ctx.records["student search"]] == [1.0]


def test_it_needs_data_and_says_what_it_depends_on():
    with pytest.raises(CompresscError, match="CC105"):
        plan([Student(params=0.5)], None)
    modules = set(Student(params=0.5).code().modules)
    assert modules >= {"compressc_prune.prune", "compressc_distill.objectives.hint"}
    assert "compressc_prune.prune" not in Student(depth=0.5).code().modules


def test_coverage_does_not_guess():
    graph = stack(2)
    verdicts = Student(params=0.5).coverage(graph, Context(graph))
    assert {verdict.outcome for verdict in verdicts.values()} == {"unknown"}


@pytest.mark.parametrize(
    "text",
    [
        *("student(params=0.5, depth=0.5)", "student(macs=0.5, width=0.5)", "student(params=0)"),
        *("student(params=0.5, keep=1)", "student(params=0.5, factory=a:b)", "student(steps=0)"),
    ],
)
def test_bad_options(text):
    with pytest.raises(CompresscError, match="CC102"):
        parse_pass(text)
