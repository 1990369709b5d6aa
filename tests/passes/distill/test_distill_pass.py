"""The pass as the pipeline runs it."""

from contextlib import ExitStack

import pytest
import torch
from compressc_distill import Distill
from distill_nets import Start

from compressc.data import Dataset, Split
from compressc.distillation import Loss, hold_out
from compressc.errors import CompresscError
from compressc.events import KINDS
from compressc.ir import Ref, graph_hash, lower, parse_graph, print_graph, verify
from compressc.pipeline import Context, parse_pass
from compressc.tasks import settle
from compressc.testing import check_resumes
from compressc.training import Drawn


def agreement(a, b, data):
    """Share of samples that two graphs answer alike."""
    (x,) = data.train.inputs
    with torch.no_grad():
        return float((lower(a)(x).argmax(1) == lower(b)(x).argmax(1)).float().mean())


def notes_of(ctx, start=""):
    return [text for _, text in ctx.notes if text.startswith(start)]


def test_it_brings_a_cut_student_back(teacher, student, data):
    assert agreement(teacher, student, data) < 0.6
    text, before = print_graph(student), graph_hash(teacher)
    ctx = Context(teacher, data)
    Distill(epochs=20, lr=0.05).run(student, ctx)
    assert agreement(teacher, student, data) > 0.85
    assert print_graph(student) == text  # weights changed, structure and lineage did not
    assert graph_hash(teacher) == before
    assert student.edits["set_layer"] == 2
    assert notes_of(ctx, "kept epoch")
    verify(student)


def test_without_labels_it_learns_from_the_teacher_alone(teacher, student, unlabelled):
    ctx = Context(teacher, unlabelled)
    Distill(epochs=20, lr=0.05, alpha=0.9).run(student, ctx)
    assert agreement(teacher, student, unlabelled) > 0.85
    assert notes_of(ctx, "no labels")


def test_labels_that_lie_are_outvoted_by_the_teacher(teacher, student, data):
    lies = Split(data.train.inputs, (data.train.labels + 1) % 3)
    Distill(epochs=20, lr=0.05, alpha=0.1).run(student, Context(teacher, Dataset("l", *[lies] * 3)))
    assert agreement(teacher, student, data) > 0.8


def test_a_student_that_is_the_teacher_stays_as_it_is(teacher, data):
    student = teacher.copy()
    before = graph_hash(student)
    ctx = Context(teacher, data)
    Distill(epochs=2, alpha=0.0, lr=0.5).run(student, ctx)
    assert graph_hash(student) == before
    assert not student.edits
    assert notes_of(ctx, "no epoch of 2 was better")


@pytest.mark.parametrize("shard", [True, False])
def test_one_process_has_nothing_to_spread_and_says_so(teacher, student, data, shard):
    ctx = Context(teacher, data)
    Distill(epochs=1, shard=shard).run(student, ctx)
    assert len(notes_of(ctx, "shard: one process holds all")) == shard


@pytest.mark.parametrize("options", [{}, {"features": 0.0}])
def test_same_seed_same_bytes(teacher, student, data, options):
    hashes = []
    for seed, extra in ((3, 0), (3, 0), (2, 1), (4, 0)):
        graph = student.copy()
        torch.manual_seed(len(hashes))
        Distill(epochs=2, seed=extra, **options).run(graph, Context(teacher, data, seed))
        hashes.append(graph_hash(graph))
    assert hashes[0] == hashes[1] == hashes[2]  # the pass's seed is added to the run's
    assert hashes[0] != hashes[3]


def test_features_are_matched_through_the_lineage_and_reported(teacher, student, data):
    plain, matched = student.copy(), student.copy()
    Distill(epochs=2, features=0.0).run(plain, Context(teacher, data))
    ctx = Context(teacher, data)
    Distill(epochs=2, features=5.0).run(matched, ctx)
    assert (
        "act",
        "matched with the teacher's %act, the 4 kept indices of dimension 1",
    ) in ctx.notes
    assert graph_hash(plain) != graph_hash(matched)

    def distance(graph):
        x = data.train.inputs
        with torch.no_grad():
            (theirs,), (ours,) = (lower(g, also=["act"])(*x)[1] for g in (teacher, graph))
        return float((ours - theirs[:, [1, 4, 6, 9]]).pow(2).mean())

    assert distance(matched) < distance(plain)


def test_without_any_pair_features_are_off_and_it_says_so(teacher, student, data):
    for op in student:
        op.lineage = ()
    ctx = Context(teacher, data)
    Distill(epochs=1, features=1.0, pairs="lineage").run(student, ctx)
    assert notes_of(ctx, "no inner value")


def test_features_are_not_matched_unless_asked_for(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(epochs=1, features=0.0).run(student, ctx)
    assert not notes_of(ctx, "matched")


def test_the_test_part_is_not_looked_at(teacher, student, data):
    class Guarded:
        validation = None

        train, calibration, fingerprint = data.train, data.calibration, ""

        @property
        def test(self):
            raise AssertionError("the test part was read")

    # what a run settles before its passes does look at it, to refuse labels that cannot be
    Distill(epochs=1).run(student, Context(teacher, Guarded(), task=settle(teacher, data)))


def test_a_graph_without_parameters_is_skipped(teacher, data):
    text = "graph g(%x: f32[b,6]) {\n  %y = aten.neg(%x) : f32[b,6]\n  return %y\n}\n"
    graph = parse_graph(text, {})
    ctx = Context(teacher, data)
    Distill().run(graph, ctx)
    assert notes_of(ctx, "skipped")
    assert not graph.edits


SIDES = """
graph sides(%x: f32[b,6]) {
  %fc1 = linear(%x) {in=6, out=12} @fc1.weight @fc1.bias : f32[b,12]   # from fc1
  %act = relu(%fc1) : f32[b,12]   # from act
  %box = linear(%act) {in=12, out=1} @box.weight @box.bias : f32[b,1]   # from box
  %flat = aten.squeeze.dim(%box, 1) : f32[b]   # from flat
  %fc2 = linear(%act) {in=12, out=3} @fc2.weight @fc2.bias : f32[b,3]   # from fc2
  return [%flat, %fc2]
}
"""


def test_an_input_that_is_handed_through_is_not_learned(teacher, student, data):
    for graph in (teacher, student):
        graph.outputs = (graph.outputs, Ref("x"))
    ctx = Context(teacher, Dataset("bare", *[Split(data.train.inputs)] * 3))
    Distill(epochs=1).run(student, ctx)
    assert ("x", "not learned: nothing that the model has learned has a part in it") in ctx.notes
    assert any("learned by kd" in text and "also" not in text for _, text in ctx.notes)


def test_all_outputs_are_matched_each_by_what_it_is(data):
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc1": (12, 6), "box": (1, 12), "fc2": (3, 12)}
    tensors = {f"{n}.weight": torch.randn(s, generator=generator) for n, s in shapes.items()}
    tensors |= {f"{n}.bias": torch.zeros(s[0]) for n, s in shapes.items()}
    teacher = parse_graph(SIDES, {n: torch.nn.Parameter(t) for n, t in tensors.items()})
    student = teacher.copy()
    with torch.no_grad():
        for name in ("box", "fc2"):
            torch.nn.init.zeros_(student[name].layer.weight)
    bare = Split(data.train.inputs)
    ctx = Context(teacher, Dataset("bare", bare, bare, bare))
    Distill(epochs=15, lr=0.03, features=0.0).run(student, ctx)
    assert notes_of(ctx, "learned by kd; also flat by scaled_mse")
    with torch.no_grad():
        (ours, scores), (theirs, wanted) = (lower(g)(*bare.inputs) for g in (student, teacher))
    assert float((ours - theirs).pow(2).mean() / theirs.var()) < 0.1  # 1 before
    assert float((scores.argmax(1) == wanted.argmax(1)).float().mean()) > 0.85


def test_divergence_is_noted_and_leaves_finite_weights(teacher, student, data, monkeypatch):
    original, calls = Loss.values, []

    def values(self, seen):
        calls.append(seen.student.rows.requires_grad)
        factor = float("nan") if sum(calls) > 8 else 1.0
        return {name: x * factor for name, x in original(self, seen).items()}

    monkeypatch.setattr(Loss, "values", values)
    ctx = Context(teacher, data)
    # 336 samples are 5 steps an epoch; no epoch behind the first one ends
    Distill(epochs=9, lr=2e-3, batch_size=64).run(student, ctx)
    (text,) = notes_of(ctx, "went back")
    assert "after epoch 2, 3, 4, 5" in text
    assert text.endswith("training diverged in epoch 5")
    assert all(torch.isfinite(tensor).all() for tensor in student.tensors().values())


def test_progress_tells_epoch_loss_and_accuracy(teacher, student, data):
    told = []
    Distill(epochs=2, batch_size=64).run(student, Context(teacher, data, tell=told.append))
    assert {event.kind for event in told} <= set(KINDS)
    facts = [event.facts for event in told if event.kind == "progress"][-1]
    assert facts["what"] == "distill epoch 2/2"
    assert set(facts["losses"]) == {"loss", "ce", "kd", "hint", "held-out loss"}
    assert 0 < facts["scores"]["accuracy"] <= 1
    assert facts["done"] == facts["total"] == 10
    epochs = [event.facts for event in told if event.kind == "epoch"]
    assert [(facts["epoch"], facts["step"]) for facts in epochs] == [(1, 5), (2, 10)]
    assert epochs[-1]["scores"] == facts["scores"]


def test_the_history_is_on_record(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(epochs=2, batch_size=64).run(student, ctx)
    record = ctx.records["training"]
    assert [epoch["number"] for epoch in record["history"]] == [1, 2]
    assert set(record["history"][0]["terms"]) == {"ce", "kd", "hint"}
    (text,) = notes_of(ctx, "terms of the loss")
    first, last = (record["history"][i]["terms"] for i in (0, 1))
    told = ", ".join(f"{name} {first[name]:.4g} -> {last[name]:.4g}" for name in last)
    assert text.endswith(f"means of epochs 1 and 2: {told}")
    assert record["metric"] == "accuracy"
    assert record["best"] == max(
        e["score"] for e in [*record["history"], {"score": record["start"]}]
    )


#: What these learn or remember themselves is part of the state.
OWN = "kd + queue(size=100) + vkd"


@pytest.mark.parametrize(
    ("step", "loss"), [(1, "auto"), (7, "auto"), (10, "auto"), (15, "auto"), (8, OWN)]
)
def test_killed_and_begun_again_it_is_the_same_run(teacher, data, tmp_path, step, loss):
    pass_ = Distill(epochs=3, batch_size=64, dropout=True, loss=loss)
    check_resumes([Start(), pass_], teacher, data, tmp_path, dies_at=step)


def test_no_data_is_an_error(teacher, student):
    with pytest.raises(CompresscError, match="CC105"):
        Distill().run(student, Context(teacher))


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("distill(objective=kdd)", "CC107", "did you mean 'kd'"),
        ("distill(alpha=2)", "CC102", "alpha"),
        ("distill(epochs=0)", "CC102", "epochs"),
        ("distill(epoch=3)", "CC102", "did you mean 'epochs'"),
        ("distill(budget=10m)", "CC102", "a time is written 90s, 10min or 1.5h"),
        ("distill(budget=10min, steps=3)", "CC102", "give one of them"),
        ("distill(optimizer=sgd)", "CC102", "lr=0.01"),
        ("distill(precision=float16)", "CC102", "precision"),
    ],
)
def test_bad_options_are_errors_before_any_work(text, code, hint):
    with pytest.raises(CompresscError, match=code) as error:
        parse_pass(text)
    assert hint in str(error.value)


def test_the_cache_key_of_an_objective_of_its_own_knows_all_it_may_choose():
    chosen, given = (parse_pass(text).cache_key() for text in ("distill", "distill(objective=kd)"))
    assert chosen != given
    automatic = {"kd", "bernoulli", "scaled_mse", "cosine", "vectors", "ce", "hint"}
    for text, more in (("distill", set()), ("distill(loss='ce + dkd')", {"dkd"})):
        used = {objective.name for objective in parse_pass(text).uses()}
        assert used == automatic | more


@pytest.mark.parametrize(
    "objective",
    ["kd", "mse_logits", "dkd", "nkd", "dist", "ttm", "wttm", "reverse_kl", "jsd", "skew_kl"],
)
def test_every_objective_teaches(teacher, student, data, objective):
    pass_ = parse_pass(f"distill(epochs=20, lr=0.05, objective={objective})")
    pass_.run(student, Context(teacher, data))
    assert agreement(teacher, student, data) > 0.8


def whole(teaching):
    """All samples of one."""
    return teaching.samples.take(len(teaching.samples))


def teachings(teacher, student, data, **options):
    """What a pass would teach and examine."""
    ctx = Context(teacher, data)
    parts = hold_out(data.train, 0.2, 0)
    return Distill(**options)._teachings(student, ctx, parts, 0, ExitStack())


def test_the_exam_is_on_samples_that_are_not_taught(teacher, student, data):
    taught, examined = teachings(teacher, student, data)
    rows = [{tuple(row) for row in whole(t).inputs[0].tolist()} for t in (taught, examined)]
    assert not rows[0] & rows[1]
    assert len(rows[0]) + len(rows[1]) == 400
    # the loss of the exam, in plain torch, on these samples alone
    x, labels = whole(examined).inputs[0], whole(examined).labels
    with torch.no_grad():
        ours, theirs = (lower(g)(x) for g in (student, teacher))
    p, q = ((y / 4).log_softmax(1) for y in (theirs, ours))
    want = 0.3 * torch.nn.functional.cross_entropy(ours, labels)
    want += 0.7 * 16 * (p.exp() * (p - q)).sum(1).mean()
    assert examined.examine(examined.student.module)[0] == pytest.approx(-float(want), rel=1e-4)


def test_the_exam_counts_labels_and_not_the_teachers_answers(teacher, data):
    labels = data.train.labels.clone()
    labels[::4] = (labels[::4] + 1) % 3  # the teacher is right on three quarters
    part = Split(data.train.inputs, labels)
    known = Dataset("known", part, part, part)
    _, examined = teachings(teacher, teacher.copy(), known)
    x, wanted = whole(examined).inputs[0], whole(examined).labels
    with torch.no_grad():
        right = float((lower(teacher)(x).argmax(1) == wanted).float().mean())
    assert 0.6 < right < 0.9
    assert examined.examine(examined.student.module)[1] == pytest.approx(right)
    assert examined.metric.name == "accuracy"
    bare = Split(data.train.inputs)
    _, examined = teachings(teacher, teacher.copy(), Dataset("bare", bare, bare, bare))
    assert examined.examine(examined.student.module)[1] == 1.0
    assert examined.metric.name == "agreement"


def test_a_validation_part_is_examined_and_all_of_train_is_taught(teacher, student, data):
    own = Split((data.train.inputs[0][:50] + 1,), data.train.labels[:50])
    with_own = Dataset("own", data.train, data.calibration, data.test, own)
    seen = []

    class Watched(Distill):
        def _teachings(self, graph, ctx, splits, *rest):
            seen.extend(splits)
            return super()._teachings(graph, ctx, splits, *rest)

    Watched(epochs=1).run(student, Context(teacher, with_own))
    assert seen == [data.train, own]


def loss_of(taught, index):
    """What a step on these samples minimizes."""
    batch = Drawn(index, None, taught.samples.select(index))
    terms = taught.terms(taught.student.module, batch)
    return sum(taught.loss.weights[name] * float(term.detach()) for name, term in terms.items())


@pytest.mark.parametrize("weight", [0.5, 5.0])
def test_the_weight_of_features_multiplies_their_loss(teacher, student, data, weight):
    index = torch.arange(32)
    values = []
    for features in (0.0, weight):
        taught, _ = teachings(teacher, student.copy(), data, features=features)
        values.append(loss_of(taught, index))
        x = taught.samples.select(index).inputs[0]
    with torch.no_grad():
        (theirs,), (ours,) = (lower(g, also=["act"])(x)[1] for g in (teacher, student))
    theirs = theirs[:, [1, 4, 6, 9]]
    # shifted student: without a shift its features are the teacher's own
    assert float((ours - theirs).abs().max()) < 1e-5
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    with torch.no_grad():
        student["fc1"].layer.bias.add_(1.0)
        shifted = lower(student, also=["act"])(x)[1][0]
    want = float((shifted - theirs).pow(2).mean() / theirs.var(correction=0))
    taught, _ = teachings(teacher, student, data, features=0.0)
    plain = loss_of(taught, index)
    taught, _ = teachings(teacher, student, data, features=weight)
    both = loss_of(taught, index)
    assert both - plain == pytest.approx(weight * want, rel=1e-3)


def test_what_is_chosen_is_said(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(epochs=2).run(student, ctx)
    (text,) = notes_of(ctx, "peak learning rate ")
    # 350 samples of 400
    assert text.endswith(", 0.01 of a typical weight; 2 epochs of 22 steps with 16 samples")
    given = Context(teacher, data)
    Distill(epochs=2, lr=0.01, batch_size=32).run(student, given)
    assert notes_of(given, "peak learning rate 0.01; 2 epochs of 11 steps with 32 samples")


def test_few_samples_are_gone_through_more_often(teacher, student, data):
    few = data.train.take(60)  # 7 are held out
    ctx = Context(teacher, Dataset("few", few, few, few))
    Distill().run(student, ctx)
    (text,) = notes_of(ctx, "peak learning rate ")
    # 400 times 16 samples are 120.8 times 53
    assert text.endswith("; 121 epochs of 3 steps with 16 samples")


def test_so_many_steps_of_so_many_batches(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(steps=7, batch_size=64, accumulate=2, ema=0.5, optimizer="sgd", lr=0.02).run(
        student, ctx
    )
    text = "peak learning rate 0.02; 7 steps, 3 epochs of 3 steps with 128 samples"
    assert notes_of(ctx, "peak") == [text]
    assert len(ctx.records["training"]["history"]) == 3


def test_a_run_of_so_much_time_is_said_not_to_be_repeatable(teacher, student, data):
    ctx = Context(teacher, data)
    Distill(budget="1s").run(student, ctx)
    assert notes_of(ctx, "as many steps as fit into 1s: not the same each time")
