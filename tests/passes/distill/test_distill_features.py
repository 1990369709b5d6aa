"""Feature pairs and channel maps come from the lineage."""

import pytest
import torch
from compressc_distill.objectives.hint import Hint
from distill_nets import KEPT, cut, mlp
from torch import nn

from compressc.data import Dataset, Split
from compressc.distillation import Pair, Readings, Seen, choose_points, find_pairs
from compressc.ir import lower, parse_graph
from compressc.pipeline import Context, parse_pass
from compressc.pipeline.store import Store
from compressc.testing import export_graph
from tests.passes.transformer_nets import transformer

RESIDUAL = """
graph res(%x: f32[b,4]) {
  %fc0 = linear(%x) {in=4, out=4, bias=false} @fc0.weight : f32[b,4]   # from fc0
  %act0 = relu(%fc0) : f32[b,4]   # from act0
  %fc1 = linear(%act0) {in=4, out=4, bias=false} @fc1.weight : f32[b,4]   # from fc1
  %act1 = relu(%fc1) : f32[b,4]   # from act1
  %fc2 = linear(%act1) {in=4, out=4, bias=false} @fc2.weight : f32[b,4]   # from fc2
  %sum2 = aten.add.Tensor(%fc2, %act0) : f32[b,4]   # from sum2
  %act2 = relu(%sum2) : f32[b,4]   # from act2
  %fc3 = linear(%act2) {in=4, out=4, bias=false} @fc3.weight : f32[b,4]   # from fc3
  %sum3 = aten.add.Tensor(%fc3, %act2) : f32[b,4]   # from sum3
  %head = linear(%sum3) {in=4, out=2, bias=false} @head.weight : f32[b,2]   # from head
  return %head
}
"""


@pytest.fixture
def residual():
    names = ["fc0", "fc1", "fc2", "fc3", "head"]
    shapes = {f"{name}.weight": (2 if name == "head" else 4, 4) for name in names}
    return parse_graph(RESIDUAL, {n: torch.ones(s) for n, s in shapes.items()})


def feature_loss(ours, theirs):
    """Of one point."""
    rows = torch.zeros(1, 1)
    seen = Seen(Readings(rows, features=(ours,)), Readings(rows, features=(theirs,)))
    return Hint().mean(seen).item()


def test_pairs_follow_the_lineage(teacher, student):
    pairs = find_pairs(student, teacher)
    assert pairs["act"] == Pair("act", "act", {1: KEPT})
    assert pairs["fc2"].kept == {}
    assert "x" not in pairs


def test_names_do_not_matter_lineage_does(teacher, student):
    student["act"].lineage = ("fc2", "fc1")
    assert find_pairs(student, teacher)["act"].teacher == "fc1"


def test_a_selected_teacher_feature_is_the_students_own_where_nothing_else_changed(
    teacher, student
):
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    _, (theirs,) = lower(teacher, also=["act"])(x)
    _, (ours,) = lower(student, also=["act"])(x)
    assert torch.allclose(ours, theirs[:, [1, 4, 6, 9]], atol=1e-6)
    pair = find_pairs(student, teacher)["act"]
    assert feature_loss(ours, pair.select(theirs)) == pytest.approx(0, abs=1e-10)
    wrong = Pair("act", "act", {1: (0, 4, 6, 9)})
    assert feature_loss(ours, wrong.select(theirs)) > 0.05


def test_select_cuts_every_pruned_dimension():
    value = torch.arange(24.0).view(2, 3, 4)
    got = Pair("a", "a", {1: (2, 0), 2: (1,)}).select(value)
    assert got.tolist() == [[[9.0], [1.0]], [[21.0], [13.0]]]


@pytest.mark.parametrize("kept", [{}, {1: (1, 4, 6)}, {1: (1, 4, 6, 99)}, {2: KEPT}, {0: (0, 1)}])
def test_a_value_that_does_not_fit_its_teacher_is_no_pair(teacher, student, kept):
    student["act"].kept = kept
    assert "act" not in find_pairs(student, teacher)


def test_a_value_from_nowhere_is_no_pair(teacher, student):
    student["act"].lineage = ("gone",)
    student["fc2"].lineage = ()
    assert set(find_pairs(student, teacher)) == {"fc1"}


def test_the_last_op_of_one_teacher_value_stands_for_it(teacher, student):
    student["act"].lineage = ("act", "fc1")
    pairs = find_pairs(student, teacher)
    assert pairs["act"].teacher == "fc1"
    assert "fc1" not in pairs


def test_blocks_end_where_all_paths_meet(residual):
    pairs = find_pairs(residual, residual)
    # act1 lies on one path of two; fc3 likewise; sum2 is followed by its own activation
    assert choose_points(residual, "head", pairs, 99) == ["act0", "act2", "sum3"]


@pytest.mark.parametrize(
    ("count", "want"), [(1, ["sum3"]), (2, ["act0", "sum3"]), (3, ["act0", "act2", "sum3"])]
)
def test_points_are_spread_and_end_with_the_last(residual, count, want):
    assert choose_points(residual, "head", find_pairs(residual, residual), count) == want


def test_logits_and_inputs_are_no_points():
    graph = mlp()
    assert choose_points(graph, "fc2", find_pairs(graph, graph), 9) == ["act"]


def test_no_pairs_no_points(teacher):
    student = cut(teacher)
    for op in student:
        op.lineage = ()
    assert choose_points(student, "fc2", find_pairs(student, teacher), 4) == []


MASKED = """
graph masked(%ids: i64[b,s], %mask: f32[b,s]) {
  %table = embedding(%ids) {rows=9, width=4} @table.weight : f32[b,s,4]   # from table
  %row = aten.unsqueeze.default(%mask, 2) : f32[b,s,1]   # from row
  %fc1 = linear(%table) {in=4, out=4, bias=false} @fc1.weight : f32[b,s,4]   # from fc1
  %part1 = aten.mul.Tensor(%fc1, %row) : f32[b,s,4]   # from part1
  %sum1 = aten.add.Tensor(%part1, %table) : f32[b,s,4]   # from sum1
  %fc2 = linear(%sum1) {in=4, out=4, bias=false} @fc2.weight : f32[b,s,4]   # from fc2
  %part2 = aten.mul.Tensor(%fc2, %row) : f32[b,s,4]   # from part2
  %sum2 = aten.add.Tensor(%part2, %sum1) : f32[b,s,4]   # from sum2
  %head = linear(%sum2) {in=4, out=2, bias=false} @head.weight : f32[b,s,2]   # from head
  return %head
}
"""


def test_a_mask_that_every_block_reads_hides_no_point():
    shapes = {"table": (9, 4), "fc1": (4, 4), "fc2": (4, 4), "head": (2, 4)}
    tensors = {f"{name}.weight": nn.Parameter(torch.ones(s)) for name, s in shapes.items()}
    graph = parse_graph(MASKED, tensors)
    # %row is read twice, too, but nothing is learned in it
    assert choose_points(graph, "head", find_pairs(graph, graph), 9) == ["table", "sum1", "sum2"]


class Towers(nn.Module):
    """Two inputs that meet in the end, and a head that also reads the first input itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(9, 2)

    def forward(self, x, y):
        both = torch.relu(self.a(x)) * torch.relu(self.b(y))
        return self.head(torch.cat([both, x], 1))


def test_a_value_that_an_input_can_go_around_is_no_point():
    graph = export_graph(Towers().eval(), torch.randn(4, 4), torch.randn(4, 3))
    # x reaches the head beside everything that is made of it; all of y goes through its tower
    points = choose_points(graph, graph.output_names[0], find_pairs(graph, graph), 9)
    assert points == ["relu_1"]


ENDS = {
    "bert": ["bert.encoder.layer.0.output.LayerNorm", "bert.encoder.layer.1.output.add"],
    "gpt2": ["transformer.h.0.add_1", "transformer.h.1.add_1"],
    "llama": ["model.layers.0.add_1", "model.layers.1.add_1"],
    "vit_hf": ["vit.layers.0.add_1", "vit.layers.1.add_1"],
}


@pytest.mark.parametrize("name", ENDS)
def test_points_of_transformers_are_the_ends_of_their_blocks(name):
    graph = transformer(name)
    points = choose_points(graph, graph.output_names[0], find_pairs(graph, graph), 99)
    assert set(ENDS[name]) <= set(points)
    inner = ("query", "qkv", "q_proj", "c_fc", "intermediate", "gate", "mlp", "mask", "attn.")
    assert not [point for point in points if any(part in point for part in inner)]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x, padding):
        return self.head(self.stack(x, src_key_padding_mask=padding).mean(1))


def test_points_of_an_encoder_with_padding():
    x, padding = torch.randn(4, 5, 16), torch.zeros(4, 5, dtype=torch.bool)
    graph = export_graph(Encoder().eval(), x, padding)
    points = choose_points(graph, graph.output_names[0], find_pairs(graph, graph), 99)
    # post-norm: what the next sublayer and the residual sum read is the norm
    assert {"stack.layers.0.norm1", "stack.layers.0.norm2", "stack.layers.1.norm1"} <= set(points)


class Channels(nn.Module):
    """Each channel goes through the same layers, as a row of its own. f32[b,2,6] -> f32[b,3]."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 8)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        rows = self.first(x.reshape(-1, 6)).relu()
        return self.head(self.second(rows).relu().reshape(x.shape[0], 16))


def test_inner_values_with_several_rows_for_each_sample_are_not_kept():
    torch.manual_seed(0)
    x = torch.randn(48, 2, 6)
    teacher, part = export_graph(Channels(), x), Split((x,))
    said = []
    store = Store(None, say=said.append)
    ctx = Context(teacher, Dataset("rows", part, part, part), store=store)
    student = teacher.copy()
    for tensor in student.tensors().values():
        tensor.detach().mul_(0.7)
    parse_pass("distill(epochs=4, loss='kd + hint')").run(student, ctx)
    terms = [epoch["terms"]["hint"] for epoch in ctx.records["training"]["history"]]
    assert said == ["the teacher runs beside: inner values have several rows for each sample"] * 2
    assert len(terms) == 4
    assert terms[-1] < 0.9 * terms[0]
