"""Which value stands for a sample as a whole, and how it becomes one vector."""

import torch
from torch import nn

from compressc.distillation import one_each, vector_in
from compressc.tasks import settle
from compressc.testing import export_graph
from tests.models import ZOO
from tests.passes.transformer_nets import transformer


def value_for(graph):
    return vector_in(graph, settle(graph))


def test_of_class_scores_it_is_what_the_head_reads():
    module, example = ZOO["digits_cnn"]()
    graph = export_graph(module, *example)
    name = value_for(graph)
    assert graph.type_of(name).shape[1:] == (32,)
    assert graph.users(name)[0].name == graph.output_names[0]


def test_of_a_transformer_it_is_what_the_classifier_reads():
    graph = transformer("bert")
    name = value_for(graph)
    assert [op.name for op in graph.users(name)] == [graph.output_names[0]]


class Ended(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.body, self.head, self.end = nn.Linear(4, 6), nn.Linear(6, 3), end

    def forward(self, x):
        return self.end(self.head(self.body(x).relu()))


def test_a_softmax_behind_the_head_is_not_in_the_way():
    graph = export_graph(Ended(nn.Softmax(1)).eval(), torch.randn(4, 4))
    assert graph.type_of(value_for(graph)).shape[1:] == (6,)


def test_an_embedding_is_that_itself():
    graph = export_graph(Ended(nn.ReLU()).eval(), torch.randn(4, 4))
    assert settle(graph).judged.learned == "embedding"
    assert value_for(graph) == graph.output_names[0]


def test_maps_and_sequences_become_means():
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    assert one_each(maps, None).tolist() == [[1.5, 5.5]]
    sequence = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [float("nan"), 9.0]]])
    valid = torch.tensor([[True, True, False]])
    assert one_each(sequence, valid).tolist() == [[2.0, 3.0]]
    assert one_each(sequence[:, :2], None).tolist() == [[2.0, 3.0]]
    assert one_each(sequence, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]
    assert one_each(torch.ones(2, 5), None).shape == (2, 5)
