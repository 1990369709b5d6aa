"""Hand-written architectures that no library supplies: `MODELS[name]() -> Case`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from tests import models
from tests.zoo.case import Zoo

MODELS = Zoo()


def _written(inputs: Mapping[str, str]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Put a class into the zoo under its name in small letters."""

    def add(made: type[nn.Module]) -> type[nn.Module]:
        letters = (f"_{c.lower()}" if c.isupper() else c for c in made.__name__)
        name = "".join(letters).strip("_")
        MODELS.add(name, made, inputs)
        return made

    return add


@_written({"ids": "i64[b,s]<50"})
class LstmClassifier(nn.Module):
    """Embedding, two bidirectional LSTM layers, the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(self.embedding(ids))
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


@_written({"ids": "i64[b,s]<50"})
class GruClassifier(nn.Module):
    """Embedding, a GRU, mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.gru = nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.embedding(ids))
        return self.head(states.mean(1))


@_written({"x": "f32[b,3,16,16]"})
class ShuffleNet(nn.Module):
    """Grouped pointwise convolutions and channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.reduce = nn.Conv2d(16, 8, 1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.expand = nn.Conv2d(8, 16, 1, groups=4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.norm(self.reduce(x)))
        b, c, h, w = y.shape
        y = y.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        y = self.expand(self.depthwise(y))
        return self.head(F.relu(x + y).mean((2, 3)))


@_written({"x": "f32[b,3,16,16]"})
class GroupedConvolutions(nn.Module):
    """ResNeXt's block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.conv3 = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(x + self.conv3(F.relu(self.conv2(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@_written({"x": "f32[b,s,16]"})
class MixtureOfExperts(nn.Module):
    """Top-2 routing; every expert runs, the gates pick."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores, chosen = self.router(x).softmax(-1).topk(2, -1)
        gates = torch.zeros(*x.shape[:-1], 4, dtype=x.dtype).scatter(-1, chosen, scores)
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return x + (outputs * gates.unsqueeze(-2)).sum(-1)


@_written({"x": "f32[b,2,40]"})
class WaveNet(nn.Module):
    """Dilated one-dimensional convolutions with gates and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 1)
        self.filters = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.gates = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Conv1d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skip = self.stem(x), 0.0
        for filter_, gate in zip(self.filters, self.gates, strict=True):
            y = torch.tanh(filter_(x)) * torch.sigmoid(gate(x))
            x, skip = x + y, skip + y
        return self.head(self.norm(skip)).amax(-1)


@_written({"x": "f32[b,1,8,8,8]"})
class VolumeNet(nn.Module):
    """Three-dimensional convolutions, and back up by a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.up = nn.ConvTranspose3d(8, 2, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(F.leaky_relu(self.norm(self.down(x)), 0.2))


@_written({"x": "f32[b,16]"})
class Generator(nn.Module):
    """A linear layer, reshaped into a picture, and transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = nn.Linear(16, 8 * 4 * 4)
        self.up1 = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.up2 = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.seed(x).view(-1, 8, 4, 4)
        return torch.tanh(self.up2(F.elu(self.norm(self.up1(x)))))


@_written({"x": "f32[b,s,16]"})
class TupleOutput(nn.Module):
    """A tuple, a dict in it, and one value returned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.scale = nn.Linear(16, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        hidden = F.silu(self.body(x))
        mean = self.mean(hidden)
        return mean, {"scale": F.softplus(self.scale(hidden)), "mean": mean}


@_written({"batch.ids": "i64[b,s]<30", "batch.mask": "f32[b,s]"})
class DictInput(nn.Module):
    """A batch as data loaders make it, and a flag that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, torch.Tensor], scaled: bool = True) -> torch.Tensor:
        weights = batch["mask"].softmax(1) if scaled else batch["mask"]
        return self.head((self.words(batch["ids"]) * weights.unsqueeze(-1)).sum(1))


@_written({"image": "f32[b,1,8,8]", "ids": "i64[b,s]<30", "weight": "f32[b]"})
class KeywordOnly(nn.Module):
    """Inputs by keyword, one of them of rank 1, and one that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Linear(64, 8), nn.Embedding(30, 8)
        self.head = nn.Linear(8, 3)

    def forward(
        self,
        image: torch.Tensor,
        *,
        ids: torch.Tensor,
        bias: torch.Tensor | None = None,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        hidden = self.image(image.flatten(1)) + self.words(ids).mean(1)
        hidden = hidden * weight.unsqueeze(-1)
        return self.head(hidden if bias is None else hidden + bias)


def _shared(name: str, inputs: Mapping[str, str], inexact: str = "") -> None:
    """One of the networks that other tests use too."""
    MODELS.add(name, lambda: models.ZOO[name]()[0], inputs, inexact=inexact)


_IMAGE = {"x": "f32[b,1,8,8]"}
for _name in ("digits_cnn", "dense_net", "u_net", "squeeze_excite", "vit"):
    _shared(_name, _IMAGE)
_shared("tied_weights", {"ids": "i64[b,s]<23"})
_shared("used_twice", {"x": "f32[b,8]"})
_shared("two_inputs", {"image": "f32[b,1,8,8]", "vector": "f32[b,5]"})
_shared(
    "transformer_encoder",
    {"src": "f32[b,s,16]"},
    "torch takes a fused path in eval mode, and the plain one is what is traced",
)
_shared("rms_gated", {"x": "f32[b,s,16]"})
