"""What nncf cannot observe stays in float, with a note; the layers around it become int8."""

import operator

import pytest
import torch
import torch.nn.functional as F
from compressc_quant import Quant
from compressc_quant.hiding import hidden, unobservable
from compressc_quant.narrowing import MOST_TRIES, quantize_what_can
from compressc_quant.tracing import trace
from quant_nets import imported, random_data
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.testing import check_coverage


def by_bool(net, h):
    return h * (h > 0)


def by_int(net, h):
    return h * net.counts[None, :, None]


def where(net, h):
    return torch.where(h > 0, h, 0.0)


def filled(net, h):
    return h.masked_fill(net.counts[None, :, None] == 1, 0.0)


def ordered(net, h):
    return h.sort(1)[0]


def best(net, h):
    return h.topk(3, 1)[0]


def spread(net, h):
    return torch.var_mean(h, 1)[0][:, None]


def double(net, h):
    return (h.double() * 2.0).float()


def spectrum(net, h):
    return torch.fft.rfft(h, dim=1).abs()


def recurrent(net, h):
    return net.lstm(h)[0]


#: What is done in the middle of the net -> kinds of ops that a note must name.
MIDDLES = {
    by_bool: {"aten.mul.Tensor": "an operand of it is bool"},
    by_int: {"aten.mul.Tensor": "an operand of it is i64"},
    where: {"aten.where.ScalarOther": "an operand of it is bool"},
    filled: {"aten.masked_fill.Scalar": "an operand of it is bool"},
    ordered: {"aten.sort": "it has several results"},
    best: {"aten.topk": "it has several results"},
    spread: {"aten.var_mean": "it has several results"},
    double: {"aten.mul.Tensor": "its result is f64"},
    spectrum: {"aten.abs": "an operand of it is c64"},
    recurrent: {"aten.lstm": "it has several results"},
}


class Net(nn.Module):
    """Two linear layers, something in the middle, and a head; [n, 6] indices -> [n, 4]."""

    def __init__(self, *middles):
        super().__init__()
        self.middles = middles
        self.words, self.a, self.b = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.lstm, self.out = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 4)
        self.register_buffer("counts", torch.arange(6) % 3)

    def forward(self, ids):
        h = self.b(F.relu(self.a(self.words(ids))))
        return self.out(sum(middle(self, h).mean(1) for middle in self.middles))


@pytest.fixture
def ids():
    torch.manual_seed(0)
    return torch.randint(0, 30, (64, 6))


def test_types_decide_what_is_hidden(ids):
    graph = imported(Net(*MIDDLES).eval(), (ids[:4],))
    traced = trace(graph, (ids[:4],))
    hidden_nodes = unobservable(graph, traced)
    reasons = {traced.origin[name]: why for name, why in hidden_nodes.items() if why}
    found = {(graph[name].kind, why) for name, why in reasons.items()}
    for middle, kinds in MIDDLES.items():
        for kind, why in kinds.items():
            assert any(k.startswith(kind) and w == why for k, w in found), middle.__name__
    for name in ("words", "a", "b", "out"):
        assert name not in reasons


def test_everything_at_once_leaves_the_layers_int8(ids, run):
    net = Net(*MIDDLES).eval()
    graph, context = run(imported(net, (ids[:4],)), random_data(ids))
    for name in ("a", "b", "out"):
        assert graph[name].kind == "quantized_linear"
    assert graph["out"].inputs[0].endswith(".dq")
    noted = {graph[op].kind: text for op, text in context.notes if op}
    assert "several results" in noted["aten.topk"]
    assert "of it is bool" in noted["aten.masked_fill.Scalar"]
    assert "weights of a recurrent layer" in noted["parameter"]
    assert not [
        op for op, _ in context.notes if op and graph[op].kind in ("getitem", "aten.gt.Scalar")
    ]
    with torch.no_grad():
        want, got = net(ids), lower(graph)(ids)
    assert (got - want).norm() < 0.05 * want.norm()


def test_a_net_without_such_ops_hides_nothing(teacher, digits):
    traced = trace(teacher, digits.train.take(4).inputs)
    assert unobservable(teacher, traced) == {}


@pytest.mark.parametrize("model_type", ["convolutional", "transformer"])
def test_an_infinite_mask_gets_no_scale(model_type, ids, run):
    """Its range would be infinite, and with it every value of the sum NaN."""

    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.q, self.out = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

        def forward(self, ids):
            h = self.q(self.words(ids))
            return self.out((torch.softmax(h @ h.transpose(1, 2) + self.mask, -1) @ h).mean(1))

    net = Causal().eval()
    graph, _ = run(imported(net, (ids[:4],)), random_data(ids), model_type=model_type)
    assert graph["q"].kind == graph["out"].kind == "quantized_linear"
    with torch.no_grad():
        want, got = net(ids), lower(graph)(ids)
    assert (got - want).norm() < 0.05 * want.norm()


def test_coverage_says_what_happens(ids):
    graph = imported(Net(best, by_bool).eval(), (ids[:4],))
    coverage = check_coverage(Quant(), graph, random_data(ids))
    (topk,) = (op.name for op in graph if op.kind.startswith("aten.topk"))
    assert coverage.verdicts[topk].outcome == "cannot"


# ---- the search ------------------------------------------------------------------------------


class Failing:
    """Stands for nncf: fails while one of the culprits can be seen."""

    def __init__(self, module, culprits, says=""):
        self.module, self.culprits, self.says, self.calls = module, culprits, says, 0

    def __call__(self):
        self.calls += 1
        for node in self.module.graph.nodes:
            if node.name in self.culprits and node.target.__name__ != "not_observed":
                raise CompresscError("CC601", "nncf", got=self.says.replace("NAME", node.name))
        return self.module


@pytest.fixture(scope="module")
def module():
    class Long(nn.Module):
        def forward(self, x):
            for _ in range(40):
                x = torch.sigmoid(x) + 1
            return x

    graph = imported(Long().eval(), (torch.randn(4, 3),))
    return trace(graph, (torch.randn(4, 3),)).module


def names(module, *indices):
    calls = [node.name for node in module.graph.nodes if node.op == "call_function"]
    return {calls[i] for i in indices}


@pytest.mark.parametrize("which", [(0,), (79,), (17,), (3, 60), (5, 6, 70)])
def test_the_culprits_are_found_and_nothing_else_is_hidden(module, which):
    failing = Failing(module, names(module, *which))
    _, reasons = quantize_what_can(module, {}, failing, failing)
    assert set(reasons) == names(module, *which)
    assert failing.calls <= MOST_TRIES + 2


def test_a_culprit_that_the_error_names_is_found_at_once(module):
    failing = Failing(module, names(module, 33), says="no statistics of the node NAME")
    _, reasons = quantize_what_can(module, {}, failing, failing)
    assert set(reasons) == names(module, 33)
    assert failing.calls == 3


def test_many_culprits_end_in_bounded_time(module):
    culprits = names(module, *range(0, 80, 4))
    failing = Failing(module, culprits)
    _, reasons = quantize_what_can(module, {}, failing, failing)
    assert culprits <= set(reasons)
    assert failing.calls <= MOST_TRIES + 3


def test_where_hiding_does_not_help_the_first_error_is_told(module):
    def broken():
        raise CompresscError("CC601", "nncf could not quantize the graph", got="no compiler")

    with pytest.raises(CompresscError, match="no compiler"):
        quantize_what_can(module, {}, broken, broken)


def test_hiding_changes_no_number_and_is_undone(module):
    x, before = torch.randn(4, 3), [node.target for node in module.graph.nodes]
    want = module(x)
    with hidden(module, names(module, 1, 2, 40)):
        assert sum(a is not b.target for a, b in zip(before, module.graph.nodes, strict=True)) == 3
        assert torch.equal(module(x), want)
    assert all(map(operator.is_, before, (node.target for node in module.graph.nodes)))
