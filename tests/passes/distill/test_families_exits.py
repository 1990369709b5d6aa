"""Early exits: what heads learn, who leaves where, and the files that have the branches."""

import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from compressc_distill.families.exits.curve import Curve, Held
from compressc_distill.families.exits.exits import Exits
from compressc_distill.families.exits.heads import Head
from compressc_distill.families.exits.lesson import Heads
from distill_nets import mlp
from rows_of import softmax
from torch import nn

from compressc.analysis import EarlyExit, find_early_exits
from compressc.backend import load_backend
from compressc.data import Dataset, Split
from compressc.distillation import Answers, parse_objective, reader_of
from compressc.editing import choose_early
from compressc.errors import CompresscError
from compressc.ir import Ref, lower, retype, verify
from compressc.pipeline import Context, Pipeline, parse_passes
from compressc.target import Target
from compressc.tasks import task_of
from compressc.testing import check_resumes, export_graph

CPU = torch.device("cpu")
UNTIMED = Target(batches=())


def deep(seed=0):
    """Three layers, with activations between them."""
    torch.manual_seed(seed)
    layers = {"fc1": nn.Linear(6, 16), "act1": nn.ReLU(), "fc2": nn.Linear(16, 16)}
    net = nn.Sequential(OrderedDict(**layers, act2=nn.ReLU(), fc3=nn.Linear(16, 3)))
    return export_graph(net.eval(), torch.randn(4, 6))


@pytest.fixture
def net():
    return deep()


@pytest.fixture
def own(net):
    """Samples that the net labels itself."""
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    train = Split((x,), lower(net)(x).argmax(1))
    return Dataset("own", train, train.take(32), train.take(8))


@pytest.fixture
def ctx(net, own):
    return Context(net, own, target=UNTIMED)


def exits(**options):
    return Exits(**{"at": "act1,act2", "epochs": 2} | options)


@pytest.mark.parametrize("body", [False, True])
def test_heads_learn_by_labels_and_by_the_output(net, ctx, own, body):
    task, parts = task_of(ctx), own.train.take(5)
    reader = reader_of(net, task, [], CPU)
    lesson = Heads(reader, parts, parts, task, CPU, parse_objective("kd(T=3)"), 0.3, body)
    rows = [torch.randn(5, 3, requires_grad=True) for _ in range(3)]
    answers = Answers((rows[2],), (rows[0], rows[1]))
    got = lesson.losses(answers, parts.labels, parts.inputs, 0.5)
    labels = output = whole = 0.0
    for i in range(5):
        right = int(parts.labels[i])
        deepest = rows[2][i].tolist()
        q = softmax(deepest, 3.0)
        whole -= math.log(softmax(deepest)[right]) / 5
        for head in rows[:2]:
            p = softmax(head[i].tolist(), 3.0)
            labels -= math.log(softmax(head[i].tolist())[right]) / 5 / 2
            output += 9 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 5 / 2
    assert got["labels"].item() == pytest.approx(labels, rel=1e-5)
    assert got["output"].item() == pytest.approx(output, rel=1e-5)
    assert lesson.weights == {"labels": 0.3, "output": 0.7}
    assert ("body" in got) == body
    if body:
        assert got["body"].item() == pytest.approx(whole, rel=1e-5)
    else:  # who teaches is taught nothing
        (slope,) = torch.autograd.grad(sum(got.values()), rows[2], allow_unused=True)
        assert slope is None or not slope.any()


def held_of(ctx, rows, labels):
    held = Held(task_of(ctx))
    for part in (slice(0, 3), slice(3, None)):
        scores = [x[part] for x in rows]
        held.add(Answers((scores[-1],), tuple(scores[:-1])), labels[part])
    return held


@pytest.mark.parametrize("threshold", [0.4, 0.7, 0.9, 0.999])
def test_the_curve_by_plain_numbers(ctx, threshold):
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randn(9, 3, generator=generator) * 3 for _ in range(3)]
    labels = torch.arange(9) % 3
    point = Curve(held_of(ctx, rows, labels), ([10, 40, 100], 90), None).at(threshold)
    right, macs, left = 0, 0, [0, 0, 0]
    for i in range(9):
        sure = [max(softmax(rows[k][i].tolist())) >= threshold for k in (0, 1)]
        place = sure.index(True) if any(sure) else 2
        left[place] += 1
        macs += (10, 40, 100)[place]
        answer = rows[place][i].tolist()
        right += answer.index(max(answer)) == int(labels[i])
    assert point.shares == pytest.approx([n / 9 for n in left])
    assert point.macs == pytest.approx(macs / 9)
    assert point.score == pytest.approx(right / 9)
    late = float((rows[2].argmax(1) == labels).float().mean())
    assert point.lost == pytest.approx(late - right / 9, abs=1e-6)


def test_the_least_threshold_that_loses_no_more_is_taken(ctx):
    """Of four samples, the exit is right where it is sure by 0.9 and 0.7, wrong at 0.8 and 0.6.

    None, one or two lost of four foretell 1/5, 2/5 and 3/5.
    """
    sure = torch.tensor([0.9, 0.8, 0.7, 0.6])
    early = torch.stack([sure, (1 - sure) / 2, (1 - sure) / 2], 1).log()
    late, labels = torch.eye(3)[[0, 1, 0, 1]] * 9, torch.tensor([0, 1, 0, 1])
    curve = Curve.of(held_of(ctx, [early, late], labels), ([1, 10], 9), None)
    assert [round(p.score, 2) for p in curve.points] == [0.5, 0.75, 0.75, 1.0, 1.0]
    assert curve.told_apart == pytest.approx(0.2)
    assert curve.choose(0.19) is None
    assert curve.choose(0.2).threshold == pytest.approx(0.85, abs=1e-4)
    assert curve.choose(0.39).threshold == pytest.approx(0.85, abs=1e-4)
    assert curve.choose(0.4).threshold == pytest.approx(0.65, abs=1e-4)
    assert curve.choose(0.6).shares == [1.0, 0.0]
    wrong = Curve.of(held_of(ctx, [early.flip(1), late], labels), ([1, 10], 9), None)
    assert wrong.choose(0.39) is None


def accuracy(graph, data):
    rows = lower(graph)(data.train.inputs[0])
    return float((rows.argmax(1) == data.train.labels).float().mean())


def test_samples_leave_where_a_head_is_sure(net, ctx, own):
    graph = net.copy()
    exits(epochs=25, lr=0.03, max_drop=0.05).run(graph, ctx)
    verify(graph)
    first, second = find_early_exits(graph)
    assert (first.early, second.early) == ("exit1", "exit2")
    assert first.late == second.choice
    assert graph.output_names == [first.choice]
    x = own.train.inputs[0]
    _, (one, two, late) = lower(graph, also=["exit1", "exit2", second.late])(x)
    assert torch.equal(late, lower(net)(x))  # the model itself is what it was
    got, left = lower(graph)(x), 0
    for i in range(len(x)):
        want = late[i]
        for early in (two, one):
            if max(softmax(early[i].tolist())) >= first.threshold:
                want = early[i]
        left += want is not late[i]
        assert torch.equal(got[i], want)
    record = ctx.records["exits"]
    assert record["chosen"]["threshold"] == first.threshold == second.threshold
    assert left > 100
    assert record["places"] == ["act1", "act2"]
    assert record["chosen"]["lost"] <= 0.05
    assert record["chosen"]["ms"] is None
    assert accuracy(graph, own) > 0.9
    told = [text for _, text in ctx.notes]
    assert any(text.startswith("samples leave where the best class has ") for text in told)
    assert any(text.startswith("a sample takes ") for text in told)


def test_the_body_is_trained_where_that_is_wanted(net, ctx):
    graph = net.copy()
    exits(body=True, lr=0.03).run(graph, ctx)
    assert not torch.equal(graph["fc1"].layer.weight, net["fc1"].layer.weight)
    bare = Split(ctx.data.train.inputs)
    bare = Dataset("bare", bare, bare.take(32), bare.take(8))
    with pytest.raises(CompresscError, match=r"CC105.*body=true.*labels"):
        exits(body=True).run(net.copy(), Context(net, bare, target=UNTIMED))


def test_without_labels_the_output_is_what_counts(net, own):
    bare = Split(own.train.inputs)
    ctx = Context(net, Dataset("bare", bare, bare.take(32), bare.take(8)), target=UNTIMED)
    exits(epochs=10, lr=0.03, max_drop=0.1).run(net.copy(), ctx)
    assert ctx.records["exits"]["metric"] == "agreement"
    assert ctx.records["exits"]["without"]["score"] == 1.0
    assert set(ctx.records["training"]["history"][0]["terms"]) == {"output"}


def test_where_every_threshold_loses_there_are_no_exits(net, ctx, monkeypatch):
    monkeypatch.setattr(Curve, "choose", lambda curve, max_drop: None)
    graph = net.copy()
    exits(max_drop=0.5).run(graph, ctx)
    assert str(graph) == str(net)
    assert ctx.records["exits"]["chosen"] is None
    assert any(text.startswith("no exits: at any threshold") for _, text in ctx.notes)


def test_a_loss_that_so_few_samples_cannot_tell_is_not_promised(net, ctx):
    graph = net.copy()
    exits(max_drop=0.001).run(graph, ctx)
    assert str(graph) == str(net)
    held = ctx.records["exits"]["samples"]
    told = [text for _, text in ctx.notes if text.startswith("no exits: ")]
    assert told == [
        f"no exits: {held} held-out samples vouch for no loss below {1 / (held + 1):.3f}: "
        "max_drop=0.001 wants more of them (holdout=), or a threshold= of yours"
    ]


def with_exits(net, threshold=0.6):
    graph = net.copy()
    for number, name in ((1, "act1"), (2, "act2")):
        Head(3, 2, 0).add(graph, name, f"exit{number}", number)
    retype(graph)
    inner = choose_early(graph, "exit2", net.output_names[0], threshold)
    choose_early(graph, "exit1", inner, threshold)
    retype(graph)
    return graph


def test_an_onnx_file_has_a_branch_and_computes_the_graph(net, tmp_path):
    import onnx

    graph = with_exits(net)
    backend = load_backend("onnx")
    path = backend.emit(graph, tmp_path, (torch.randn(2, 6),))
    onnx.checker.check_model(path)
    nodes = onnx.load(path).graph.node
    (outer,) = [node for node in nodes if node.op_type == "If"]
    late = next(a.g for a in outer.attribute if a.name == "else_branch")
    (inner,) = [node for node in late.node if node.op_type == "If"]
    last = next(a.g for a in inner.attribute if a.name == "else_branch")
    named = [{node.name for node in part} for part in (nodes, late.node, last.node)]
    assert {"fc1", "exit1"} <= named[0]
    assert {"fc2", "exit2"} <= named[1]
    assert "fc3" in named[2]
    assert not named[0] & {"fc2", "fc3", "exit2"}
    run, x = backend.load(path), torch.randn(300, 6)
    alone = torch.cat([run(row[None])[0] for row in x[:40]])
    want = lower(graph)(x)
    assert torch.allclose(alone, want[:40], atol=1e-5)
    assert torch.allclose(run(x)[0], want, atol=1e-5)
    assert torch.allclose(run(x[:3])[0], want[:3], atol=1e-5)
    shares = lower(graph, also=["exit1", "exit2"])(x)[1]
    sure = [rows.softmax(1).amax(1) >= 0.6 for rows in shares]
    assert 0 < int(sure[0].sum()) < 300  # some leave, and of the others some do
    assert int((sure[1] & ~sure[0]).sum()) > 0


def test_what_another_output_needs_is_in_no_branch(net, tmp_path):
    import onnx

    graph = with_exits(net)
    graph.outputs = (graph.outputs, Ref("act2"))
    path = load_backend("onnx").emit(graph, tmp_path, (torch.randn(2, 6),))
    outer = onnx.load(path).graph.node
    assert "fc2" in {node.name for node in outer}
    got, want = load_backend("onnx").load(path)(torch.ones(1, 6)), lower(graph)(torch.ones(1, 6))
    for ours, theirs in zip(got, want, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_exit_is_known_by_what_it_computes(net):
    assert find_early_exits(net) == []
    graph = with_exits(net, 0.25)
    one, two = find_early_exits(graph)
    assert one == EarlyExit("exit1.choice", "exit1", "exit2.choice", 0.25)
    assert two.late == net.output_names[0]
    assert graph["exit1.choice"].lineage == net[net.output_names[0]].lineage


@pytest.mark.parametrize("dies_at", [2, 9])
def test_killed_and_begun_again_it_is_the_same_run(net, own, tmp_path, dies_at):
    pass_ = exits(epochs=3, batch_size=64, body=True)
    check_resumes([pass_], net, own, tmp_path, dies_at=dies_at, target=UNTIMED)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("exits(at=1.0)", "0, the input, and 1, the output"),
        ("exits(at='0.5,0')", "0, the input, and 1, the output"),
        ("exits(at='')", "one place at least"),
        ("exits(objective=hint)", "heads compare answers alone"),
        ("exits(threshold=1.5)", "threshold"),
    ],
)
def test_options_that_cannot_be_are_refused(text, hint):
    with pytest.raises(CompresscError, match=rf"CC102.*{hint}"):
        parse_passes(text)


@pytest.mark.parametrize(
    ("at", "hint"),
    [
        ("fc3", "an exit at the output: no layer comes behind it"),
        ("%input", "no layer comes before it"),
        ("relu7", "there is no such op"),
        ("0.3,%act1", "is there already"),
    ],
)
def test_places_that_cannot_be_are_refused(net, ctx, at, hint):
    with pytest.raises(CompresscError, match=rf"CC102.*{hint}"):
        exits(at=at).run(net.copy(), ctx)


def test_what_has_no_shallow_part_or_no_classes_is_refused(net, ctx, data, teacher):
    torch.manual_seed(0)
    one = export_graph(nn.Sequential(nn.Linear(6, 3)).eval(), torch.randn(4, 6))
    with pytest.raises(CompresscError, match=r"CC105.*nothing to exit from"):
        Exits().run(one.copy(), Context(one, data, target=UNTIMED))
    task = task_of(ctx)
    values = replace(task, judged=replace(task.judged, learned="values"))
    with pytest.raises(CompresscError, match=r"CC301.*one output of class scores.*got values"):
        Exits().run(net.copy(), replace(ctx, task=values))
    graph = mlp()
    Exits(epochs=1).run(graph, Context(teacher, data, target=UNTIMED))  # behind its activation
    with pytest.raises(CompresscError, match=r"CC104.*'exits' must come before 'quant'"):
        Pipeline(parse_passes("quant,exits"), data).run(teacher)


def test_it_says_where_samples_would_leave(net, ctx):
    found = exits(at="0.3").coverage(net, ctx)
    assert [name for name, verdict in found.items() if verdict.outcome == "does"] == ["act1"]
