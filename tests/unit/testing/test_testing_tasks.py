"""The kit for tasks: ours and the detector pass, and what is wrong is found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.tasks import load_task
from compressc.tasks.classification import Classification
from compressc.tasks.metric import ACCURACY
from compressc.testing import check_task, export_graph

DETECTOR = Path(__file__).parents[3] / "examples/detector"
COUNT = 200


def random(*shape, seed=0):
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 6)

    def forward(self, x):
        return F.normalize(self.out(x), dim=-1)


class Counting(nn.Module):
    """The next number of 12."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(12, 12), nn.Linear(12, 12, bias=False)
        self.words.weight.data = torch.eye(12)
        self.out.weight.data = torch.eye(12).roll(1, 0) * 5

    def forward(self, input_ids):
        return self.out(self.words(input_ids))


def classes(dim=1):
    """Right scores of 4 classes, or of 12."""

    def right(targets, count=4):
        rows = F.one_hot(targets.clamp_min(0), count).float() * 8
        return rows.movedim(-1, dim)

    return right


def case(name):
    """Net, inputs, targets, right answers, illegal targets."""
    torch.manual_seed(0)
    if name == "classification":
        x, net = random(8), nn.Linear(8, 4)
        labels = net(x).argmax(1)
        return net, x, labels, classes(), [labels + 4, labels[:, None].repeat(1, 2), labels + 0.5]
    if name == "tokens":
        x, net = random(5, 8), nn.Linear(8, 4)
        labels = net(x).argmax(2)
        return net, x, labels, classes(2), [labels[:, :3], labels + 4]
    if name == "segmentation":
        x, net = random(3, 6, 6), nn.Conv2d(3, 4, 3, padding=1)
        labels = net(x).argmax(1)
        return net, x, labels, classes(1), [labels[:, :3], labels + 4]
    if name == "multilabel":
        x, net = random(8), nn.Linear(8, 3)
        labels = (net(x) > 0).float()
        return net, x, labels, lambda targets: targets * 10 - 5, [labels[:, :2], labels * 3]
    if name == "regression":
        x, net = random(8), nn.Linear(8, 2)
        labels = net(x).detach() + 0.1 * random(2, seed=1)
        return net, x, labels, lambda targets: targets, [labels[:, :1].repeat(1, 3)]
    if name == "embedding":
        return Unit(), random(8), None, None, []
    start = torch.arange(COUNT) % 12
    ids = (start[:, None] + torch.arange(7)) % 12
    right = lambda targets: classes(2)(targets, 12)  # noqa: E731
    return Counting(), ids, None, right, [ids.float() + 0.5, ids[:, :3]]


def checked(task, net, x, labels, right, illegal=(), output=None):
    part = Split((x,), labels)
    graph = export_graph(net.eval(), x[:4])
    (name,) = graph.output_names
    answer = None if right is None else lambda targets: {name: right(targets)}
    return check_task(task, graph, Dataset("made", part, part, part), answer, illegal)


OURS = [
    "classification",
    "tokens",
    "segmentation",
    "multilabel",
    "regression",
    "embedding",
    "language_model",
]


@pytest.mark.parametrize("name", OURS)
def test_our_tasks_hold(name):
    found = checked(load_task(name), *case(name))
    assert found.settled.task.name == name
    first = next(iter(found.right))
    assert found.right[first] == pytest.approx(1.0, abs=0.01)
    assert found.constant[first] != pytest.approx(1.0, abs=0.1)


def cells(targets):
    """Right answers of the detector: sure where an object is, and its box there; no ties."""
    count, grid, stride = len(targets["classes"]), 6, 4
    draw = torch.Generator().manual_seed(0)
    scores = -8.0 - torch.rand(count, 2, grid, grid, generator=draw)
    boxes = torch.zeros(count, 4, grid, grid)
    for image, which in torch.nonzero(targets["classes"] >= 0).tolist():
        box = targets["boxes"][image, which]
        column, row = (box[:2] / stride).long().tolist()
        middle = (torch.tensor([column, row]) + 0.5) * stride
        scores[image, targets["classes"][image, which], row, column] = 8.0 + 0.01 * image
        boxes[image, :, row, column] = torch.cat([(box[:2] - middle) / stride, box[2:] / stride])
    return {"scores": scores, "boxes": boxes}


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"detector_{name}", DETECTOR / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_detector_of_the_examples_holds(monkeypatch):
    monkeypatch.syspath_prepend(str(DETECTOR))
    example = module_of("detector")
    parts = [
        Split((images,), targets) for images, targets in (example.drawn(96, s) for s in (0, 1))
    ]
    data = Dataset("shapes", parts[0], parts[0], parts[1])
    torch.manual_seed(0)
    graph = export_graph(module_of("teacher").Net().eval(), parts[0].inputs[0][:4])
    task = load_task(f"{DETECTOR / 'detector.py'}:Detector")
    boxes = parts[1].labels["boxes"]
    illegal = [{"boxes": boxes}, {"boxes": boxes[..., :3], "classes": parts[1].labels["classes"]}]
    found = check_task(task, graph, data, cells, illegal)
    (right,) = found.right.values()
    (constant,) = found.constant.values()
    assert right == pytest.approx(1.0)
    assert constant < 0.5


# ---- what is wrong is found --------------------------------------------------------------------


class Away(Classification):
    """Teaches what is wrong."""

    name = "away"

    def row_loss(self, settled, rows, labels):
        return -super().row_loss(settled, rows, labels)


class Endless(Classification):
    """Has no finite loss."""

    name = "endless"

    def row_loss(self, settled, rows, labels):
        return super().row_loss(settled, rows, labels) / 0.0


class ByBatch(torchmetrics.Metric):
    """Accuracy as the mean of the accuracies of batches."""

    def __init__(self):
        super().__init__()
        self.add_state("parts", [], None)

    def update(self, predictions, targets):
        self.parts.append((predictions.argmax(1) == targets).float().mean())

    def compute(self):
        return torch.stack(self.parts).mean()


class Averaged(Classification):
    """Scores by the mean over batches of several sizes."""

    name = "averaged"

    def scores(self, settled):
        return {ACCURACY: ByBatch()}


class Turned(Classification):
    """Calls it better where there are more mistakes."""

    name = "turned"

    def scores(self, settled):
        return {ACCURACY.model_copy(update={"better": "lower"}): ByBatch()}


class Blind(Classification):
    """Scores everything alike."""

    name = "blind"

    def scores(self, settled):
        return {ACCURACY: Always()}


class Always(torchmetrics.MeanMetric):
    def update(self, predictions, targets):
        super().update(torch.ones(1))


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (Away(), "leads away from what is right"),
        (Endless(), "the loss is"),
        (Averaged(), "in other batches"),
        (Turned(), "a constant answer has accuracy"),
        (Blind(), "is the same for a constant answer"),
    ],
)
def test_a_task_that_is_wrong_is_told_how(task, fault):
    net, x, labels, right, _ = case("classification")
    with pytest.raises((AssertionError, CompresscError), match=fault):
        checked(task, net, x, labels, right)


def test_illegal_targets_that_are_taken_are_told():
    net, x, labels, right, _ = case("classification")
    with pytest.raises(AssertionError, match="illegal targets are taken"):
        checked(
            load_task("classification"), net, x, labels, right, [labels.roll(1, 0) * 0 + labels]
        )


def test_answers_that_are_not_right_are_told():
    net, x, labels, right, _ = case("classification")
    with pytest.raises(AssertionError, match=r"accuracy 0\.\d+, not 1|does not fall|leads away"):
        checked(load_task("classification"), net, x, labels, lambda targets: right(targets.roll(1)))
