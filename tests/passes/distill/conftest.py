"""Fixtures: teacher, student, and data that the teacher is good at."""

import pytest
import torch
from distill_nets import cut, mlp
from torch.nn import functional as F

from compressc.data import Dataset, Split


@pytest.fixture
def teacher():
    return mlp()


@pytest.fixture
def student(teacher):
    return cut(teacher)


@pytest.fixture
def data(teacher):
    """400 samples to train on, labelled by the teacher itself, and no test part worth reading."""
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    w = {name: t.detach() for name, t in teacher.tensors().items()}
    hidden = F.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    train = Split((x,), logits.argmax(1))
    return Dataset("toy", train, train.take(32), train.take(8))


@pytest.fixture
def unlabelled(data):
    bare = Split(data.train.inputs)
    return Dataset("bare", bare, bare.take(32), bare.take(8))
