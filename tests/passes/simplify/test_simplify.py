from __future__ import annotations

import pytest
import torch
from compressc_simplify import Simplify
from torch import nn
from torch.utils._pytree import tree_leaves

from compressc.ir import Graph, run_graph
from compressc.testing import Checked, check_pass, export_graph

TOLERANCE = 1e-5


def with_statistics(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.3, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module.eval()


@torch.no_grad()
def simplified(module: nn.Module, *shape: int, **options: object) -> tuple[Checked, Graph]:
    """What simplify makes; its outputs are held against the module's own, in float64."""
    torch.manual_seed(0)
    example = torch.randn(4, *shape)
    graph = export_graph(with_statistics(module), example)
    checked = check_pass(Simplify(**options), graph)
    x = torch.randn(3, *shape)
    want = module.double()(x.double())
    for one, got in zip(tree_leaves(want), run_graph(checked.graph, (x,)), strict=True):
        assert float((got - one).abs().max() / one.pow(2).mean().sqrt()) < TOLERANCE
    return checked, graph


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph if op.kind != "input"]


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), (3, 8, 8)),
        (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False, eps=0.1), (3, 8, 8)),
        (nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), (6, 8, 8)),
        (nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4), (6, 8, 8)),
        (nn.Conv1d(3, 5, 3, padding="same"), nn.BatchNorm1d(5), (3, 9)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (2, 4, 4, 4)),
        (nn.ConvTranspose2d(6, 4, 2, 2, bias=False), nn.BatchNorm2d(4), (6, 4, 4)),
        (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(4), (6, 4, 4)),
        (nn.Linear(5, 7), nn.BatchNorm1d(7), (5,)),
        (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), (5,)),
    ],
)
def test_batch_norm_folds(layer, norm, shape):
    checked, before = simplified(nn.Sequential(layer, norm), *shape)
    (kind,) = kinds(checked.graph)
    assert kind == kinds(before)[0]
    assert checked.graph["0"].lineage == ("0", "1")
    assert checked.graph["0"].layer.bias is not None


def test_the_text_of_a_fold():
    module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    checked, before = simplified(module, 1, 6, 6)
    assert [line.split("#")[0].strip() for line in str(before).splitlines()[1:4]] == [
        "%0 = conv2d(%input) {in=1, out=4, kernel=3, bias=false} @0.weight : f32[b,4,4,4]",
        "%1 = batch_norm2d(%0) {features=4} @1.weight @1.bias @1.running_mean @1.running_var"
        " @1.num_batches_tracked : f32[b,4,4,4]",
        "%2 = relu(%1) : f32[b,4,4,4]",
    ]
    assert [" ".join(line.split()) for line in str(checked.graph).splitlines()[1:3]] == [
        "%0 = conv2d(%input) {in=1, out=4, kernel=3} @0.weight @0.bias : f32[b,4,4,4] # from 0, 1",
        "%2 = relu(%0) : f32[b,4,4,4] # from 2",
    ]


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


class PutOut(nn.Module):
    """What the norm reads is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x), x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


class OverTokens(nn.Module):
    """The norm runs over the tokens, of which there are as many as features: no fold is right."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.fc(x))


@pytest.mark.parametrize(
    ("module", "shape", "op", "reason"),
    [
        (ReadTwice(), (1, 6, 6), "norm", "skipped folding: %conv is read elsewhere, too"),
        (PutOut(), (1, 6, 6), "norm", "skipped folding: %conv is read elsewhere, too"),
        (Tied(), (5,), "norm", "skipped folding: the weight of %a is tied to another layer"),
        (
            nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
            *(
                (3, 6, 6),
                "0",
                "skipped folding: it reads %input, which is no linear or convolution",
            ),
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
            *((3, 6, 6), "2", "skipped folding: it reads %1, which is no linear or convolution"),
        ),
        (
            *(OverTokens(), (5, 5), "norm"),
            "skipped folding: it does not run over the output channels of %fc",
        ),
    ],
)
def test_no_fold(module, shape, op, reason):
    checked, before = simplified(module, *shape)
    assert kinds(checked.graph) == kinds(before)
    assert checked.notes == {op: [reason]}
    assert checked.edits == {}


def test_folding_can_be_switched_off():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    checked, _ = simplified(module, 1, 6, 6, fold=False)
    assert kinds(checked.graph) == ["conv2d", "batch_norm2d"]


class Clutter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop, self.dead = nn.Linear(6, 6), nn.Dropout(0.3), nn.Linear(6, 2)

    def forward(self, x):
        x = self.drop(self.fc(x))
        self.dead(torch.relu(x)).sum()
        return torch.relu(x.reshape(x.shape[0], 6)).reshape(-1, 2, 3)


def test_identities_and_dead_code_go():
    checked, _ = simplified(Clutter(), 6)
    assert kinds(checked.graph) == ["linear", "relu", "aten.reshape"]


def test_inputs_stay_even_where_nothing_reads_them():
    class Ignores(nn.Module):
        def forward(self, x, unused):
            return torch.relu(x)

    graph = export_graph(Ignores(), torch.randn(4, 3), torch.randn(4, 2))
    assert len(check_pass(Simplify(), graph).graph.inputs) == 2


def test_a_dropout_that_is_the_whole_model():
    checked, _ = simplified(nn.Dropout(0.5), 3)
    assert kinds(checked.graph) == ["dropout"]


def test_nothing_to_do():
    checked, before = simplified(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), 3)
    assert str(checked.graph) == str(before)


def test_the_whole_cnn():
    from tests.models import ZOO

    module, (example,) = ZOO["digits_cnn"]()
    graph = export_graph(module, example)
    checked = check_pass(Simplify(), graph)
    assert not {"batch_norm2d", "dropout"} & set(kinds(checked.graph))
    (want,), (got,) = (run_graph(g, (example,)) for g in (graph, checked.graph))
    assert torch.allclose(got, want, atol=1e-5)
