"""A file is announced only if its own runtime computes the graph from it."""

import dataclasses
from typing import Any

import pytest
import torch
from backend_graphs import float_graph, quantized_graph, samples

from compressc.backend import Backend, emit_proved, is_quantized, prove
from compressc.data import Split
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.tasks import Response, Task


class Pretended(Backend):
    """Computes the graph in torch, and then changes the result."""

    name = "pretended"
    runtime = "a runtime"
    suffix = "file"
    graph: Any
    change: Any

    def __init__(self, graph, change):
        super().__init__(graph=graph, change=change)

    def emit(self, graph, folder, example):
        assert all(len(x) <= 8 for x in example)
        (folder / "file").write_text("x")
        return folder / "file"

    def load(self, path, threads=1):
        module = lower(self.graph)
        return lambda *inputs: (self.change(module(*inputs).detach()),)


SPLIT = Split((samples(150),))


def run(tmp_path, graph, change):
    return emit_proved(Pretended(graph, change), graph, tmp_path, SPLIT)


def test_the_same_numbers_pass(tmp_path):
    path, found = run(tmp_path, float_graph(), lambda y: y)
    assert path.exists()
    assert found.max_abs_error == 0
    assert found.samples == 150


def test_rounding_passes(tmp_path):
    run(tmp_path, float_graph(), lambda y: y + 1e-6 * torch.randn_like(y) * y.abs().max())


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("half precision", lambda y: y.bfloat16().float()),
        ("a lost sample", lambda y: torch.cat([y[:1] * 0, y[1:]]) if len(y) > 100 else y),
        ("NaN", lambda y: y * float("nan")),
    ],
)
def test_wrong_numbers_are_caught_and_the_file_removed(tmp_path, what, change):
    with pytest.raises(CompresscError, match=r"CC504.*relative error"):
        run(tmp_path, float_graph(), change)
    assert not list(tmp_path.iterdir()), what


def test_wrong_shape_is_caught(tmp_path):
    with pytest.raises(CompresscError, match=r"CC504.*shapes \[\[1, 64\]\]"):
        run(tmp_path, float_graph(), lambda y: y[:, :63])


def test_a_file_that_runs_at_one_batch_only_is_caught(tmp_path):
    def fixed(y):
        if len(y) != 1:
            raise RuntimeError("Got invalid dimensions for input: x\nmore")
        return y

    with pytest.raises(CompresscError, match=r"CC504.*at batch 3 \(got Got invalid dimensions"):
        run(tmp_path, float_graph(), fixed)


def test_quantized_graphs_may_differ_by_steps(tmp_path):
    graph = quantized_graph()
    assert is_quantized(graph)
    assert not is_quantized(float_graph())
    generator = torch.Generator().manual_seed(0)
    _, found = run(tmp_path, graph, lambda y: y + 0.01 * torch.randn(y.shape, generator=generator))
    assert found.max_abs_error > 0.01


def test_a_wrong_scale_in_one_layer_is_caught(tmp_path):
    graph, wrong = quantized_graph(), quantized_graph()
    wrong["conv"].layer.scale[:] *= 1.2
    with pytest.raises(CompresscError, match=r"CC504.*cosine"):
        prove(Pretended(wrong, lambda y: y), graph, tmp_path, SPLIT)


def test_other_winners_are_caught_where_the_teacher_knows_the_labels(tmp_path):
    def change(y):  # close to a tie, the other one wins
        first, second = y.topk(2).values[:, :1], y.topk(2).values[:, 1:]
        tied = first - second < 0.1 * y.std()
        return torch.where(tied & (y == second), first + 1e-3, y)

    graph = quantized_graph()
    pretended = Pretended(graph, change)
    judged = Response(0, "fc", "class_scores", 1, "", "class_scores", 1)
    task = Task(judged, (judged,))
    assert prove(pretended, graph, tmp_path, SPLIT).agreement is None
    assert prove(pretended, graph, tmp_path, SPLIT, task).agreement < 0.97
    known = dataclasses.replace(task, labels=True)
    with pytest.raises(CompresscError, match=r"CC504.*agreement"):
        prove(pretended, graph, tmp_path, SPLIT, known)


def test_one_sample_is_enough(tmp_path):
    graph = quantized_graph()
    prove(Pretended(graph, lambda y: y), graph, tmp_path, Split((samples(1),)))
