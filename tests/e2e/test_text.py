"""A transformer encoder over token ids, with its norms behind the residual sums."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import compressc
from compressc import Dataset, Split


class Classifier(nn.Module):
    """i64[b,16] -> f32[b,3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.position = nn.Parameter(torch.randn(1, 16, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.position).mean(1))


def test_every_format_is_proved(tmp_path: Path) -> None:
    """OpenVINO once refused it: smoothing's multiplications come out wrong there."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (200, 16))
    labels = (tokens.float().mean(1) > 24.5).long()
    parts = (
        Split((tokens[part],), labels[part]) for part in (slice(120), slice(64), slice(120, 200))
    )
    compiled = compressc.compile(
        Classifier(), "prune(ratio=0.5),quant", data=Dataset("tokens", *parts)
    )
    kept = [text for _, text in compiled.passes[0].notes if "kept 2 of 4 heads" in text]
    assert len(kept) == 2
    record = compiled.save(tmp_path / "out", batches=[])
    assert not record.failures
    assert {file.format for file in record.files} == {"pt2", "onnx", "openvino"}
    assert all(file.proof is not None and file.proof.cosine > 0.998 for file in record.files)
