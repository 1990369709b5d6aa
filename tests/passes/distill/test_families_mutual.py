"""Peers that learn together: their loss by plain numbers, and a training of them."""

import math
from dataclasses import replace

import pytest
import torch
from compressc_distill.families.mutual.mutual import Mutual
from compressc_distill.families.mutual.peers import Group, Peers
from compressc_distill.renewing import move
from distill_nets import Start, cut, mlp
from rows_of import softmax

from compressc.data import Split
from compressc.distillation import (
    Loss,
    Teacher,
    Teaching,
    parse_loss,
    parse_objective,
    reader_of,
)
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.pipeline import Context, Pipeline, parse_passes
from compressc.tasks import task_of
from compressc.testing import check_resumes, export_graph
from compressc.training import Drawn

CPU = torch.device("cpu")


def group_of(graphs, ctx, *, ensemble=False):
    task = task_of(ctx)
    readers = [reader_of(graph, task, [], CPU) for graph in graphs]
    asked = Teacher(reader_of(ctx.teacher, task, [], CPU), [], ctx.data.train, CPU)
    loss = Loss(parse_loss("ce"))
    teaching = Teaching(ctx.data.train, CPU, asked, readers[0], task, loss)
    return Group(parse_objective("kd(T=1)"), ensemble, Peers(readers), readers, teaching, teaching)


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("by", ["peers", "ensemble"])
def test_each_peer_learns_by_the_labels_and_by_what_the_others_answer(data, by):
    graphs = [mlp() for _ in range(3)]
    for number, graph in enumerate(graphs):
        move(graph, 0.8, number)
    ctx = Context(mlp(), data)
    group = group_of(graphs, ctx, ensemble=by == "ensemble")
    batch = Split(tuple(x[:5] for x in data.train.inputs), data.train.labels[:5])
    got = group.terms(group.module, Drawn(torch.arange(5), None, batch))
    rows = [lower(graph)(batch.inputs[0]).tolist() for graph in graphs]
    labels = peers = 0.0
    for i in range(5):
        p = [softmax(one[i]) for one in rows]
        together = softmax([sum(one[i][c] for one in rows) / 3 for c in range(3)])
        for k in range(3):
            labels -= math.log(p[k][int(batch.labels[i])]) / 5
            if by == "ensemble":
                peers += kl(together, p[k]) / 5
            else:
                peers += sum(kl(p[j], p[k]) for j in range(3) if j != k) / 2 / 5
    assert got["labels"].item() == pytest.approx(labels, rel=1e-5)
    assert got["peers"].item() == pytest.approx(peers, rel=1e-5)


def test_no_gradient_reaches_who_teaches(data):
    graphs = [mlp(), mlp()]
    move(graphs[1], 0.8, 1)
    group = group_of(graphs, Context(mlp(), data))
    batch = Drawn(torch.arange(5), None, data.train.take(5))
    first = list(group.module.each[0].parameters())
    both = torch.autograd.grad(group.terms(group.module, batch)["peers"], first)
    rows = [lower(graph)(batch.samples.inputs[0]) for graph in graphs]
    logs = [x.log_softmax(1) for x in rows]
    alone = (logs[1].detach().exp() * (logs[1].detach() - logs[0])).sum(1).mean()
    weights = [graphs[0].tensors()[name] for name in ("fc1.weight", "fc1.bias")]
    want = torch.autograd.grad(alone, weights)
    for slope, wanted in zip(both[:2], want, strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6)


def right(graph, data):
    return float((lower(graph)(data.train.inputs[0]).argmax(1) == data.train.labels).float().mean())


@pytest.mark.parametrize("options", [{}, {"teacher": "ensemble", "start": "fresh"}])
def test_peers_learn_and_the_best_one_is_kept(teacher, data, options):
    graph, ctx = cut(teacher, range(12)), Context(teacher, data)
    Mutual(peers=3, epochs=15, lr=0.03, **options).run(graph, ctx)
    assert right(graph, data) > 0.9
    record = ctx.records["peers"]
    assert len(record["scores"]) == 3
    assert record["scores"][record["kept"] - 1] == pytest.approx(max(record["scores"]), abs=0.05)
    said = [text for _, text in ctx.notes]
    how = "with new weights" if options else "with noise of 10% on the model's weights"
    assert f"3 peers, the others begin {how}" in said
    (kept,) = [text for text in said if text.startswith(f"kept peer {record['kept']} of 3, epoch ")]
    assert f"{record['scores'][0]:.4f}" in kept
    assert kept.endswith(f"all together {record['together']:.4f}")


def test_a_peer_that_is_kept_keeps_its_batch_norms(data):
    net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.ReLU())
    net.append(torch.nn.Linear(9, 3))
    teacher = export_graph(net.eval(), data.train.inputs[0][:4].clone())
    graph, ctx = teacher.copy(), Context(mlp(), data)
    Mutual(peers=2, epochs=10, lr=0.03, start="fresh").run(graph, ctx)
    best = ctx.records["training"]["best"][1]
    assert best > 0.9
    held = right(graph, data)
    assert held == pytest.approx(best, abs=0.08)


@pytest.mark.parametrize("dies_at", [2, 13])
def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path, dies_at):
    pass_ = Mutual(peers=2, epochs=3, batch_size=64)
    check_resumes([Start(), pass_], teacher, data, tmp_path, dies_at=dies_at)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("mutual(peers=1)", "CC102", "peers.*greater than or equal to 2"),
        ("mutual(objective=hint)", "CC102", "peers compare answers alone"),
        ("mutual(objective=ce)", "CC102", "peers compare answers alone"),
        ("mutual(objective=kdd)", "CC107", "did you mean 'kd'"),
    ],
)
def test_what_is_no_group_of_peers_is_refused(text, code, hint):
    with pytest.raises(CompresscError, match=rf"{code}.*{hint}"):
        parse_passes(text)


def test_the_loss_between_peers_goes_by_what_they_answer(teacher, student, data):
    task = task_of(Context(teacher, data))
    judged = replace(task.judged, learned="independent_scores")
    assert Mutual(peers=2).between(replace(task, judged=judged)).text == "bernoulli"
    assert Mutual(peers=2).between(task).text == "kd(T=1.0)"
    values = replace(task, judged=replace(task.judged, learned="values"))
    with pytest.raises(CompresscError, match=r"CC301.*class scores, or yes and no.*got values"):
        Mutual(peers=2).run(student, Context(teacher, data, task=values))


def test_it_says_what_it_would_train(teacher, student, data):
    found = Mutual().coverage(student, Context(teacher, data))
    assert {name: v.outcome for name, v in found.items()} == {
        "x": "idle",
        "fc1": "does",
        "act": "idle",
        "fc2": "does",
    }


def test_the_order_is_checked_and_labels_are_needed(teacher, student, unlabelled):
    passes = parse_passes("quant,mutual")
    with pytest.raises(CompresscError, match=r"CC104.*'mutual' must come before 'quant'"):
        Pipeline(passes, unlabelled).run(teacher)
    with pytest.raises(CompresscError, match=r"CC105.*needs labels"):
        Pipeline(parse_passes("mutual"), unlabelled).run(teacher)
    with pytest.raises(CompresscError, match=r"CC105.*peers learn by labels"):
        Mutual().run(student, Context(teacher, unlabelled))
