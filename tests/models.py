"""Small hand-written networks that the tests share: `ZOO[name]() -> (module, example inputs)`.

Each is in eval mode with seeded random weights and running statistics, and takes any batch size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]
ZOO: dict[str, Callable[[], Made]] = {}


def _in_zoo(function: Callable[[], Made]) -> Callable[[], Made]:
    def make() -> Made:
        torch.manual_seed(0)
        module, example = function()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias)
        return module.eval(), example

    ZOO[function.__name__] = make
    return make


def _image(batch: int = 4, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


class DigitsCnn(nn.Module):
    """Convolutions with batch norm, a residual, a depthwise convolution, pooling, a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, 2 * width, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.relu(x + self.bn1(self.conv1(x)))
        x = F.relu6(self.bn2(self.depthwise(F.max_pool2d(x, 2))))
        x = F.relu(self.pointwise(x)).mean((2, 3))
        return self.head(self.drop(x))


@_in_zoo
def digits_cnn() -> Made:
    return DigitsCnn(), (_image(),)


class FusedAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(out.transpose(1, 2).contiguous().view(b, n, d))


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = FusedAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, a class token, learned positions, two blocks with fused qkv."""

    def __init__(self, width: int = 32, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(VitBlock(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


@_in_zoo
def vit() -> Made:
    return Vit(), (_image(),)


class TiedLanguageModel(nn.Module):
    """Token ids in; the head shares the embedding's weight."""

    def __init__(self, rows: int = 23, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, rows, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(ids))))


@_in_zoo
def tied_weights() -> Made:
    return TiedLanguageModel(), (torch.randint(0, 23, (4, 7)),)


class UsedTwice(nn.Module):
    """One linear and one activation, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.head = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.fc(self.act(self.fc(x)))))


@_in_zoo
def used_twice() -> Made:
    return UsedTwice(), (torch.randn(4, 8),)


class TwoInputs(nn.Module):
    """An image branch and a vector branch; the output is a dict with a nested tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(5, 6)
        self.head = nn.Linear(12, 4)

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> dict[str, object]:
        a, b = F.silu(self.conv(image)).amax((2, 3)), torch.sigmoid(self.fc(vector))
        logits = self.head(torch.cat([a, b], 1))
        return {"logits": logits, "features": (a, b)}


@_in_zoo
def two_inputs() -> Made:
    return TwoInputs(), (_image(), torch.randn(4, 5))


class DenseNet(nn.Module):
    """Features are concatenated with all earlier ones; transition and group norm."""

    def __init__(self, growth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d((2 + i) * growth, growth, 3, padding=1) for i in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d((2 + i) * growth) for i in range(3))
        self.transition = nn.Conv2d(5 * growth, 8, 1)
        self.group_norm = nn.GroupNorm(4, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        x = F.avg_pool2d(self.transition(torch.cat(features, 1)), 2)
        return self.head(F.adaptive_avg_pool2d(F.elu(self.group_norm(x)), 1).flatten(1))


@_in_zoo
def dense_net() -> Made:
    return DenseNet(), (_image(),)


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.middle = nn.Conv2d(12, 16, 3, 2, 1)
        self.up1 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.fuse1 = nn.Conv2d(24, 8, 3, padding=1)
        self.fuse2 = nn.Conv2d(16, 8, 3, padding="same")
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.leaky_relu(self.down1(x), 0.1)
        b = F.hardswish(self.down2(a))
        c = F.mish(self.middle(b))
        b = F.relu(self.fuse1(torch.cat([self.up1(c), b], 1)))
        b = F.interpolate(b, scale_factor=2.0, mode="nearest")
        return self.out(F.relu(self.fuse2(torch.cat([b, a], 1))))


@_in_zoo
def u_net() -> Made:
    return UNet(), (_image(),)


class SqueezeExcite(nn.Module):
    """Squeeze-excite, channel shuffle and a grouped convolution."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=3)
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.shape
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = self.grouped(x)
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).sum((2, 3)))


@_in_zoo
def squeeze_excite() -> Made:
    return SqueezeExcite(), (_image(),)


@_in_zoo
def transformer_encoder() -> Made:
    """torch's own layers, which take a fused path in eval mode where they are let."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(4, 6, 16),)


class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` over a memory: packed weights are split inside the call."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, weights = self.attn(x, memory, memory)
        return self.norm(x + out), weights


@_in_zoo
def cross_attention() -> Made:
    return CrossAttention(), (torch.randn(4, 6, 16), torch.randn(4, 5, 16))


class PlainMatrices(nn.Module):
    """Products with bare parameters: `x @ W + b`, `addmm` (GPT-2), `x @ W.t()`, one tied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(12, 20))
        self.bias = nn.Parameter(torch.randn(20))
        self.second = nn.Parameter(torch.randn(20, 14))
        self.second_bias = nn.Parameter(torch.randn(14))
        self.third = nn.Parameter(torch.randn(10, 14))
        self.square = nn.Parameter(torch.randn(10, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x @ self.first + self.bias)
        x = torch.addmm(self.second_bias, x.reshape(-1, 20), self.second)
        x = (x @ self.third.t()) @ self.square
        return x + self.square[0]


@_in_zoo
def plain_matrices() -> Made:
    return PlainMatrices(), (torch.randn(4, 3, 12),)


class InPlace(nn.Module):
    """In-place activations, a write that a residual sees, a write into a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        out = self.act(h) + h  # h was overwritten
        y = h.mul_(2.0)
        y.add_(1.0)  # and again, through another name
        out = out + h
        out[:, :2] += self.b(out)[:, :2]
        return out.clamp_(-3, 3)


@_in_zoo
def in_place() -> Made:
    return InPlace(), (torch.randn(4, 6),)


class Layouts(nn.Module):
    """Copies into another memory layout decide which kernel runs, so they must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(9, 9), nn.LayerNorm(9)
        self.conv = nn.Conv1d(9, 7, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix(x.transpose(1, 2).contiguous())
        y = self.mix(self.norm(x.transpose(1, 2))) + y
        return self.conv(y.transpose(1, 2).clone()).contiguous().view(x.shape[0], -1)


@_in_zoo
def layouts() -> Made:
    return Layouts(), (torch.randn(4, 9, 33),)


class ManyInputs(nn.Module):
    """`*args`, and a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            offset = inputs[0].abs().mean(1, keepdim=True)
        return [self.fc(x) * self.scale + offset for x in inputs]


@_in_zoo
def many_inputs() -> Made:
    return ManyInputs(), (torch.randn(4, 5), torch.randn(4, 5), torch.randn(4, 5))


class RmsGated(nn.Module):
    """RMS norm and a gated MLP, as language models of today have them."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate, self.up = nn.Linear(width, 24, bias=False), nn.Linear(width, 24, bias=False)
        self.down = nn.Linear(24, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


@_in_zoo
def rms_gated() -> Made:
    return RmsGated(), (torch.randn(4, 6, 16),)


class Small(nn.Module):
    """The smallest network worth loading."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x)).reshape(-1, 3) + self.shift


def small() -> Small:
    """A seeded instance."""
    torch.manual_seed(0)
    return Small().eval()
