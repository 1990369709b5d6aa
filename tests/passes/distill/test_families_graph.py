"""Graphs of neighbours: the divergence by plain loops, its memory, and a training."""

import math
import sys
from pathlib import Path

import pytest
import torch
from compressc_distill.families.graph import NeighbourGraph, Nodes
from distill_nets import Start

from compressc.distillation import Readings, Seen
from compressc.errors import CompresscError
from compressc.pipeline import parse_passes
from compressc.testing import check_objective, check_resumes


def vectors(seed, count=6, width=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def seen(student, teacher, **more):
    rows = torch.zeros(len(student), 1)
    return Seen(Readings(rows, vectors=student), Readings(rows, vectors=teacher), **more)


def cosine(a, b):
    size = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size


def shares(x, others, t):
    e = [math.exp(cosine(x, y) / t) for y in others]
    return [value / sum(e) for value in e]


def by_hand(mine, its, our_others, their_others, k, t):
    """Of one node: edges to the k nearest, and one for all the rest."""
    p, q = shares(its, their_others, t), shares(mine, our_others, t)
    near = sorted(range(len(p)), key=lambda j: -p[j])[:k]
    value = sum(p[j] * math.log(p[j] / q[j]) for j in near)
    p_rest, q_rest = (sum(x for j, x in enumerate(s) if j not in near) for s in (p, q))
    return value + (p_rest * math.log(p_rest / q_rest) if len(near) < len(p) else 0.0)


@pytest.mark.parametrize("k", [1, 3, 5, 40])
def test_edges_are_those_to_the_teachers_neighbours(k):
    ours, theirs = vectors(0), vectors(1, width=5)
    want = 0.0
    for i in range(6):
        apart = [[x for j, x in enumerate(side.tolist()) if j != i] for side in (ours, theirs)]
        want += by_hand(ours[i].tolist(), theirs[i].tolist(), *apart, min(k, 5), 0.3) / 6
    got = NeighbourGraph(k=k, T=0.3).mean(seen(ours, theirs))
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_samples_that_were_seen_last_are_nodes_too():
    objective, (ours, theirs) = NeighbourGraph(k=2, T=0.3, memory=5), (vectors(0), vectors(1))
    own = objective.module(seen(ours, theirs)).double()
    first = seen(ours[:4], theirs[:4], own=own, positions=torch.tensor([7, 2, 9, 4]))
    objective.mean(first)
    # one of them comes again: it is no neighbour of itself
    got = objective.mean(seen(ours[4:], theirs[4:], own=own, positions=torch.tensor([2, 5])))
    want = 0.0
    for i, gone in ((4, 1), (5, None)):
        nodes = [j for j in range(6) if j not in (i, gone)]
        sides = [[side[j].tolist() for j in nodes] for side in (ours, theirs)]
        want += by_hand(ours[i].tolist(), theirs[i].tolist(), *sides, 2, 0.3) / 2
    assert float(got) == pytest.approx(want, rel=1e-6)
    assert own.positions.tolist() == [5, 2, 9, 4, 2]  # the oldest made room
    with torch.no_grad():  # batch norms are tried so, before the first step
        objective.mean(seen(ours, theirs, own=own))
    assert int(own.seen) == 6
    own.eval()
    alone = float(objective.mean(seen(ours, theirs, own=own)))
    assert alone == pytest.approx(float(NeighbourGraph(k=2, T=0.3).mean(seen(ours, theirs))))
    assert int(own.seen) == 6


def test_a_batch_larger_than_the_memory_leaves_its_last_samples():
    nodes = Nodes(3, 2, 2)
    nodes.remember(vectors(0, 5, 2), vectors(1, 5, 2), torch.arange(5))
    assert sorted(nodes.positions.tolist()) == [2, 3, 4]


@pytest.mark.parametrize("text", [{}, {"k": 3, "T": 1.0}])
def test_what_holds_of_every_objective(text):
    check_objective(NeighbourGraph(**text))


def test_a_graph_network_answers_by_its_neighbours(monkeypatch):
    """Two means over the eight most like it, each with a linear layer behind; by plain loops."""
    teachers = Path(__file__).parents[3] / "examples/teachers"
    monkeypatch.setattr(sys, "path", [str(teachers), *sys.path])
    import digits_graph as example

    torch.manual_seed(0)
    images = torch.randn(12, 1, 8, 8)
    model = example.train(images, torch.tensor([0, 1, 2, *([example.NO_LABEL] * 9)]), epochs=3)
    nodes = images.flatten(1).tolist()

    def mean_of_near(x, values):
        near = sorted(range(12), key=lambda j: -cosine(x, nodes[j]))[:8]
        return [sum(values[j][c] for j in near) / 8 for c in range(len(values[0]))]

    def linear(layer, x):
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(a * v for a, v in zip(row, x, strict=True)) + b for row, b in rows]

    hidden = [[max(v, 0.0) for v in linear(model.first, mean_of_near(x, nodes))] for x in nodes]
    for image in (images[:1], torch.randn(1, 1, 8, 8)):
        x = image.flatten().tolist()
        want = linear(model.second, mean_of_near(x, hidden))
        assert model(image)[0].tolist() == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_one_sample_has_no_neighbours():
    assert float(NeighbourGraph().mean(seen(vectors(0, 1), vectors(1, 1)))) == 0.0


def test_neighbours_become_the_teachers():
    teacher, student = vectors(0, 12), torch.nn.Parameter(vectors(1, 12))
    optimizer, found = torch.optim.Adam([student], 0.05), []
    for _ in range(150):
        optimizer.zero_grad()
        loss = NeighbourGraph(k=3).mean(seen(student, teacher))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.1 * found[0]


def test_a_killed_run_is_the_same(teacher, data, tmp_path):
    text = "distill(loss='ce + graph(k=4,memory=100)',epochs=3,batch_size=64,lr=0.03)"
    check_resumes([Start(), *parse_passes(text)], teacher, data, tmp_path, dies_at=9)


def test_what_is_no_graph_is_refused():
    with pytest.raises(CompresscError, match=r"CC301.*'graph' needs vectors of 2 numbers"):
        NeighbourGraph().check(seen(vectors(0, width=1), vectors(1, width=1)))
    with pytest.raises(CompresscError, match=r"CC102.*k"):
        parse_passes("distill(loss='graph(k=0)')")
