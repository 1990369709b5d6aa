"""How fast the engine trains, against a loop by hand: python benchmarks/engine.py

A residual net of 0.46 M parameters on images of 28 x 28, as Fashion-MNIST's are, batches of 64,
AdamW with a cosine, gradients clipped at 1, channels last on both sides. `fine-tune`: cross
entropy. `distill`: KL (T = 4) and 0.3 cross entropy for a student of half the channels; by hand the
teacher runs beside, here its answers are kept, as from the second epoch on. Epochs in turns in one
process, medians of paired rounds. Random pixels: a rate does not depend on what they show.
Statistics of batch norms are not taken anew: that is 1,024 samples an epoch, whatever its length.
`--images FILE.npy` maps real ones, u8[n,28,28].
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.distillation import Keeping, Loss, Reader, Teacher, Teaching, parse_loss
from compressc.ir import Graph, lower
from compressc.measure.memory import peak_bytes
from compressc.pipeline import Pipeline, parse_passes
from compressc.tasks import SettledTask, settle
from compressc.testing import export_graph
from compressc.training import Lesson, Recipe, SampleBatches, train

BATCH, RATE, TEMPERATURE, ALPHA = 64, 1e-3, 4.0, 0.3
CPU = torch.device("cpu")
Epoch = Callable[[], object]


class Block(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.skip = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.norm_b(self.b(F.relu(self.norm_a(self.a(x)))))
        return F.relu(y + self.skip(x))


def net() -> nn.Module:
    """f32[b,1,28,28] -> f32[b,10]."""
    torch.manual_seed(0)
    stages = [Block(1, 32, 1), Block(32, 64, 2), Block(64, 136, 2)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(136, 10))


def samples(count: int, images: Path | None) -> Split:
    """Images with labels."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 28, 28, generator=draw)
    if images is not None:
        pixels = np.load(images, mmap_mode="r")[:count]
        x = torch.from_numpy(pixels.astype(np.float32))[:, None] / 255
    return Split((x,), torch.randint(10, (len(x),), generator=draw))


def by_hand(module: nn.Module, data: Split, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """An epoch, as one would write it; `loss` of images and labels."""
    (x,), y = data.inputs, data.labels
    module.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, math.ceil(len(x) / BATCH))
    for index in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad(set_to_none=True)
        loss(x[index].contiguous(memory_format=torch.channels_last), y[index]).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def fine_tune(data: Split) -> tuple[Epoch, Epoch]:
    """An epoch of ours, and one by hand."""
    graph = export_graph(net().eval(), data.inputs[0][:4])
    ours, theirs = lower(graph), copy.deepcopy(lower(graph))
    lesson = Lesson(
        SampleBatches(data, BATCH, CPU),
        lambda module, batch: {
            "labels": F.cross_entropy(module(*batch.samples.inputs), batch.samples.labels)
        },
        lambda module: 0.0,
    )
    recipe = Recipe(1, RATE, channels_last=True)
    return (
        lambda: train(ours, lesson, recipe),
        lambda: by_hand(theirs, data, lambda x, y: F.cross_entropy(theirs(x), y)),
    )


def distill(data: Split) -> tuple[Epoch, Epoch]:
    """The same for a student that learns from a teacher."""
    teacher = export_graph(net().eval(), data.inputs[0][:4])
    parts = Dataset("images", data, data.take(64), data.take(64))
    task = settle(teacher, parts, None)
    (passed,) = Pipeline(parse_passes("prune(ratio=0.5)"), parts, task=task).run(teacher)
    ours = _teaching(teacher, passed.graph, data, task)
    recipe = Recipe(1, RATE, channels_last=True)
    lesson = replace(ours.lesson(ours.batches(BATCH), lambda module: 0.0), seen=())
    ours.teacher.answers(next(ours.batches(BATCH).epoch(0, 1)))  # the first epoch asks
    student, master = (copy.deepcopy(lower(g)).eval() for g in (passed.graph, teacher))
    master.to(memory_format=torch.channels_last)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(master(x) / TEMPERATURE, 1)
        answer = student(x)
        got = F.log_softmax(answer / TEMPERATURE, 1)
        kl = F.kl_div(got, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
        return ALPHA * F.cross_entropy(answer, y) + (1 - ALPHA) * kl

    return (
        lambda: train(ours.student.module, lesson, recipe),
        lambda: by_hand(student, data, loss),
    )


def _teaching(teacher: Graph, student: Graph, data: Split, task: SettledTask) -> Teaching:
    readers = [Reader(g, [task.value_in(g)], [], CPU) for g in (teacher, student)]
    answers = Teacher(readers[0], [], data, CPU, Keeping("memory"))
    loss = Loss(parse_loss(f"{ALPHA}*ce + {1 - ALPHA}*kd(T={TEMPERATURE})"))
    return Teaching(data, CPU, answers, readers[1], task, loss)


def compare(name: str, sides: tuple[Epoch, Epoch], count: int, rounds: int) -> None:
    """Epochs in turns: samples a second, their ratio, and the memory of an epoch."""
    seconds: list[tuple[float, float]] = []
    for turn in range(rounds + 1):
        pair = [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            sides[side]()
            pair[side] = time.perf_counter() - start
        if turn:  # the first warms up
            seconds.append((pair[0], pair[1]))
    ratios = sorted(theirs / ours for ours, theirs in seconds)
    rates = [count / statistics.median(pair[side] for pair in seconds) for side in (0, 1)]
    memory = [peak_bytes(side) / 1e6 for side in sides]
    print(
        f"{name:10} {rates[0]:8,.0f} samples/s, by hand {rates[1]:8,.0f}: "
        f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"memory {memory[0]:.0f} MB, by hand {memory[1]:.0f} MB: {memory[0] / memory[1]:.2f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4096, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=Path, help="a .npy file, u8[n,28,28]")
    arguments = parser.parse_args()
    data = samples(arguments.samples, arguments.images)
    for name, make in (("fine-tune", fine_tune), ("distill", distill)):
        compare(name, make(data), len(data), arguments.rounds)


if __name__ == "__main__":
    main()
