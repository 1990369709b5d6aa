"""A line to learn, and a model with all kinds of state."""

import torch
from torch import nn

from compressc.training import Lesson, TensorBatches


def linear_problem(rows=64):
    """y = 3x - 1, and a model that starts at 0."""
    x = torch.linspace(-1, 1, rows).unsqueeze(1)
    y = 3 * x - 1
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def validate(module):
        return -float((module(x) - y).pow(2).mean())

    return model, lesson_of(TensorBatches([x, y], 16), error, validate)


def error(module, batch):
    return (module(batch[0]) - batch[1]).pow(2).mean()


def named(loss):
    """A loss of one term."""
    return lambda module, batch: {"error": loss(module, batch)}


def lesson_of(batches, loss, validate, seen=()):
    return Lesson(batches, named(loss), validate, seen)


def state_bytes(module):
    return b"".join(t.detach().numpy().tobytes() for t in module.state_dict().values())


def dropout_model():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
