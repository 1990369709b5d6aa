"""Recurrent layers with stored integers, called as a module of the user calls those of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compressc.ir.recurrent import Recurrent


class AsInTorch(nn.Module):
    """A recurrent layer that is called like `nn.LSTM` and its kin, with its sizes as attributes."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer
        self.input_size, self.hidden_size = layer.input_size, layer.hidden_size
        self.num_layers, self.bidirectional = layer.num_layers, layer.bidirectional
        self.batch_first, self.bias, self.dropout = layer.batch_first, layer.bias, layer.dropout

    def forward(self, input: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        """Of [n, length, in] or [length, n, in], and states as torch's class takes them."""
        states = () if hx is None else hx if isinstance(hx, tuple | list) else (hx,)
        out, *last = self.layer(input, *states)
        return out, tuple(last) if self.layer.STATES > 1 else last[0]

    def flatten_parameters(self) -> None:
        """Nothing to do: users' code may ask for it."""
