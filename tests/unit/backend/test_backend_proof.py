"""A file is announced only if its own runtime computes the graph from it."""

import dataclasses
from typing import Any

import pytest
import torch
from backend_graphs import float_graph, quantized_graph, samples

from compressc.analysis.integers import full_range_layers
from compressc.backend import Backend, emit_proved, is_quantized, prove
from compressc.backend.proof import shorter
from compressc.data import Split
from compressc.errors import CompresscError
from compressc.ir import Ref, lower, parse_graph
from compressc.tasks import Response, SettledTask
from compressc.tasks.known import of_kind


class Pretended(Backend):
    """Computes the graph in torch, and then changes the result."""

    name = "pretended"
    runtime = "a runtime"
    overflows = True
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


@pytest.mark.parametrize(("share", "fine"), [(0.4, True), (0.6, False)])
def test_coarsely_rounded_graphs_may_differ_by_half_of_what_that_does(share, fine, tmp_path):
    """Values in steps of one and more are off by 0.2: a file that is 0.08 off is no wrong file."""
    fine_steps, coarse = quantized_graph(), quantized_graph()
    for op in coarse:
        if "quantize_per_tensor" in op.kind:
            start = (1.0, 4) if op.name.startswith("x.") else (1.2, 0)
            op.args = (op.args[0], *start, *op.args[3:])
    (x,) = SPLIT.take(150).inputs
    with torch.no_grad():
        want = lower(coarse)(x)
        off = (want - lower(fine_steps)(x)).square().mean().sqrt()
    assert 0.08 / 0.4 < off / want.square().mean().sqrt() < 0.5
    generator = torch.Generator().manual_seed(0)

    def change(y):
        return y + share * off * torch.randn(y.shape, generator=generator)

    if fine:
        assert run(tmp_path, coarse, change)[1].relative_rms_error > 0.03
        return
    with pytest.raises(CompresscError, match=r"CC504.*relative error"):
        run(tmp_path, coarse, change)


def test_a_wrong_scale_in_one_layer_is_caught(tmp_path):
    graph, wrong = quantized_graph(), quantized_graph()
    wrong["conv"].layer.scale[:] *= 1.2
    with pytest.raises(CompresscError, match=r"CC504.*relative error at most 0.03"):
        prove(Pretended(wrong, lambda y: y), graph, tmp_path, SPLIT)


def test_other_winners_are_caught_where_the_teacher_knows_the_labels(tmp_path):
    def change(y):  # close to a tie, the other one wins
        first, second = y.topk(2).values[:, :1], y.topk(2).values[:, 1:]
        tied = first - second < 0.1 * y.std()
        return torch.where(tied & (y == second), first + 1e-3, y)

    graph = quantized_graph()
    pretended = Pretended(graph, change)
    judged = Response(0, "fc", "class_scores", 1, "", "class_scores", 1)
    task = SettledTask(of_kind(judged.kind), judged, (judged,))
    assert prove(pretended, graph, tmp_path, SPLIT).agreement is None
    assert prove(pretended, graph, tmp_path, SPLIT, task).agreement < 0.97
    known = dataclasses.replace(task, labels=True)
    with pytest.raises(CompresscError, match=r"CC504.*agreement"):
        prove(pretended, graph, tmp_path, SPLIT, known)


@pytest.mark.parametrize(("error", "fine"), [(0.5e-4, True), (2e-4, False)])
def test_float_files_are_off_by_less_than_a_ten_thousandth(error, fine, tmp_path):
    def change(y):
        return y + error * y.square().mean().sqrt()

    if fine:
        assert run(tmp_path, float_graph(), change)[1].relative_rms_error > 0
        return
    with pytest.raises(CompresscError, match="CC504"):
        run(tmp_path, float_graph(), change)


@pytest.mark.parametrize("change", [lambda y: y * 1.05, lambda y: y + 0.05 * y.std()])
def test_a_factor_that_the_cosine_does_not_see_is_caught(change, tmp_path):
    with pytest.raises(CompresscError, match=r"relative error at most 0.03"):
        run(tmp_path, quantized_graph(), change)


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_worst_output_decides(wrong, tmp_path):
    graph = float_graph()
    graph.outputs = [graph.outputs, Ref("relu")]

    class Two(Pretended):
        def load(self, path, threads=1):
            module = lower(self.graph)

            def both(*inputs):
                outputs = [y.detach() for y in module(*inputs)]
                outputs[wrong] = outputs[wrong] * 1.01
                return tuple(outputs)

            return both

    with pytest.raises(CompresscError, match=r"CC504.*got 0.01"):
        prove(Two(graph, None), graph, tmp_path, SPLIT)


@pytest.mark.parametrize(
    ("largest", "processor", "cause"),
    [(127, "avx2", True), (127, "avx512_vnni", False), (64, "avx2", False)],
)
def test_overflow_is_named_where_it_can_be_the_cause(
    largest, processor, cause, tmp_path, monkeypatch
):
    for module in ("compressc.target", "compressc.backend.proof"):
        monkeypatch.setattr(f"{module}.instruction_set", lambda: processor)
    with pytest.raises(CompresscError) as caught:
        run(tmp_path, quantized_graph(largest), lambda y: y * 1.1)
    assert ("(avx2) has no VNNI" in caught.value.got) == cause
    assert (caught.value.hint == "quant(range=half)") == cause


def bordering(largest=64):
    """Every value of the hidden layer lies between two integers, whatever is put in."""
    graph = quantized_graph(largest)
    graph["conv"].layer.weight.zero_()
    graph["conv"].layer.bias.data = torch.tensor([0.1, 0.06, 0.18, 0.14] * 2)  # of steps of 0.04
    graph["fc"].layer.bias.data.zero_()
    return graph


def test_a_graph_whose_roundings_hang_on_the_last_bit_is_held_against_itself(tmp_path, monkeypatch):
    assert prove(Pretended(bordering(), lambda y: y * 1.05), bordering(), tmp_path, SPLIT)
    with pytest.raises(CompresscError, match="CC504"):
        prove(Pretended(bordering(), lambda y: y * 2), bordering(), tmp_path, SPLIT)
    for module in ("compressc.target", "compressc.backend.proof"):
        monkeypatch.setattr(f"{module}.instruction_set", lambda: "avx2")
    wide = bordering(127)
    wide["conv"].layer.weight.fill_(127)  # sums of these overflow: that is no rounding
    with pytest.raises(CompresscError, match="CC504"):
        prove(Pretended(wide, lambda y: y * 1.05), wide, tmp_path, SPLIT)


def test_which_weights_need_vnni():
    assert full_range_layers(quantized_graph(64)) == []
    assert full_range_layers(quantized_graph(65)) == ["conv", "fc"]
    assert full_range_layers(float_graph()) == []


@pytest.mark.parametrize(
    ("groups", "needs"),
    [(8, []), (4, ["conv"]), (1, ["conv"])],  # sums of 1, 2 and 8 channels in one position
)
def test_a_depthwise_convolution_adds_no_channels_in_pairs(groups, needs):
    pair = "quantized_decomposed.{}quantize_per_tensor({}, 0.03, 120, 0, 255, dtype.u8)"
    inside = 8 // groups
    graph = parse_graph(
        "graph g(%x: f32[b,8,6,6]) {\n"
        f"  %q = {pair.format('', '%x')} : u8[b,8,6,6]\n"
        f"  %dq = {pair.format('de', '%q')} : f32[b,8,6,6]\n"
        f"  %conv = quantized_conv2d(%dq) {{in=8, out=8, kernel=3, padding=1, groups={groups}}} "
        "@bias @weight @scale : f32[b,8,6,6]\n  return %conv\n}",
        {
            "weight": torch.full((8, inside, 3, 3), 127, dtype=torch.int8),
            "scale": torch.ones(8),
            "bias": torch.zeros(8),
        },
    )
    assert full_range_layers(graph) == needs


def test_one_sample_is_enough(tmp_path):
    graph = quantized_graph()
    prove(Pretended(graph, lambda y: y), graph, tmp_path, Split((samples(1),)))


OPEN = """graph g(%x: f32[b,s,4]) {
  %y = aten.relu(%x) : f32[b,s,4]
  return %y
}"""
LONG = Split((torch.randn(20, 9, 4),))


def test_a_file_of_one_length_only_is_caught(tmp_path):
    def fixed(y):
        if y.shape[1] != 9:
            raise RuntimeError("Got invalid dimensions for input: x")
        return y

    graph = parse_graph(OPEN)
    with pytest.raises(CompresscError, match=r"CC504.*at batch 3 of samples \[5, 4\] \(got Got"):
        emit_proved(Pretended(graph, fixed), graph, tmp_path, LONG)


def test_wrong_numbers_at_another_length_are_caught(tmp_path):
    graph = parse_graph(OPEN)
    wrong = Pretended(graph, lambda y: y if y.shape[1] == 9 else y * 1.01)
    with pytest.raises(CompresscError, match=r"CC504.*relative error"):
        emit_proved(wrong, graph, tmp_path, LONG)
    _, found = emit_proved(Pretended(graph, lambda y: y), graph, tmp_path, LONG)
    assert found.samples == 20


def test_samples_are_cut_where_a_dimension_is_open_and_may_be_less():
    graph = parse_graph(OPEN)
    (cut,) = shorter(graph, LONG)
    assert torch.equal(cut, LONG.inputs[0][:3, :5])
    graph.limits["s"] = 9, None
    assert shorter(graph, LONG) is None
    assert shorter(float_graph(), SPLIT) is None
