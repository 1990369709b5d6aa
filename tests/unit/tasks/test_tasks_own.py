"""Tasks that are no `RowTask`: all of one is tried on a few samples before any work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn.metrics import average_precision_score
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.tasks import Metric, Scoring, Task, load_task, settle
from compressc.testing import export_graph

DETECTOR = Path(__file__).parents[3] / "examples/detector/detector.py"
LOW = Metric(name="gap", title="gap", better="lower", drop="relative", text="mean distance")


class Pair(Task):
    """The sum of two outputs is what is wanted."""

    name = "pair"
    targets = "numbers f[n]"
    output = "a"
    kinds: ClassVar = {"b": "values"}

    def check(self, outputs, targets):
        return "" if targets["sum"].ndim == 1 else f"{targets['sum'].ndim} dimensions"

    def loss(self, settled, values, targets):
        return (values["a"][:, 0] + values["b"][:, 0] - targets["sum"]).square().mean()

    def predictions(self, settled, outputs):
        return outputs["a"][:, 0] + outputs["b"][:, 0]

    def scores(self, settled):
        return {LOW: Gap()}


class Gap(torchmetrics.MeanMetric):
    def update(self, predictions, targets):
        super().update((predictions - targets["sum"]).abs())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return {"a": self.a(x).sigmoid(), "b": self.b(x)}


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
TARGETS = {"sum": torch.arange(40.0)}


def settled_of(task, targets=TARGETS, net=None, **more):
    torch.manual_seed(0)
    part = Split((X,), targets)
    graph = export_graph((net or Net()).eval(), X[:4])
    return settle(graph, Dataset("made", part, part, part), task=task, **more)


def error_of(task, **more):
    with pytest.raises(CompresscError) as caught:
        settled_of(task, **more)
    assert "\n" not in str(caught.value)
    return caught.value


def test_outputs_and_kinds_are_the_task_s():
    settled = settled_of(Pair())
    assert (settled.output, settled.labels, settled.named) == ("a", True, True)
    assert [(r.name, r.kind, r.learned) for r in settled.learned] == [
        ("a", "independent_scores", "independent_scores"),
        ("b", "values", "values"),
    ]
    assert settled_of(Pair(), output="b").output == "b"


def test_the_loss_takes_values_before_their_endings_and_scores_take_outputs():
    settled = settled_of(Pair())
    torch.manual_seed(0)
    net = Net().eval()
    a, b = net.a(X).detach(), net.b(X).detach()  # before the sigmoid
    expected = (a[:, 0] + b[:, 0] - TARGETS["sum"]).square().mean()
    assert settled.loss([a, b], TARGETS) == pytest.approx(float(expected))
    scoring = Scoring(settled)
    outputs = {name: x.detach() for name, x in net(X).items()}
    for start in range(0, 40, 16):
        some = {name: x[start : start + 16] for name, x in outputs.items()}
        part = {"sum": TARGETS["sum"][start : start + 16]}
        scoring.update(some, part, some)
    gap = (outputs["a"][:, 0] + outputs["b"][:, 0] - TARGETS["sum"]).abs().mean()
    assert scoring.values() == {"gap": pytest.approx(float(gap))}
    read = settled.read_values([a, b])
    assert torch.allclose(read["a"], outputs["a"])
    assert settled.split([a, a], TARGETS)[1] is None  # they say nothing of the rows of one output


def test_without_targets_nothing_is_scored_by_them():
    settled = settled_of(Pair(), targets=None)
    assert not settled.labels
    torch.manual_seed(0)
    scoring, outputs = Scoring(settled), Net()(X)
    flipped = outputs | {"a": 1 - outputs["a"]}
    flipped["a"][:20] = outputs["a"][:20]
    scoring.update(flipped, settled.targets((X,), None), outputs)
    assert scoring.values() == {"agreement": 0.5}  # the likeness of the judged output


class Fails(Pair):
    at: str

    def check(self, outputs, targets):
        return 1 / 0 if self.at == "check" else ""  # type: ignore[return-value]

    def loss(self, settled, values, targets):
        bad = {"raises": lambda: values["c"], "shape": lambda: values["a"], "text": lambda: "low"}
        bad["nan"] = lambda: values["a"].sum() * math.nan
        return bad[self.at]() if self.at in bad else super().loss(settled, values, targets)

    def scores(self, settled):
        return {} if self.at == "no scores" else {LOW: 1 if self.at == "meter" else Gap()}

    def predictions(self, settled, outputs):
        return outputs["c"] if self.at == "predictions" else super().predictions(settled, outputs)


@pytest.mark.parametrize(
    ("at", "got"),
    [
        ("check", "ZeroDivisionError: division by zero"),
        ("raises", "KeyError: 'c'"),
        ("shape", "shape [8, 2]"),
        ("text", "str"),
        ("nan", "nan"),
        ("meter", "AttributeError"),
        ("predictions", "KeyError: 'c'"),
        ("no scores", "none"),
    ],
)
def test_a_task_that_fails_is_named_before_any_work(at, got):
    error = error_of(Fails(at=at))
    assert error.code == "CC106"
    assert "the task 'pair'" in error.wanted
    assert got in error.got


def test_targets_that_are_refused_say_why():
    error = error_of(Pair(), targets={"sum": torch.zeros(40, 2)})
    assert error.code == "CC301"
    assert error.wanted == "the task 'pair' takes numbers f[n]"
    assert error.got == "2 dimensions"
    assert "train, outputs 'a' [8, 2]" in error.where


def test_a_model_without_the_output_is_refused():
    error = error_of(Pair(), net=nn.Linear(4, 2))
    assert error.code == "CC301"
    assert error.got == "'b'"


# ---- the detector of the examples --------------------------------------------------------------


def detections(task, rows, size=6):
    """Outputs with a logit of class 0 and a box at some cells, and nothing elsewhere."""
    scores, boxes = torch.full((1, 2, size, size), -20.0), torch.zeros(1, 4, size, size)
    for (row, column), logit, (x, y, wide, high) in rows:
        scores[0, 0, row, column] = logit
        middle = torch.tensor([column + 0.5, row + 0.5]) * 4
        boxes[0, :2, row, column] = (torch.tensor([x, y]) - middle) / 4
        boxes[0, 2:, row, column] = torch.tensor([wide, high]) / 4
    return task.predictions(None, {"scores": scores, "boxes": boxes})


def test_average_precision_of_the_detector_is_scikit_learn_s():
    """Two images; what is sure is wrong, what is less sure is right, one object is never found."""
    task = load_task(f"{DETECTOR}:Detector")
    objects = torch.tensor([[[8.0, 8, 6, 6], [18.0, 18, 6, 6], [0, 0, 0, 0]]])
    targets = {"boxes": objects, "classes": torch.tensor([[0, 0, -100]])}
    found = [
        detections(task, [((1, 1), 2.0, (8, 8, 6, 6)), ((4, 4), 3.0, (10, 18, 6, 6))]),
        detections(task, [((1, 1), 1.0, (9, 8, 6, 6)), ((1, 3), 0.5, (8, 8, 6, 6))]),
    ]
    (meter,) = task.scores(None).values()
    for predictions in found:
        meter.update(predictions, targets)
    # image 1: 3.0 misses, 2.0 hits; image 2: 1.0 hits (IoU 5/7), 0.5 finds it taken
    ranked, hits = np.array([3.0, 2.0, 1.0, 0.5]), np.array([0, 1, 1, 0])
    of_found = average_precision_score(hits, ranked)
    rows = torch.stack(meter.found)
    assert rows[rows[:, 1] > 0.4][:, 2].sum() == 2
    assert meter.objects.tolist() == [4.0, 0.0]  # a class without objects has no precision
    assert float(meter.compute()) == pytest.approx(of_found * 2 / 4)  # two of four are found
