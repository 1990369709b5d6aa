"""Width and rank are what `prune` and `lowrank` do, alone and together with depth."""

from __future__ import annotations

import pytest
import torch
from compressc_student import Student
from student_nets import stack, vit

from compressc.analysis import total_cost
from compressc.ir import graph_hash, run_graph
from compressc.pipeline import Context, Pipeline, parse_pass, parse_passes
from compressc.testing import check_coverage, check_pass
from tests.passes.transformer_nets import MODELS, transformer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("student(width=0.5)", "prune(ratio=0.5)"),
        ("student(width=0.75)", "prune(ratio=0.25)"),
        ("student(rank=0.5)", "lowrank(rank=0.5, limit=1)"),
        ("student(depth=0.5, width=0.5)", "student(depth=0.5),prune(ratio=0.5)"),
        (
            "student(keep=0,2, width=0.5, rank=0.25)",
            "student(keep=0,2),prune(ratio=0.5),lowrank(rank=0.25, limit=1)",
        ),
    ],
)
def test_the_same_as_the_passes_by_themselves(one, other):
    graph = vit()
    got, want = (Pipeline(parse_passes(text)).run(graph)[-1].graph for text in (one, other))
    assert graph_hash(got) == graph_hash(want)
    assert graph_hash(got) != graph_hash(graph)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_rank_is_a_share_of_the_weights(share):
    """r (in + out) of in * out: matrices of 32 x 96, 32 x 32, 32 x 128 and so on."""
    graph = vit()
    checked = check_pass(parse_pass(f"student(rank={share})"), graph)
    for name in ("blocks.0.qkv", "blocks.1.proj", "blocks.2.mlp.0"):
        if f"{name}.v" in checked.graph:
            before = graph[name].layer.weight.numel()
            after = sum(checked.graph[n].layer.weight.numel() for n in (name, f"{name}.v"))
            assert share * 0.9 < after / before <= share
    changed = total_cost(checked.graph).parameters / total_cost(graph).parameters
    assert changed < 1 if share < 0.9 else changed <= 1
    assert [name for name in checked.graph.tensors() if ".v.weight" in name]


def test_what_a_student_costs_is_on_record():
    graph = vit()
    context = Context(graph)
    student = graph.copy()
    parse_pass("student(depth=0.5, width=0.5)").run(student, context)
    ours, theirs = (total_cost(g, b=1) for g in (student, graph))
    assert context.records["student"] == {
        "parameters": [ours.parameters, theirs.parameters],
        "macs": [ours.macs, theirs.macs],
        "at": {"b": 1},
    }
    share = ours.parameters / theirs.parameters
    assert any(f"parameters ({share:.0%})" in text for _, text in context.notes)


@pytest.mark.parametrize(
    "options",
    [{}, {"keep": (1,)}, {"width": 0.5}, {"rank": 0.5}, {"depth": 0.5, "width": 0.5, "rank": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("make", [vit, stack])
def test_agreement(make, options):
    coverage = check_coverage(Student(**options), make())
    assert coverage.covered > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "convnext"])
@pytest.mark.parametrize("options", [{}, {"depth": 0.5, "width": 0.5}], ids=str)
def test_agreement_on_transformers(name, options):
    assert check_coverage(Student(**options), transformer(name)).share > 0.2


def test_the_code_of_the_passes_that_it_calls_counts():
    for text, modules in (
        ("student", ()),
        ("student(width=0.5)", ("compressc_prune.prune",)),
        ("student(rank=0.5)", ("compressc_lowrank.lowrank",)),
    ):
        found = set(parse_pass(text).code().modules)
        assert found >= {"compressc_student.student", "compressc.editing.drop_blocks", *modules}
        ours = {"compressc_prune.prune", "compressc_lowrank.lowrank"}
        assert found & ours == set(modules)


def test_the_outputs_keep_their_shape_at_other_batches():
    checked = check_pass(parse_pass("student(depth=0.5, width=0.5, rank=0.5)"), vit())
    assert run_graph(checked.graph, (torch.randn(5, 1, 8, 8),))[0].shape == (5, 10)
