"""Digits in two views, for a student that does not see what its teacher sees.

    compressc model.pt --data examples/views.py:lower \
        --passes "student(factory='examples/views.py:Lower'),distill(student_inputs=lower)"

`lower` is the lower half of the image, 4 of 8 rows. `hog` is a histogram of oriented gradients
(Dalal and Triggs 2005): in each of four quarters of the image, how much of its gradient points into
each of eight directions, each quarter of length 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.data.digits import digits

#: Directions of gradients.
BINS = 8


def lower() -> Dataset:
    """`image` f32[n,1,8,8] and `lower` f32[n,1,4,8]."""
    return paired("lower")


def hog() -> Dataset:
    """`image` f32[n,1,8,8] and `hog` f32[n,32]."""
    return paired("hog")


def lower_of(images: Tensor) -> Tensor:
    """f32[n,1,8,8] -> f32[n,1,4,8]."""
    return images[:, :, 4:].contiguous()


def hog_of(images: Tensor) -> Tensor:
    """f32[n,1,8,8] -> f32[n,32]."""
    around = F.pad(images, (1, 1, 1, 1), mode="replicate")[:, 0]
    across = around[:, 1:-1, 2:] - around[:, 1:-1, :-2]
    down = around[:, 2:, 1:-1] - around[:, :-2, 1:-1]
    length = torch.hypot(across, down)
    turn = (torch.atan2(down, across) / (2 * math.pi) * BINS).round().long() % BINS
    votes = F.one_hot(turn, BINS) * length[..., None]
    quarters = votes.unflatten(2, (2, 4)).unflatten(1, (2, 4)).sum((2, 4))
    return F.normalize(quarters, dim=-1).flatten(1)


def paired(name: str) -> Dataset:
    """Digits as `image`, with a view beside."""
    data = digits()
    parts = []
    for part in (data.train, data.calibration, data.test):
        whole = part.take(len(part))
        images = whole.inputs[0]
        parts.append(Split((images, VIEWS[name](images)), whole.labels, ("image", name)))
    return Dataset(f"digits and {name}", *parts)


#: Name of a view -> what makes it of an image.
VIEWS = {"lower": lower_of, "hog": hog_of}


class Lower(nn.Module):
    """A student of the lower half: three thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), *layers())

    def forward(self, lower: Tensor) -> Tensor:
        """f32[b,1,4,8] -> f32[b,10]."""
        return self.body(lower)


class Hog(nn.Module):
    """A student of the histogram: three thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(*layers())

    def forward(self, hog: Tensor) -> Tensor:
        """f32[b,32] -> f32[b,10]."""
        return self.body(hog)


def layers() -> list[nn.Module]:
    """Of thirty-two numbers."""
    return [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)]
