"""Costs that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compressc.analysis import Cost, op_costs, total_cost
from compressc.analysis.cost import cost_formula, formula_text, not_counted
from compressc.ir import Graph, Op, Ref, lower, parse_graph, parse_type
from compressc.testing import export_graph
from tests.models import ZOO
from tests.unit.analysis.analysis_nets import baked, net, symbolized


@pytest.mark.parametrize(
    ("layer", "example", "parameters", "macs"),
    [
        # 6x6 outputs of 5 channels, each a sum of 3*3*3 products
        (nn.Conv2d(3, 5, 3), (3, 8, 8), 5 * 27 + 5, 36 * 5 * 27),
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (6, 8, 8), 4 * 27 + 4, 16 * 4 * 27),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (6, 8, 8), 54, 64 * 6 * 9),
        (nn.Conv1d(2, 3, 4), (2, 10), 27, 7 * 3 * 8),
        # every one of 4*4 inputs of 6 channels meets 5 kernels of 2*2
        (nn.ConvTranspose2d(6, 5, 2, stride=2), (6, 4, 4), 6 * 5 * 4 + 5, 16 * 6 * 5 * 4),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), (6, 4, 4), 52, 16 * 6 * 2 * 4),
        (nn.Linear(7, 3), (5, 7), 24, 5 * 3 * 7),
        (nn.LayerNorm(7), (5, 7), 14, 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_layer(layer, example, parameters, macs, batch):
    graph = export_graph(layer, torch.randn(4, *example))
    total = total_cost(graph, b=batch)
    assert (total.parameters, total.macs) == (parameters, batch * macs)
    assert total.bytes == 4 * parameters


def test_statistics_are_bytes_and_no_parameters():
    total = total_cost(export_graph(nn.BatchNorm2d(6), torch.randn(4, 6, 2, 2)))
    assert total.parameters == 12
    assert total.bytes == 4 * 24 + 8  # and the counter of batches


def test_attention():
    """Scores and context: 4 heads of 8, 17 tokens; q.k and scores.v are 17*17*8 each."""
    costs = op_costs(baked("vit"), b=2)
    (attention, _) = [c for n, c in costs.items() if "scaled_dot_product" in n]
    assert attention.macs == 2 * 4 * 2 * 17 * 17 * 8
    assert costs["blocks.0.attn.qkv"].macs == 2 * 17 * 32 * 96
    assert attention.activation_bytes == 2 * 4 * 17 * 8 * 4


def test_written_out_attention():
    costs = op_costs(baked("split_qkv"), b=1)
    matmuls = [c.macs for n, c in costs.items() if n.startswith("matmul")]
    assert matmuls == [4 * 6 * 6 * 6, 4 * 6 * 6 * 6]


def test_tied_weights_are_counted_once():
    graph = baked("tied_weights")
    costs = op_costs(graph)
    assert costs["embedding"].parameters == 23 * 16
    assert costs["head"].parameters == 0
    assert costs["head"].macs == 7 * 16 * 23
    assert total_cost(graph).parameters == 23 * 16 + 16 * 17


def test_the_total_is_the_modules_own_count():
    for name in ("digits_cnn", "vit", "dense_net", "u_net"):
        module, _ = ZOO[name]()
        want = sum(p.numel() for p in module.parameters())
        assert total_cost(baked(name)).parameters == want


def test_rows_are_what_costs_something():
    costs = op_costs(baked("digits_cnn"))
    rows = [name for name, cost in costs.items() if cost.parameters or cost.macs]
    assert rows == ["stem.0", "stem.1", "conv1", "bn1", "depthwise", "bn2", "pointwise", "head"]
    assert Cost(1, 2, 3, 4) + Cost(1, 1, 1, 1) == Cost(2, 3, 4, 5)


NETS = (
    "digits_cnn",
    "vit",
    "u_net",
    "cross_attention",
    "gqa_flag",
    "gqa_repeat",
    "split_qkv",
    "grouped",
)


@pytest.mark.parametrize("name", NETS)
def test_macs_are_what_torch_counts(name):
    """Half the FLOPs of torch's own counter; attention written out, for it knows no CPU kernel."""
    graph = symbolized(name)
    _, example = net(name)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        lower(graph)(*example)
    assert 2 * cost_formula(graph).at(b=len(example[0])).macs == counter.get_total_flops()


@pytest.mark.parametrize("name", ZOO)
def test_the_formula_is_the_numbers(name):
    graph = baked(name)
    formula = cost_formula(graph)
    for batch in (1, 7):
        assert formula.at(b=batch, s=5) == total_cost(graph, b=batch, s=5)


def test_the_formula_by_hand():
    """16 products each for score and context of a pair of tokens; three products of 16 * 16."""
    graph = Graph("attention")
    graph.append(Op("x", "input", type=parse_type("f32[b,s,16]")))
    for name in "qkv":
        layer = nn.Linear(16, 16)
        graph.append(Op(name, "linear", (Ref("x"),), layer=layer, type=parse_type("f32[b,s,16]")))
    kind, operands = "aten.scaled_dot_product_attention", (Ref("q"), Ref("k"), Ref("v"))
    graph.append(Op("out", kind, operands, type=parse_type("f32[b,s,16]")))
    formula = cost_formula(graph)
    assert formula_text(formula.macs) == "32*b*s**2 + 768*b*s"
    assert formula_text(formula.activation_bytes) == "320*b*s"
    assert formula_text(12345) == "12,345"


CALLS = [
    # kind, operands, other arguments, result, multiply-accumulates
    ("aten.matmul", ["f32[6]", "f32[6]"], [], "f32[]", 6),
    ("aten.matmul", ["f32[4,6]", "f32[6]"], [], "f32[4]", 4 * 6),
    ("aten.matmul", ["f32[6]", "f32[6,5]"], [], "f32[5]", 6 * 5),
    ("aten.matmul", ["f32[2,3,4,6]", "f32[6,5]"], [], "f32[2,3,4,5]", 2 * 3 * 4 * 6 * 5),
    ("aten.mv", ["f32[4,6]", "f32[6]"], [], "f32[4]", 24),
    ("aten.dot", ["f32[6]", "f32[6]"], [], "f32[]", 6),
    ("aten.linear", ["f32[3,6]", "f32[5,6]"], [], "f32[3,5]", 3 * 6 * 5),
    ("aten.addmm", ["f32[5]", "f32[4,6]", "f32[6,5]"], [], "f32[4,5]", 4 * 6 * 5),
    ("aten.baddbmm", ["f32[2,4,5]", "f32[2,4,6]", "f32[2,6,5]"], [], "f32[2,4,5]", 2 * 4 * 6 * 5),
    ("aten.addbmm", ["f32[4,5]", "f32[2,4,6]", "f32[2,6,5]"], [], "f32[4,5]", 2 * 4 * 6 * 5),
    (
        "aten.convolution",
        ["f32[2,6,8,8]", "f32[4,3,3,3]"],
        [None, (1, 1), (1, 1), (1, 1), False, (0, 0), 2],
        "f32[2,4,8,8]",
        2 * 4 * 64 * 27,
    ),
    (
        "aten.convolution",  # transposed: every input meets 5 kernels of 2 * 2
        ["f32[2,6,4,4]", "f32[6,5,2,2]"],
        [None, (2, 2), (0, 0), (1, 1), True, (0, 0), 1],
        "f32[2,5,8,8]",
        2 * 6 * 16 * 5 * 4,
    ),
    ("aten.conv1d", ["f32[1,2,10]", "f32[3,2,4]"], [], "f32[1,3,7]", 7 * 3 * 8),
    (
        "aten.scaled_dot_product_attention",  # 8 query heads, 2 of keys; 5 queries, 7 keys
        ["f32[1,8,5,6]", "f32[1,2,7,6]", "f32[1,2,7,4]"],
        [],
        "f32[1,8,5,4]",
        8 * 5 * 7 * (6 + 4),
    ),
    ("aten.mul.Tensor", ["f32[4,6]", "f32[4,6]"], [], "f32[4,6]", 0),
    ("aten.softmax.int", ["f32[4,6]"], [1], "f32[4,6]", 0),
]


def _call(kind, operands, more, result, *, listed=False):
    """A graph of one call; the operands come as a list where the schema says so."""
    graph = Graph("call")
    refs = []
    for i, text in enumerate(operands):
        refs.append(Ref(graph.append(Op(f"x{i}", "input", type=parse_type(text))).name))
    args = (*more, tuple(refs)) if listed else (*refs, *more)
    graph.append(Op("y", kind, args, type=parse_type(result)))
    graph.outputs = Ref("y")
    return graph


@pytest.mark.parametrize(("kind", "operands", "more", "result", "macs"), CALLS)
def test_calls(kind, operands, more, result, macs):
    graph = _call(kind, operands, more, result)
    assert op_costs(graph)["y"].macs == macs
    assert not_counted(graph) == {}


@pytest.mark.parametrize(
    ("equation", "operands", "result", "macs"),
    [
        ("bhid,bhjd->bhij", ["f32[2,3,4,6]", "f32[2,3,5,6]"], "f32[2,3,4,5]", 2 * 3 * 4 * 5 * 6),
        ("...ij,jk->...ik", ["f32[2,3,4,6]", "f32[6,5]"], "f32[2,3,4,5]", 2 * 3 * 4 * 5 * 6),
        ("ij,jk", ["f32[4,6]", "f32[6,5]"], "f32[4,5]", 4 * 5 * 6),
        ("ij->ji", ["f32[4,6]"], "f32[6,4]", 0),
        # first ij,jk -> ik, then ik,kl -> il
        ("ij,jk,kl->il", ["f32[2,3]", "f32[3,4]", "f32[4,5]"], "f32[2,5]", 2 * 3 * 4 + 2 * 4 * 5),
    ],
)
def test_einsum(equation, operands, result, macs):
    graph = _call("aten.einsum", operands, [equation], result, listed=True)
    assert op_costs(graph)["y"].macs == macs


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(cell, gates):
    """Two layers, both directions: 6 and 2*5 wide inputs, 5 wide states, 7 steps."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell(6, 5, 2, bidirectional=True, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    graph = export_graph(Net(), torch.randn(4, 7, 6))
    first, second = 2 * gates * 5 * (6 + 5), 2 * gates * 5 * (10 + 5)
    assert total_cost(graph, b=3).macs == 3 * 7 * (first + second)
    assert not_counted(graph) == {}


def test_what_multiplies_without_a_rule_is_listed():
    text = """graph g(%x: f32[b,4,4], %y: f32[b,4,4]) {
  %far = aten.cdist(%x, %y) : f32[b,4,4]
  %root = aten.linalg_inv(%far) : f32[b,4,4]
  %sum = aten.add.Tensor(%root, %far) : f32[b,4,4]
  return %sum
}"""
    graph = parse_graph(text)
    assert not_counted(graph) == {"aten.cdist": ["far"], "aten.linalg_inv": ["root"]}
    assert total_cost(graph).macs == 0
