"""Targets, allocations, equal sizes and protected layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from compressc_prune import Prune
from compressc_prune.alike import by_block, each_alone
from compressc_prune.allocation import Global, Rounding, Uniform
from compressc_prune.sensitivity import Sensitivity, _curve
from compressc_prune.targets import Target, meet
from torch import nn

from compressc.analysis import couple, total_cost
from compressc.errors import CompresscError
from compressc.ir import graph_hash
from compressc.spec import make
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import digit_data, pruned
from tests.unit.analysis.analysis_nets import symbolized


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip((4, *widths), widths, strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 3)).eval()


@pytest.mark.parametrize(
    ("option", "of"), [("macs", "macs"), ("params", "parameters"), ("bytes", "bytes")]
)
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_target_is_met(option, of, share):
    graph = export_graph(mlp(40, 60, 24), torch.ones(5, 4))
    after, context = pruned(graph, **{option: share})
    left = getattr(total_cost(after, b=1), of) / getattr(total_cost(graph, b=1), of)
    assert left == pytest.approx(share, rel=0.03)
    assert context.records["prune"]["left"][of] == pytest.approx(left)
    assert not any("nearest" in text for _, text in context.notes)


def test_a_coarse_step_gives_the_nearest_and_says_so():
    graph = export_graph(mlp(16), torch.ones(5, 4))
    after, context = pruned(graph, params=0.7, round_to=8)
    assert after["0"].layer.out_features in (8, 16)
    assert any("nearest to params=0.7" in text for _, text in context.notes)


def test_widths_go_over_one_by_one_between_two_coarse_steps():
    """All four widths are 16: together they can only be 16 or 8."""
    graph = export_graph(mlp(16, 16, 16, 16), torch.ones(5, 4))
    after, _ = pruned(graph, params=0.6, round_to=8)
    sizes = [op.layer.out_features for op in after if op.kind == "linear"][:4]
    assert set(sizes) == {8, 16}
    left = total_cost(after).parameters / total_cost(graph).parameters
    assert abs(left - 0.6) < 0.1


def test_an_impossible_target_is_an_error_that_says_what_is_possible():
    graph = export_graph(mlp(40), torch.ones(5, 4))
    before = graph_hash(graph)
    with pytest.raises(CompresscError, match=r"CC102.*no cut leaves 1\.0% of the MACs.*at least"):
        pruned(graph, macs=0.01)
    assert graph_hash(graph) == before


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5, "macs": 0.5},
        {"params": 0.5, "bytes": 0.5},
        {"macs": 1.0},
        {"macs": 0},
        {"allocation": "all"},
        {"global": True, "allocation": "sensitivity"},
        {"keep": 3},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(CompresscError, match="CC102"):
        make(Prune, options)


# ---- allocation by itself ---------------------------------------------------------------------


class Fake:
    """A width, for what allocation reads of one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.axis = type("Axis", (), {"role": ""})


def test_global_takes_the_mean_of_those_alike():
    a, b, c = Fake(4), Fake(4), Fake(4)
    scores = {
        a: torch.tensor([1.0, 2.0, 9.0, 8.0]),
        b: torch.tensor([9.0, 1.0, 8.0, 2.0]),
        c: torch.tensor([3.0, 3.0, 3.0, 3.0]),
    }
    sizes = Global([(a, b), (c,)], Rounding(1), scores).at(0.5)
    assert sizes == {(a, b): 2, (c,): 1}


def test_the_path_falls_from_all_to_a_tenth():
    a, b = Fake(40), Fake(10)
    for allocation in (
        Uniform([(a,), (b,)], Rounding(1)),
        Global([(a,), (b,)], Rounding(1), {a: torch.rand(40), b: torch.rand(10)}),
    ):
        before = 51
        for share in (0.001, 0.2, 0.4, 0.6, 0.8, 0.999):
            sizes = allocation.at(share)
            total = sum(sizes.get((w,), w.size) for w in (a, b))
            assert total <= before
            before = total
        assert before == 4 + 1


def test_meeting_a_target_of_any_cost():
    a, b = Fake(30), Fake(30)
    kinds = [(a,), (b,)]

    class Costs:
        def left(self, sizes):
            return sum(sizes.get(kind, 30) ** 2 for kind in kinds) / 1800

    sizes = meet(Uniform(kinds, Rounding(1)), Target("macs", 0.3), Costs())
    assert Costs().left(sizes) == pytest.approx(0.3, rel=0.03)


def test_a_curve_is_convex_and_below_what_was_measured():
    curve = _curve({0.25: 0.4, 0.5: 0.1, 0.75: 1.0}, 0.0)
    assert curve.shares == (0.0, 0.5, 0.75)
    assert curve.measured == (0.0, 0.4, 0.1, 1.0)
    assert [curve.at(x) for x in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0, 0.05, 0.1, 1.0])
    assert curve.at(1.0) == pytest.approx(1.9)
    worse = _curve({0.5: float("nan")}, 0.0)
    assert worse.at(0.5) == 1e9


def test_what_loses_least_for_what_it_saves_goes_first():
    a, b = Fake(16), Fake(16)
    steep, flat = _curve({0.5: 1.0}, 1e-6), _curve({0.5: 0.01}, 1e-6)
    plan = partial(Sensitivity, [(a,), (b,)], Rounding(1), {(a,): steep, (b,): flat})
    assert plan({(a,): 1.0, (b,): 1.0}).at(0.4) == {(b,): 3}
    assert plan({(a,): 1e4, (b,): 1.0}).at(0.4) == {(a,): 3}


# ---- on nets ----------------------------------------------------------------------------------


def test_sensitive_widths_keep_more_and_it_is_on_record():
    """The first branch decides the answer, the second one is a thousandth of it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(1, 16, 3), nn.Conv2d(1, 16, 3)
            self.read_a, self.read_b = nn.Linear(16, 10), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = (f(x).relu().flatten(2).mean(2) for f in (self.a, self.b))
            return 10 * self.read_a(a) + 0.01 * self.read_b(b)

    data = digit_data()
    graph = export_graph(Two().eval(), data.test.inputs[0][:4])
    after, context = pruned(graph, ratio=0.4, allocation="sensitivity", data=data)
    kept = [after[name].layer.out_channels for name in ("a", "b")]
    assert kept[1] < 6 < kept[0]
    rows = {row["made by"][0]: row for row in context.records["sensitivity"]}
    assert [rows[name]["kept"] for name in ("a", "b")] == kept
    assert max(rows["a"]["loss"]) > 10 * max(rows["b"]["loss"])


def test_sensitivity_needs_data():
    assert "data" in Prune(allocation="sensitivity").requirements
    with pytest.raises(CompresscError, match="CC105"):
        pruned(symbolized("digits_cnn"), allocation="sensitivity")


@pytest.mark.parametrize("uniform", [True, False])
def test_uniform_gives_all_blocks_one_size(uniform):
    graph = symbolized("vit")
    with torch.no_grad():  # half of the second block's MLP is nothing
        graph["blocks.1.mlp.0"].layer.weight[:48] *= 1e-3
    options = {"ratio": 0.4, "allocation": "global", "attention": "both", "uniform": uniform}
    after, _ = pruned(graph, **options)
    sizes = {(op.layer.out_features, op.layer.in_features) for op in after if ".mlp.0" in op.name}
    assert len(sizes) == (1 if uniform else 2)
    if uniform:
        assert after.widths["w0"] == after.widths["w2"]
        assert after.widths["w1"] == after.widths["w3"]


def test_widths_of_one_kind_of_block_are_alike():
    graph = symbolized("vit")
    widths = [w for w in couple(graph).widths() if w.producers and not w.axis.frozen]
    alike = by_block(graph, widths)
    kinds = {frozenset(n for w in kind for n in w.producers) for kind in alike}
    assert {"blocks.0.mlp.0", "blocks.1.mlp.0"} in kinds
    assert len(alike) < len(each_alone(widths)) == len(widths)


@pytest.mark.parametrize("pattern", ["pointwise", "point*", "pointwise.weight", "pointwise.*"])
def test_keep_protects_inputs_and_outputs_of_a_layer(pattern):
    graph = symbolized("digits_cnn")
    after, context = pruned(graph, ratio=0.5, keep=pattern)
    assert torch.equal(after["pointwise"].layer.weight, graph["pointwise"].layer.weight)
    assert after["stem.0"].layer.out_channels == 16
    assert any(f"keep={pattern} protects %pointwise" in text for _, text in context.notes)


def test_several_patterns_in_one_text():
    assert Prune(keep="a.*, b").keep == ("a.*", "b")
    assert Prune(keep=["a", "b,c"]).keep == ("a", "b", "c")


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(CompresscError, match=r"CC102.*got 'pointwize'.*did you mean 'pointwise'"):
        pruned(symbolized("digits_cnn"), keep="head,pointwize")
