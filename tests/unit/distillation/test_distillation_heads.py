"""The last values with weights before each output."""

import torch

from compressc.distillation import find_heads
from compressc.ir import parse_graph

DETECTOR = """
graph detector(%x: f32[b,4], %mask: f32[b,3]) {
  %body = linear(%x) {in=4, out=6} @body.weight @body.bias : f32[b,6]   # from body
  %act = relu(%body) : f32[b,6]   # from act
  %classes = linear(%act) {in=6, out=3} @classes.weight @classes.bias : f32[b,3]   # from classes
  %boxes = linear(%act) {in=6, out=3} @boxes.weight @boxes.bias : f32[b,3]   # from boxes
  %scores = sigmoid(%classes) : f32[b,3]   # from scores
  %shown = aten.mul.Tensor(%boxes, %mask) : f32[b,3]   # from shown
  %product = aten.mul.Tensor(%scores, %shown) : f32[b,3]   # from product
  %skip = aten.sum.dim_IntList(%act, [1]) : f32[b]   # from skip
  return {"both": %product, "plain": %scores, "sum": %skip}
}
"""


def detector():
    shapes = {"body": (6, 4), "classes": (3, 6), "boxes": (3, 6)}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        tensors[f"{name}.weight"] = torch.nn.Parameter(weight)
        tensors[f"{name}.bias"] = torch.nn.Parameter(torch.zeros(shape[0]))
    return parse_graph(DETECTOR, tensors)


def test_each_path_to_an_output_ends_in_its_last_weights():
    # decoding behind them is no head; of the third output the body is, though two heads read it
    graph = detector()
    assert find_heads(graph) == ["body", "classes", "boxes"]
    assert find_heads(graph, ["scores"]) == ["classes"]
    assert find_heads(graph, ["product"]) == ["classes", "boxes"]


def test_an_output_without_weights_has_no_head():
    text = """
graph bare(%x: f32[b,4]) {
  %r = relu(%x) : f32[b,4]   # from r
  return %r
}
"""
    assert find_heads(parse_graph(text, {})) == []
