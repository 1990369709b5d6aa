"""`quant(max_drop=)`: what must stay in float is found, and nothing else does."""

from __future__ import annotations

import re

import pytest
import torch
from compressc_quant import Quant, mixed
from compressc_quant.losing import Losses, held_out, lost_share
from compressc_quant.restoring import held_layers, restore, rounded_ops
from models import ZOO
from pydantic import ValidationError
from quant_nets import imported, random_data
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import lower, retype, verify
from compressc.pipeline import Context


class Head(nn.Module):
    """A detector's tail: boxes in pixels beside scores, in one tensor that a layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 1)
        self.weigh = nn.Conv2d(12, 12, 1, groups=12)
        with torch.no_grad():
            self.head.weight[:4] *= 300
            self.head.bias[:4] += 300

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 64, 12]."""
        return self.weigh(self.head(self.body(x).relu())).flatten(2).transpose(1, 2)


class Pool(nn.Module):
    """Integers that are pooled and reshaped for two readers, and an output that moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.c = nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[n, 8, 4, 4], [n, 4] and [n, 128]."""
        pooled = nn.functional.max_pool2d(self.a(x).relu(), 2)
        return [self.b(pooled), self.c(pooled.flatten(1)), pooled.flatten(1)]


@pytest.fixture(scope="module")
def images():
    return torch.randn(640, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def head(images):
    torch.manual_seed(0)
    return imported(Head().eval(), (images[:4],))


def floats(graph):
    return [op.name for op in graph if op.kind in ("conv2d", "linear")]


def squeezed(graph):
    """The text without the room that columns take."""
    return re.sub(" +", " ", str(graph))


def test_scores_beside_boxes_are_found(head, images, run):
    data = random_data(images)
    plain, _ = run(head, data)
    graph, context = run(head, data, max_drop=0.02, train=False)
    verify(graph, like=head)
    assert floats(plain) == []
    assert floats(graph) == ["weigh"]  # it would read boxes and scores in one range
    with torch.no_grad():
        want, before, after = (lower(g)(images) for g in (head, plain, graph))
    lost = [
        (got - want)[..., 4:].square().mean(0) / want[..., 4:].var(0) for got in (before, after)
    ]
    assert lost[0].mean() > 0.5  # of the scores; the cosine of all numbers is 1.0000
    assert lost[1].mean() < 0.01
    record = context.records["mixed precision"]
    assert record["float"] == ["weigh"]
    assert record["drop"] <= 0.02 < record["start"]
    assert record["errors"][0]["ops"] == ["weigh"]
    notes = dict(context.notes)
    assert notes["weigh"].startswith("skipped: it stays in float for max_drop: rounded alone")
    assert any("with 1 of 3 ops in float" in text for _, text in context.notes)


def test_where_the_drop_is_met_nothing_stays_float(teacher, quantized, run):
    graph, context = run(teacher, max_drop=0.02)
    assert str(graph) == str(quantized)
    assert context.records["mixed precision"]["float"] == []
    assert any(text.endswith("within max_drop=0.02") for _, text in context.notes)


def test_where_it_takes_everything_that_is_said(head, images, run):
    graph, context = run(head, random_data(images[:128]), max_drop=0.0, train=False)
    assert squeezed(graph) == squeezed(head)
    with torch.no_grad():
        assert torch.equal(lower(graph)(images[:32]), lower(head)(images[:32]))
    assert any("leaving everything in float" in text for _, text in context.notes)


def test_four_bits_keep_what_does_not_stand_them(teacher, run):
    plain, _ = run(teacher, mode="weights", bits=4)
    graph, context = run(teacher, mode="weights", bits=4, max_drop=0.0, train=False)
    record = context.records["mixed precision"]
    assert record["start"] > 0 or floats(graph) == []
    assert set(floats(graph)) == set(record["float"])
    assert len(floats(graph)) < len(floats(teacher))
    assert floats(plain) == []


def test_labels_are_what_is_scored(teacher, digits, quantized):
    """A graph whose last layer has lost its classes, against accuracy on the same samples."""
    context = Context(teacher=teacher, data=digits)
    train, held = held_out(context, "quant", 512)
    losses = Losses(teacher.copy(), context, held)
    assert losses.metric is not None
    assert losses.metric.name == "accuracy"
    broken = quantized.copy()
    broken["head"].layer.bias = nn.Parameter(broken["head"].layer.bias.roll(1) * 40)
    batch = held.take(len(held))
    with torch.no_grad():
        right = [
            (lower(graph)(*batch.inputs).argmax(1) == batch.labels).double().mean()
            for graph in (teacher, broken)
        ]
    assert losses.drop(broken) == pytest.approx(float(right[0] - right[1]), abs=1e-6)
    assert len(train) + len(held) == len(digits.train)


def test_the_data_s_own_part_for_choices_is_taken(teacher):
    x = torch.rand(100, 1, 8, 8)
    part = Split((x[:64],))
    data = Dataset("parts", part, part, part, validation=Split((x[64:],)))
    train, held = held_out(Context(teacher=teacher, data=data), "quant", 16)
    assert train is data.train
    assert len(held) == 16
    assert torch.equal(held.take(1).inputs[0], x[64:65])


def test_each_op_can_be_put_back_alone(images, run):
    torch.manual_seed(1)
    before = imported(Pool().eval(), (images[:4],))
    graph, _ = run(before, random_data(images[:128]))
    layers = held_layers(before)
    names = rounded_ops(graph, layers)
    assert {"a", "b", "c"} <= set(names)
    with torch.no_grad():
        want = lower(before)(images)
        errors = {}
        for name in names:
            part = graph.copy()
            restore(part, [name], layers)
            retype(part)
            verify(part, like=before)
            got = lower(part)(images)
            errors[name] = [float((a - b).norm()) for a, b in zip(got, want, strict=True)]
        rounded = [float((a - b).norm()) for a, b in zip(lower(graph)(images), want, strict=True)]
    assert errors["c"][0] == rounded[0]  # what another reader is given stays as it was
    assert errors["c"][1] < rounded[1]
    assert errors["b"][1] == rounded[1]
    whole = graph.copy()
    restore(whole, names, layers)
    retype(whole)
    assert squeezed(whole) == squeezed(before)


def test_lost_shares():
    want = torch.stack([torch.linspace(-1, 1, 16), 1000 + torch.linspace(-1, 1, 16)], 1)
    other = want.clone()
    other[:, 1] += want[:, 0].std(correction=0)  # one standard deviation off: all of it is lost
    assert lost_share([[want]], [[want]], [0]) == 0.0
    assert lost_share([[other]], [[want]], [0]) == pytest.approx(0.5, rel=1e-3)
    half = want.clone()
    half[:, 0] += 0.5 * want[:, 0].std(correction=0)
    assert lost_share([[half[:7]], [half[7:]]], [[want[:7]], [want[7:]]], [0]) == pytest.approx(
        0.125, rel=1e-5
    )
    constant = torch.ones(16, 1)
    assert lost_share([[constant]], [[constant]], [0]) == 0.0
    assert lost_share([[constant + 1]], [[constant]], [0]) == 1.0
    assert lost_share([[want * torch.nan]], [[want]], [0]) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"max_drop": 0.1, "smooth": True},
        {"max_drop": -0.1},
        {"max_drop": 0.1, "mode": "cast"},
        {"held_out": 64, "mode": "cast"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        Quant(**options)


class Ladder(nn.Module):
    """Three layers: any bits do for the first, 8 for the second, none for the last."""

    def __init__(self) -> None:
        super().__init__()
        self.any, self.eight, self.none = (nn.Linear(32, 32) for _ in range(3))
        with torch.no_grad():  # of equal weights, which any bits hold
            self.any.weight.copy_(torch.eye(32))
            self.eight.weight.copy_(torch.eye(32) + 0.02 * torch.randn(32, 32))
            # of values far apart, of which the small ones say everything
            self.none.weight.copy_(torch.randn(32, 32))
            self.none.weight[:, :16] *= 3e3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 32]."""
        x = self.eight(self.any(x))
        return self.none(x * self.mask)

    @property
    def mask(self) -> torch.Tensor:
        """The inputs that large weights meet are next to nothing."""
        return torch.cat([torch.full((16,), 1e-5), torch.ones(16)])


@pytest.fixture(scope="module")
def ladder():
    torch.manual_seed(0)
    x = torch.randn(256, 32)
    return imported(Ladder().eval(), (x[:4],)), random_data(x)


def forms(graph):
    return {
        op.name: "float" if op.weight_form is None else op.weight_form.bits
        for op in graph
        if op.role == "linear"
    }


def test_of_four_bits_eight_are_tried_before_floats(ladder, run):
    graph, data = ladder
    options = {"mode": "weights", "bits": 4, "group": 32, "train": False}
    plain, _ = run(graph, data, **options)
    assert forms(plain) == {"any": 4, "eight": 4, "none": 4}
    mixed, context = run(graph, data, max_drop=1e-3, **options)
    assert forms(mixed) == {"any": 4, "eight": 8, "none": "float"}
    verify(mixed, like=graph)
    record = context.records["mixed precision"]
    assert (record["float"], record["wider"]) == (["none"], ["eight"])
    assert record["drop"] <= 1e-3 < record["start"]
    notes = dict(context.notes)
    assert notes["eight"].startswith("its weight has 8 bits for max_drop: fewer alone cost")
    assert any("1 of 3 ops in float and 1 with 8 bits" in text for _, text in context.notes)


def test_what_needs_no_eight_bits_keeps_four(ladder, run):
    graph, data = ladder
    mixed, context = run(graph, data, mode="weights", bits=4, train=False, max_drop=0.5)
    assert forms(mixed) == {"any": 4, "eight": 4, "none": "float"}
    assert context.records["mixed precision"]["wider"] == []


def test_coverage_says_what_would_stay(ladder, run):
    graph, data = ladder
    options = {"mode": "weights", "bits": 4, "group": 32, "train": False}
    wanted = Quant(max_drop=1e-3, **options)
    context = Context(teacher=graph, data=data)
    found = wanted.coverage(graph, context)
    assert found["any"].text.startswith("weight as")
    assert found["eight"].outcome == "does"
    assert found["eight"].text.startswith("its weight has 8 bits for max_drop")
    assert found["eight"].tensors == {"weight"}
    assert found["none"].outcome == "cannot"
    assert found["none"].text.startswith("it stays in float for max_drop")
    assert not context.notes
    assert set(forms(graph).values()) == {"float"}
    blind = wanted.coverage(graph, Context(teacher=graph))
    assert {blind[name].outcome for name in ("any", "eight", "none")} == {"does"}
    may = Quant(max_drop=1e-3, **options | {"train": "auto"}).coverage(graph, context)
    assert may["none"].text.endswith("training may spare it")


@pytest.mark.parametrize("mode", ["static", "weights"])
@pytest.mark.parametrize("parts", [48, 1])
def test_what_shares_a_weight_goes_back_together(mode, parts, run, monkeypatch):
    """A head that must be in float takes its table along: one matrix is stored, not two."""
    monkeypatch.setattr(mixed, "PARTS", parts)
    module, inputs = ZOO["tied_weights"]()
    ids = torch.randint(0, 23, (128, 7), generator=torch.Generator().manual_seed(2))
    teacher = imported(module.eval(), inputs)
    (name,) = [op.name for op in teacher if op.role == "linear" and op.name in tied(teacher)]
    monkeypatch.setattr(Losses, "drop", lambda _, graph: float(graph[name].weight_form is not None))
    monkeypatch.setattr(Losses, "error", lambda _, graph, n: float(graph[name].int8))
    graph, context = run(teacher, random_data(ids), mode=mode, max_drop=0.5, train=False)
    verify(graph, like=teacher)
    shared = tied(teacher)
    assert [graph[op].weight_form for op in shared] == [None] * len(shared)
    assert len({id(graph[op].layer.weight) for op in shared}) == 1
    others = {op.name for op in graph if op.int8 and op.role == "linear"}
    assert others  # all else is as it was
    told = dict(context.notes)
    assert all("for max_drop" in told[op] for op in shared)


def tied(graph):
    """Ops that hold a weight that others hold."""
    holders = [op for op in graph if getattr(op.layer, "weight", None) is not None]
    weights = [id(op.layer.weight) for op in holders]
    return [op.name for op in holders if weights.count(id(op.layer.weight)) > 1]
