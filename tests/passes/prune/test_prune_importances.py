"""Every importance against its formula in float64, and against torch-pruning's where it has one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch_pruning as tp
from compressc_prune import Prune
from compressc_prune.measured import measure
from compressc_prune.members import members_of
from compressc_prune.scoring import Scorer
from torch import Tensor, nn
from torch.nn import functional as F
from torch_pruning.dependency.dependency import Dependency
from torch_pruning.dependency.group import Group
from torch_pruning.dependency.node import Node

from compressc.analysis import Width, couple
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.importance import Importance, Together, parse_importance
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.plugins import IMPORTANCES, find
from compressc.spec import load_class, make
from compressc.testing import check_importance, export_graph

SAMPLES, HIDDEN = 24, 6


class Net(nn.Module):
    """A convolution, its batch norm, and a linear layer that reads the mean of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, HIDDEN, 3, padding=1)
        self.norm = nn.BatchNorm2d(HIDDEN)
        self.read = nn.Conv2d(HIDDEN, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.norm(self.conv(x)).relu()).flatten(2).sum(2))


@pytest.fixture(scope="module")
def case() -> SimpleNamespace:
    torch.manual_seed(0)
    module = Net().eval()
    nn.init.uniform_(module.norm.weight, -1, 1)
    x, labels = torch.randn(SAMPLES, 2, 4, 4), torch.arange(SAMPLES) % 3
    part = Split((x,), labels)
    graph = export_graph(module, x[:4])
    found = couple(graph)
    (width,) = [w for w in found.widths() if "conv" in w.producers]
    ctx = Context(graph, Dataset("made", part, part, part))
    return SimpleNamespace(
        module=module, x=x, labels=labels, graph=graph, found=found, width=width, ctx=ctx
    )


def scored(case: SimpleNamespace, text: str) -> Tensor:
    """The score as the importance gives it, not scaled."""
    importance = parse_importance(text)
    measured = measure(case.graph, importance.reads, case.ctx)
    members = members_of(case.graph, case.found, case.width, measured)
    return importance.score(Together(case.width.size, members, torch.Generator())).double()


def parts(of: dict[str, Tensor]) -> list[Tensor]:
    """Rows of each layer that has the hidden width, by its index."""
    rows = [of["conv.weight"], of["norm.weight"][:, None], of["read.weight"].transpose(0, 1)]
    return [row.double().flatten(1) for row in rows]


def weights(case: SimpleNamespace) -> list[Tensor]:
    return parts({name: p.detach() for name, p in case.module.named_parameters()})


def mean(rows: list[Tensor]) -> Tensor:
    return sum(row.sum(1) for row in rows) / len(rows)


def gradients(case: SimpleNamespace, of: slice) -> list[Tensor]:
    module = case.module.double()
    loss = F.cross_entropy(module(case.x[of].double()), case.labels[of])
    found = torch.autograd.grad(loss, list(module.parameters()))
    named = dict(zip((name for name, _ in module.named_parameters()), found, strict=True))
    module.float()
    return parts(named)


def test_norms_of_weights(case):
    rows = weights(case)
    assert torch.allclose(scored(case, "l1"), mean([w.abs() for w in rows]))
    assert torch.allclose(scored(case, "l2"), mean([w**2 for w in rows]))
    assert torch.equal(scored(case, "magnitude"), scored(case, "l2"))
    assert torch.allclose(scored(case, "bn_scale"), rows[1].abs()[:, 0])


def test_without_batch_norm_its_scale_is_no_score(case):
    graph = export_graph(
        nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(5, 2)
    )
    found = couple(graph)
    (width,) = [w for w in found.widths() if w.size == 4]
    by_scale, by_size = (
        Scorer(graph, found, parse_importance(n), Context(graph)).score_all([width])[width]
        for n in ("bn_scale", "l2")
    )
    assert torch.equal(by_scale, by_size)


def test_lamp(case):
    squares = mean([w**2 for w in weights(case)])
    wanted = [s / squares[squares >= s].sum() for s in squares]
    assert torch.allclose(scored(case, "lamp"), torch.stack(wanted))
    assert scored(case, "lamp").max() == 1


def test_fpgm_is_the_distance_to_all_others(case):
    rows = weights(case)[0]
    wanted = [(rows - row).square().sum(1).sqrt().sum() for row in rows]
    assert torch.allclose(scored(case, "fpgm"), torch.stack(wanted))


def test_taylor(case):
    rows = gradients(case, slice(None))  # one batch
    terms = [(w * g).abs() for w, g in zip(weights(case), rows, strict=True)]
    assert torch.allclose(scored(case, "taylor"), mean(terms), rtol=1e-4)


def test_hessian_is_the_squares_of_single_gradients(case):
    each = [gradients(case, slice(i, i + 1)) for i in range(SAMPLES)]
    fisher = [sum(g[i] ** 2 for g in each) / SAMPLES for i in range(3)]
    terms = [w**2 * f / 2 for w, f in zip(weights(case), fisher, strict=True)]
    assert torch.allclose(scored(case, "hessian"), mean(terms), rtol=1e-4)
    assert not torch.allclose(scored(case, "hessian"), scored(case, "taylor"))


@torch.no_grad()
def test_wanda_is_weights_times_what_they_read(case):
    net = case.module
    read = net.norm(net.conv(case.x)).relu().double()
    rms = read.pow(2).mean((0, 2, 3)).sqrt()
    wanted = weights(case)[2].abs().sum(1) * rms
    assert torch.allclose(scored(case, "wanda"), wanted, rtol=1e-5)


def test_random_is_by_seed_and_width(case):
    def score(seed: int) -> Tensor:
        ctx = Context(case.graph, seed=seed)
        scorer = Scorer(case.graph, case.found, parse_importance("random"), ctx)
        return scorer.score_all([case.width])[case.width]

    assert torch.equal(score(0), score(0))
    assert not torch.equal(score(0), score(1))


def test_a_frozen_model_has_gradients_and_stays_frozen(case):
    for parameter in case.graph.tensors().values():
        if parameter.is_floating_point():
            parameter.requires_grad_(False)
    assert scored(case, "taylor").gt(0).all()
    assert not any(tensor.requires_grad for tensor in case.graph.tensors().values())
    assert all(tensor.grad is None for tensor in case.graph.tensors().values())


#: What torch-pruning cuts of each layer of the net.
CUT = (
    ("conv", tp.prune_conv_out_channels),
    ("norm", tp.prune_batchnorm_out_channels),
    ("read", tp.prune_conv_in_channels),
)


def test_torch_prunings_scores_are_ours(case):
    group = Group()
    for name, function in CUT:
        node = Node(case.graph[name].layer, None, name)
        group.add_dep(Dependency(function, function, node, node), list(range(HIDDEN)))
        group.items[-1].root_idxs = list(range(HIDDEN))
    for name, p in (("l1", 1), ("l2", 2)):
        theirs = tp.importance.GroupMagnitudeImportance(p=p, normalizer=None)(group)
        assert torch.allclose(scored(case, name).float(), theirs, rtol=1e-5)
    theirs = tp.importance.GroupMagnitudeImportance(p=2, normalizer="lamp")(group)
    assert torch.allclose(scored(case, "lamp").float(), theirs, rtol=1e-5)


@pytest.mark.parametrize("name", find(IMPORTANCES))
def test_every_importance_is_one(name):
    check_importance(parse_importance(name))


class Wrong(Importance):
    """A score that goes by the place, or is no number, or below 0."""

    name: ClassVar[str] = "wrong"
    kind: str

    def score(self, together: Together) -> Tensor:
        own = together.mean(lambda member: member.weights.sum(1))
        return {
            "place": own.abs() + torch.arange(together.size),
            "negative": own,
            "nan": own.abs() * float("nan"),
            "few": own.abs()[:1],
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("place", "by the place"),
        ("negative", "at least 0"),
        ("nan", "finite"),
        ("few", "each of 2"),
    ],
)
def test_the_kit_finds_fault(kind, says):
    with pytest.raises(AssertionError, match=says):
        check_importance(Wrong(kind=kind))


@pytest.mark.parametrize("name", find(IMPORTANCES))
def test_every_importance_is_an_option_of_prune(case, name):
    cls = load_class(Importance, name)  # type: ignore[type-abstract]
    pass_ = Prune(importance=name, ratio=0.5, round_to=1)
    assert ("data" in pass_.requirements) == bool(cls.reads)
    assert cls in pass_.uses()
    after: Graph = case.graph.copy()
    pass_.run(after, Context(case.graph, case.ctx.data))
    assert after["conv"].layer.out_channels == HIDDEN // 2
    widths: list[Width] = couple(after).widths()
    assert widths


@pytest.mark.parametrize(
    ("text", "code"), [("size", "CC107"), ("l2(p=3)", "CC102"), ("l2(", "CC103")]
)
def test_a_bad_importance_is_an_error_before_any_work(text, code):
    with pytest.raises(CompresscError, match=code):
        make(Prune, {"importance": text})
