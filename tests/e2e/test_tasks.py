"""Each task is used by a run: a small real training, cut, taught, quantized, and scored anew.

What a file scores is computed here once more from the file's own outputs, by scikit-learn or numpy.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn import functional as F

import compressc
from compressc.data import Dataset, Split
from compressc.report import Record, render
from compressc.report.console import Console
from compressc.report.html import html

ROOT = Path(__file__).parents[2]
PASSES = "prune(ratio=0.25,refit=false),distill(epochs=6),quant"


def fit(net: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor], steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,), generator=generator)
        optimizer.zero_grad()
        loss(net(x[some]), y[some]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def parts(x: Tensor, y: Tensor | None, test: int = 256) -> Dataset:
    def split(a: int, b: int) -> Split:
        return Split((x[a:b],), None if y is None else y[a:b])

    kept = len(x) - test
    return Dataset("made", split(0, kept), split(0, 128), split(kept, len(x)))


@dataclass
class Run:
    record: Record
    data: Dataset
    outputs: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return self.data.test.take(10_000).labels.numpy()

    def scores(self, name: str) -> list[float]:
        """Of the teacher, after each pass that was asked for, and of the file."""
        asked = [entry for entry in self.record.passes if entry.inserted_for is None]
        return [e.scores[name] for e in (self.record.teacher, *asked, *self.record.files)]


def run(net: nn.Module, data: Dataset, folder: Path, passes: str = PASSES, **more: object) -> Run:
    compiled = compressc.compile(net, passes, data=data, cache=None, **more)  # type: ignore[arg-type]
    record = compiled.save(folder, formats=["onnx"], batches=[])
    assert not record.failures
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (given,) = data.test.take(10_000).inputs
    outputs = session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]
    return Run(record, data, outputs)


def shown(record: Record) -> str:
    console = Console(width=120, file=io.StringIO())
    render(record, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def assert_recovers(made: Run, task: str, metric: str, title: str) -> None:
    """The cut costs something, the lesson brings some of it back, and the report says so."""
    record = made.record
    assert record.task is not None
    assert record.task.primary is not None
    assert (record.task.name, record.task.primary.name) == (task, metric)
    teacher, cut, taught, _, file = made.scores(metric)
    if record.task.primary.better == "lower":
        teacher, cut, taught, file = -teacher, -cut, -taught, -file
    assert teacher > cut
    assert taught > cut
    assert abs(file - taught) < 0.1 * abs(taught - cut) + 0.02 * abs(taught)
    assert title in shown(record)
    assert title in html(record)
    assert f"{task}, inferred: " in " ".join(shown(record).split())


def test_segmentation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    count, generator = 768, torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 16, 16, generator=generator) * 0.4
    y = torch.zeros(count, 16, 16, dtype=torch.int64)
    for i, places in enumerate(torch.randint(0, 12, (count, 2, 2), generator=generator).tolist()):
        for kind, (row, column) in enumerate(places, 1):
            x[i, 0, row : row + 4, column : column + 4] += 1.0 if kind == 1 else -1.0
            y[i, row : row + 4, column : column + 4] = kind
    blocks = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()]
    net = fit(nn.Sequential(*blocks, nn.Conv2d(16, 3, 1)), x, y, F.cross_entropy, 200)
    made = run(net, parts(x, y), tmp_path / "out", PASSES.replace("0.25", "0.5"))
    assert_recovers(made, "segmentation", "miou", "mIoU %")
    answers = made.outputs.argmax(1)
    iou = sk.jaccard_score(made.labels.ravel(), answers.ravel(), average="macro")
    assert made.scores("miou")[-1] == pytest.approx(iou)
    assert made.scores("accuracy")[-1] == pytest.approx(float((answers == made.labels).mean()))


def test_regression(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(1280, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.stack([100 + 20 * torch.sin(3 * x[:, 0]) * x[:, 1], 50 * x[:, 2] * x[:, 3]], 1)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
            )
            self.register_buffer("mean", y.mean(0))
            self.register_buffer("spread", y.std(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * self.spread + self.mean

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(output / y.std(0), wanted / y.std(0))

    net = fit(Scaled(), x, y, loss, 400)
    made = run(net, parts(x, y), tmp_path / "out")
    assert_recovers(made, "regression", "r2", "R^2")
    r2 = sk.r2_score(made.labels, made.outputs, multioutput="variance_weighted")
    assert made.scores("r2")[-1] == pytest.approx(r2, abs=1e-6)
    error = sk.mean_absolute_error(made.labels, made.outputs)
    assert made.scores("mae")[-1] == pytest.approx(error, rel=1e-5)


def test_multilabel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1280, 12, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x[:, i] * x[:, i + 1] > 0.2 * i for i in range(5)], 1).float()
    layers = [nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)]
    net = fit(nn.Sequential(*layers), x, y, F.binary_cross_entropy_with_logits, 300)
    made = run(net, parts(x, y), tmp_path / "out")
    assert_recovers(made, "multilabel", "accuracy", "F1 %")
    answers = made.outputs > 0
    assert made.scores("accuracy")[-1] == pytest.approx(float((answers == made.labels).mean()))
    assert made.scores("f1")[-1] == pytest.approx(
        sk.f1_score(made.labels, answers, average="micro")
    )


class Sequence(nn.Module):
    """A window of three or four tokens to scores of classes at each position."""

    def __init__(self, words: int, classes: int, before: int, after: int) -> None:
        super().__init__()
        self.words, self.pad = nn.Embedding(words, 24), (before, after)
        self.window = nn.Conv1d(24, 64, before + after + 1)
        self.scores = nn.Linear(64, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = F.pad(self.words(input_ids).transpose(1, 2), self.pad)
        return self.scores(F.relu(self.window(x)).transpose(1, 2))


def test_tokens(tmp_path: Path) -> None:
    """A token's tag is told by its neighbours; padding has none."""
    torch.manual_seed(0)
    ids = torch.randint(1, 12, (900, 20), generator=torch.Generator().manual_seed(0))
    around = F.pad(ids, (1, 1))
    tags = (around[:, :-2] > ids).long() + 2 * (around[:, 2:] > ids).long()
    ids[::2, 14:], tags[::2, 14:] = 0, -100

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), wanted.flatten())

    net = fit(Sequence(12, 4, 1, 1), ids, tags, loss, 300)
    made = run(net, parts(ids, tags), tmp_path / "out")
    assert_recovers(made, "tokens", "accuracy", "accuracy %")
    known = made.labels != -100
    right = (made.outputs.argmax(2) == made.labels)[known].mean()
    assert made.scores("accuracy")[-1] == pytest.approx(float(right))


def test_language_model(tmp_path: Path) -> None:
    """Characters of the README: no labels, the next character is what is wanted."""
    torch.manual_seed(0)
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    known = sorted(set(re.sub(r"[^a-z .,\n]", "", text)))
    numbers = torch.tensor([known.index(c) if c in known else 0 for c in text])
    starts = torch.randint(0, len(numbers) - 32, (900,), generator=torch.Generator().manual_seed(0))
    ids = numbers[starts[:, None] + torch.arange(32)]

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(output[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())

    net = fit(Sequence(len(known), len(known), 3, 0), ids, ids, loss, 300)
    made = run(net, parts(ids, None), tmp_path / "out")
    assert_recovers(made, "language_model", "perplexity", "perplexity")
    tested = made.data.test.take(10_000).inputs[0].numpy()
    logits = made.outputs[:, :-1].astype(np.float64)
    picked = np.take_along_axis(logits, tested[:, 1:, None], 2)[..., 0]
    nll = np.log(np.exp(logits).sum(2)) - picked
    assert made.scores("perplexity")[-1] == pytest.approx(float(np.exp(nll.mean())), rel=1e-5)


def test_a_gate_on_perplexity_is_a_share_of_the_teacher_s(tmp_path: Path) -> None:
    from compressc.errors import CompresscError
    from compressc.gate import Gate

    ids = torch.randint(0, 9, (1, 400), generator=torch.Generator().manual_seed(0)).repeat(300, 1)
    ids = torch.stack([row[i : i + 16] for i, row in enumerate(ids)])

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(output[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())

    torch.manual_seed(0)
    net = fit(Sequence(9, 9, 3, 0), ids, ids, loss, 60)
    made = run(net, parts(ids, None, test=64), tmp_path / "out", "prune(ratio=0.5)")
    before, _, after = made.scores("perplexity")
    share = after / before - 1
    assert share > 0.05
    Gate(min(share + 0.01, 1.0) if share < 0.99 else 1.0)  # a share, as always
    with pytest.raises(CompresscError, match=r"CC505.*perplexity may rise by .* of the teacher's"):
        Gate(0.04).judge(made.record)


def test_a_class_that_is_lost_is_told_though_accuracy_hides_it(tmp_path: Path) -> None:
    """Two of a hundred are of the third class, which eight small units of the layer tell."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.9, 0.08, 0.02]), 3000, True, generator=generator)
    x = torch.randn(3000, 3, generator=generator) * 0.1 + torch.tensor([1.0, 0.0, 0.0])
    x += F.one_hot(y, 3) * torch.tensor([0.0, 3.0, 60.0])
    net = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    for layer in (net[0], net[2]):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for kind, units in enumerate((slice(0, 12), slice(12, 24), slice(24, 32))):
            net[0].weight[units, kind] = 0.05 if kind == 2 else 1.0
            net[2].weight[kind, units] = 1 / 12
    made = run(net, parts(x, y, test=1500), tmp_path / "out", "prune(ratio=0.25)")
    answers, record = made.outputs.argmax(1), made.record
    assert made.scores("accuracy")[-1] == pytest.approx(sk.accuracy_score(made.labels, answers))
    balanced = sk.balanced_accuracy_score(made.labels, answers)
    assert made.scores("balanced_accuracy")[-1] == pytest.approx(balanced)
    recalls = sk.recall_score(made.labels, answers, average=None)
    assert record.files[0].recalls == pytest.approx(recalls)
    assert made.scores("accuracy")[-1] > 0.97  # looks fine
    assert recalls[2] == 0.0  # and is not
    text, labels = " ".join(shown(record).split()), int((made.labels == 2).sum())
    lost = made.scores("accuracy")[0] - made.scores("accuracy")[-1]
    assert f"warning: class 2 falls by 100.0 points ({labels} labels)" in text
    assert f"where all labels fall by {lost * 100:.1f}" in text
    assert "-100.00 (class 2)" in text
    assert "balanced %" in text


def test_a_detector_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worked example of docs/howto-tasks.md: its teacher, its task, its data."""
    import runpy

    from compressc.cli import main

    example = ROOT / "examples/detector"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(example))
    torch.manual_seed(0)
    runpy.run_path(str(example / "teacher.py"), run_name="__main__")
    file = example / "detector.py"
    named = ["--task", f"{file}:Detector", "--data", f"{file}:shapes"]
    passes = ["--passes", "prune(ratio=0.3),distill(epochs=3),quant", "--emit", "onnx"]
    assert main(["detector.pt2", *named, *passes, "--batches", "", "-o", "out", "-q"]) == 0
    record = Record.read("out/manifest.json")
    assert record.task is not None
    assert (record.task.name, record.task.named) == ("detector", True)
    assert [metric.name for metric in record.task.metrics] == ["map50"]
    teacher, cut, taught = (entry.scores["map50"] for entry in (record.teacher, *record.passes[:2]))
    assert teacher > 0.9
    assert cut < teacher - 0.2
    assert taught > teacher - 0.1
    assert record.files[0].scores["map50"] == pytest.approx(taught, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--task", "segmentation", "--data", "digits"], 4, "CC301] task 'segmentation' judges"),
        (["--task", "clasification", "--data", "digits"], 2, "did you mean 'classification'?"),
        (["--task", "tokens(size=3)", "--data", "digits"], 2, "CC102] task 'tokens' has no option"),
        (["--task", "classification"], 2, "CC105] task 'classification' needs data"),
        (["--task", "none.py:Mine", "--data", "digits"], 2, "CC106] the file of the task exists"),
        (["--task", "none.py", "--data", "digits"], 2, "CC100] a task of one's own is written"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    from compressc.cli import main

    out = tmp_path / "out"
    assert main([str(teacher), "-p", "prune", *arguments, "-o", str(out), "-q"]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not out.exists()
