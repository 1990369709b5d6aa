"""Graphs written by hand, and what they compute in plain integer arithmetic."""

from __future__ import annotations

import numpy as np
import torch

from compressc.ir import Graph, parse_graph

FLOAT = """
graph net(%x: f32[b,2,6,6]) {
  %conv = conv2d(%x) {in=2, out=8, kernel=3, padding=1} @conv.weight @conv.bias : f32[b,8,6,6]
  %relu = relu(%conv) : f32[b,8,6,6]
  %flat = aten.flatten.using_ints(%relu, 1) : f32[b,288]
  %fc = linear(%flat) {in=288, out=64} @fc.weight @fc.bias : f32[b,64]
  return %fc
}
"""

QUANTIZED = """
graph net(%x: f32[b,2,6,6]) {
  %x.q = quantized_decomposed.quantize_per_tensor(%x, 0.03, 120, 0, 255, dtype.u8) : u8[b,2,6,6]
  %x.dq = quantized_decomposed.dequantize_per_tensor(%x.q, 0.03, 120, 0, 255, dtype.u8) : f32[b,2,6,6]
  %conv = quantized_conv2d(%x.dq) {in=2, out=8, kernel=3, padding=1} @conv.bias @conv.weight @conv.scale : f32[b,8,6,6]
  %relu = relu(%conv) : f32[b,8,6,6]
  %relu.q = quantized_decomposed.quantize_per_tensor(%relu, 0.04, 0, 0, 255, dtype.u8) : u8[b,8,6,6]
  %relu.dq = quantized_decomposed.dequantize_per_tensor(%relu.q, 0.04, 0, 0, 255, dtype.u8) : f32[b,8,6,6]
  %flat = aten.flatten.using_ints(%relu.dq, 1) : f32[b,288]
  %fc = quantized_linear(%flat) {in=288, out=64} @fc.bias @fc.weight @fc.scale : f32[b,64]
  return %fc
}
"""  # noqa: E501


def float_graph() -> Graph:
    """A convolution and a linear layer, 18,800 weights."""
    draw = torch.Generator().manual_seed(3)
    return parse_graph(
        FLOAT,
        {
            "conv.weight": torch.randn(8, 2, 3, 3, generator=draw) * 0.3,
            "conv.bias": torch.randn(8, generator=draw),
            "fc.weight": torch.randn(64, 288, generator=draw) * 0.06,
            "fc.bias": torch.randn(64, generator=draw),
        },
    )


def quantized_graph(largest: int = 64) -> Graph:
    """The same with int8 weights and inputs; with half their range, no processor overflows."""
    graph = float_graph()
    tensors = {}
    for name in ("conv", "fc"):
        weight = graph[name].layer.weight.detach()
        scale = weight.flatten(1).abs().amax(1) / largest
        shape = [-1, *[1] * (weight.dim() - 1)]
        tensors[f"{name}.weight"] = torch.round(weight / scale.reshape(shape)).to(torch.int8)
        tensors[f"{name}.scale"] = scale
        tensors[f"{name}.bias"] = graph[name].layer.bias.detach()
    return parse_graph(QUANTIZED, tensors)


def integer_result(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """What `quantized_graph` computes, in int64 and float64 and without any quantized operator."""
    tensors = {name: tensor.detach().numpy() for name, tensor in graph.tensors().items()}
    steps = np.clip(np.rint(x.numpy().astype(np.float32) / np.float32(0.03)) + 120, 0, 255)
    centred = np.pad(steps.astype(np.int64) - 120, [(0, 0), (0, 0), (1, 1), (1, 1)])
    weight = tensors["conv.weight"].astype(np.int64)
    sums = np.zeros((len(x), 8, 6, 6), dtype=np.int64)
    for i in range(3):
        for j in range(3):
            window = centred[:, :, i : i + 6, j : j + 6]
            sums += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    scale = tensors["conv.scale"].astype(np.float64)[:, None, None] * 0.03
    hidden = np.maximum(sums * scale + tensors["conv.bias"][:, None, None], 0)
    steps = np.clip(np.rint(hidden / 0.04), 0, 255).astype(np.int64).reshape(len(x), -1)
    out = steps @ tensors["fc.weight"].astype(np.int64).T
    result = out * (tensors["fc.scale"].astype(np.float64) * 0.04) + tensors["fc.bias"]
    return torch.from_numpy(result)


def samples(count: int) -> torch.Tensor:
    """Inputs f32[count, 2, 6, 6]."""
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(7))
