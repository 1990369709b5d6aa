"""Train a small vision transformer on digits, with fused qkv attention as in timm.

python examples/teachers/digits_vit.py --out vit.pt
"""

from __future__ import annotations

import torch
from digits import Recipe, main
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection: f32[b,n,d] -> f32[b,n,d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        b, n, d = x.shape
        split = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm transformer block: f32[b,n,d] -> f32[b,n,d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsViT(nn.Module):
    """16 patches of 2x2 pixels and a class token: f32[b,1,8,8] -> logits f32[b,10].

    A convolution before the patches replaces the data that a plain ViT would need.
    """

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patch = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, 1, 1), nn.GELU(), nn.Conv2d(width // 2, width, 2, 2)
        )
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


if __name__ == "__main__":
    main(
        DigitsViT,
        "Train the digits ViT teacher.",
        Recipe(epochs=50, learning_rate=0.002, batch_size=32),
    )
