"""A small teacher, and a student cut from it by hand."""

from typing import ClassVar

import torch
from torch import nn

from compressc.ir import Graph, parse_graph, retype
from compressc.pipeline import Pass

#: The hidden units of the teacher that the student keeps.
KEPT = (1, 4, 6, 9)

MLP = """
graph mlp(%x: f32[b,6]) {
  %fc1 = linear(%x) {in=6, out=12} @fc1.weight @fc1.bias : f32[b,12]   # from fc1
  %act = relu(%fc1) : f32[b,12]   # from act
  %fc2 = linear(%act) {in=12, out=3} @fc2.weight @fc2.bias : f32[b,3]   # from fc2
  return %fc2
}
"""


def mlp_tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (12, 6), "fc1.bias": (12,), "fc2.weight": (3, 12), "fc2.bias": (3,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator) / shape[-1] ** 0.5)
        for name, shape in shapes.items()
    }


def mlp():
    return parse_graph(MLP, mlp_tensors())


def cut(teacher: Graph, kept=KEPT) -> Graph:
    """The MLP with the hidden units `kept` alone, and a second layer that knows nothing."""
    graph = teacher.copy()
    index = list(kept)
    first, second = nn.Linear(6, len(index)), nn.Linear(len(index), 3)
    with torch.no_grad():
        first.weight.copy_(graph["fc1"].layer.weight[index])
        first.bias.copy_(graph["fc1"].layer.bias[index])
        nn.init.zeros_(second.weight)
        nn.init.zeros_(second.bias)
    graph.set_layer("fc1", first.eval())
    graph.set_layer("fc2", second.eval())
    for name in ("fc1", "act"):
        graph.narrow(name, 1, kept)
    retype(graph)
    graph.edits.clear()
    return graph


class Start(Pass):
    """Forget a layer."""

    name: ClassVar[str] = "start"

    layer: str = "fc2"
    """The one that all learn anew."""

    def run(self, graph, ctx):
        torch.nn.init.zeros_(graph[self.layer].layer.weight)
        graph.set_layer(self.layer, graph[self.layer].layer)
