"""Two views of digits, one of texts, one of sound: students that do not see what teachers see.

    compressc model.pt --data examples/views.py:lower \
        --passes "student(factory='examples/views.py:Lower'),distill(student_inputs=lower)"

`lower` is the lower half of the image, 4 of 8 rows. `hog` is a histogram of oriented gradients
(Dalal and Triggs 2005): in each of four quarters of the image, how much of its gradient points into
each of eight directions, each quarter of length 1.

Where the data bring texts or sound, `bag_of` makes a bag of words of ids, and `mfcc_of` cepstral
coefficients of a spectrogram; `Bag` and `Mfcc` are students of these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.data.digits import digits

#: Directions of gradients, words of a bag, cepstral coefficients.
BINS, WORDS, COEFFICIENTS = 8, 1000, 13


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


def bag_of(ids: Tensor, words: Tensor) -> Tensor:
    """Which words are in a text, in any order: i64[n,s] and i64[k] -> f32[n,k] of length 1."""
    there = torch.stack([(row[:, None] == words).any(0) for row in ids]).float()
    return F.normalize(there, dim=1)


def mfcc_of(spectrogram: Tensor) -> Tensor:
    """Cepstral coefficients of logarithms of mel bands: f32[n,1,m,t] -> f32[n,13,t].

    The first ones of an orthonormal DCT-II over the bands (Davis and Mermelstein 1980).
    """
    bands = spectrogram.shape[2]
    place = torch.arange(bands) + 0.5
    waves = torch.cos(math.pi / bands * torch.arange(COEFFICIENTS)[:, None] * place)
    waves = waves * torch.full((COEFFICIENTS, 1), 2 / bands).sqrt()
    waves[0] /= math.sqrt(2)
    return waves @ spectrogram[:, 0]


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


class Bag(nn.Module):
    """A student of a bag of words: 32 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(WORDS, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, bag: Tensor) -> Tensor:
        """f32[b,1000] -> f32[b,10]."""
        return self.body(bag)


class Mfcc(nn.Module):
    """A student of cepstral coefficients, of any length: two thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv1d(COEFFICIENTS, 32, 5, 2), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 5)

    def forward(self, mfcc: Tensor) -> Tensor:
        """f32[b,13,t] -> f32[b,5]."""
        return self.head(self.body(mfcc).mean(2))
