"""`effort` chooses what the user leaves open; `compare_scratch` says what the teacher is worth."""

import math

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.comparing import Comparison
from compressc_distill.effort import Facts, choose, facts_of
from compressc_distill.parts import split

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.pipeline import Context, Pipeline, parse_pass, parse_passes
from compressc.tasks.metric import ACCURACY, Metric
from compressc.testing import export_graph


def chosen(effort, facts, given=()):
    return {choice.option: choice.value for choice in choose(effort, facts, given)}


def test_more_effort_is_more_steps_and_more_data_fewer_epochs():
    small, large = Facts(1_000, 0.5, labelled=True), Facts(50_000, 0.5, labelled=True)
    assert chosen("quick", small)["epochs"] == 7  # 400 steps of 16 samples, 63 an epoch
    assert chosen("normal", small)["epochs"] == 26
    assert chosen("thorough", small)["epochs"] == 103
    assert chosen("quick", large)["epochs"] == 1  # 782 steps of 64
    assert chosen("thorough", large)["epochs"] == 9
    assert (chosen("quick", small)["batch_size"], chosen("quick", large)["batch_size"]) == (16, 64)


@pytest.mark.parametrize(("cut", "epochs"), [(0.05, 13), (0.5, 26), (0.9, 52), (0.0, 13)])
def test_a_student_that_lost_more_trains_for_longer(cut, epochs):
    assert chosen("normal", Facts(1_000, cut, labelled=True))["epochs"] == epochs


def test_what_is_given_stays():
    given = {"epochs", "alpha"}
    assert not given & set(chosen("normal", Facts(1_000, 0.5, labelled=True), given))
    timed = Facts(1_000, 0.5, labelled=True, timed=True)
    assert "epochs" not in chosen("normal", timed)


def test_without_labels_the_teacher_alone_counts():
    assert chosen("quick", Facts(100, 0.5, labelled=False))["alpha"] == 0
    assert chosen("quick", Facts(100, 0.5, labelled=True))["alpha"] > 0


@pytest.mark.parametrize(("classes", "temperature"), [(0, None), (10, 4), (1000, 1)])
def test_the_temperature_goes_by_the_classes(classes, temperature):
    facts = Facts(100, 0.5, labelled=True, classes=classes)
    assert chosen("quick", facts).get("temperature") == temperature


def test_next_words_are_learned_as_likely_as_they_are():
    facts = Facts(100, 0.5, labelled=True, classes=97, words=True)
    assert chosen("quick", facts)["temperature"] == 1


@pytest.mark.parametrize(
    ("effort", "facts", "augment"),
    [
        ("thorough", Facts(1_000, 0.5, True, side=28), "shift(pixels=2)"),
        ("thorough", Facts(1_000, 0.5, True, side=8), "shift(pixels=1)"),
        ("thorough", Facts(1_000, 0.5, True, side=0), None),
        ("thorough", Facts(50_000, 0.5, True, side=28), None),
        ("normal", Facts(1_000, 0.5, True, side=28), None),
    ],
)
def test_few_images_are_moved_where_time_is_given(effort, facts, augment):
    assert chosen(effort, facts).get("augment") == augment


def test_choices_are_told_before_the_work_with_their_reasons(teacher, student, data):
    told = []
    ctx = Context(teacher, data, tell=told.append)
    Distill(effort="quick", epochs=2).run(student, ctx)
    kinds = [event.kind for event in told]
    (event,) = [event for event in told if event.kind == "chosen"]
    assert kinds.index("chosen") == 0
    options = {choice["option"]: choice for choice in event.facts["choices"]}
    assert "epochs" not in options  # it was given
    assert options["batch_size"]["value"] == 16
    assert "400 training samples" in options["batch_size"]["reason"]
    assert (options["temperature"]["value"], options["temperature"]["reason"]) == (4, "3 classes")
    assert options["loss"]["value"] == "0.3*ce + 0.7*kd(T=4.0) + hint"
    assert ctx.records["chosen"] == event.facts["choices"]
    assert any(text.startswith("kept epoch") and " of 2:" in text for _, text in ctx.notes)


def test_without_effort_nothing_is_chosen(teacher, student, data):
    told = []
    Distill(epochs=1).run(student, Context(teacher, data, tell=told.append))
    assert not [event for event in told if event.kind == "chosen"]


def test_the_run_hands_its_wishes_to_passes_that_do_not_say_otherwise():
    first, second = parse_passes("prune,distill(effort=thorough)")
    assert first.wished(effort="quick", compare_scratch=True).text == "prune"
    wished = second.wished(effort="quick", compare_scratch=True)
    assert (wished.effort, wished.compare_scratch) == ("thorough", True)
    assert parse_pass("distill").wished(effort="quick").text == "distill(effort=quick)"
    assert parse_pass("distill").wished().text == "distill"


@pytest.mark.parametrize(("answered", "side"), [(False, 8), (True, 0)])
def test_images_whose_answers_are_given_are_not_moved(answered, side):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    graph = export_graph(net, torch.rand(4, 1, 8, 8))
    data = images()
    ctx = Context(graph, data)
    assert facts_of(graph, ctx, data.train, timed=False, answered=answered).side == side


# ---- augment ------------------------------------------------------------------------------------


def images(labels=True):
    x = torch.rand(128, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    part = Split((x,), torch.arange(128) % 2 if labels else None)
    return Dataset("images", part, part, part)


def test_what_is_taught_is_augmented_and_what_is_examined_is_not():
    taught, examined = split(images(), 0.5, "shift(pixels=1)", seed=0)
    assert (taught.has_views, examined.has_views) == (True, False)
    assert not split(images(), 0.5, "", seed=0)[0].has_views


def test_data_that_are_augmented_already_are_refused():
    from compressc.data import augmented

    with pytest.raises(CompresscError, match=r"CC105.*not augmented yet"):
        split(augmented(images(), "flip"), 0.5, "shift", seed=0)


# ---- compare_scratch ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taught", "alone", "verdict"),
    [
        ([0.9, 0.92, 0.91, 0.93], [0.8, 0.83, 0.81, 0.82], "helps"),
        ([0.8, 0.83, 0.81, 0.82], [0.9, 0.92, 0.91, 0.93], "hurts"),
        ([0.9, 0.8, 0.9, 0.8], [0.8, 0.9, 0.8, 0.9], "no difference"),
        ([1.0, 1.0], [1.0, 1.0], "no difference"),
    ],
)
def test_a_difference_is_one_beyond_two_standard_errors(taught, alone, verdict):
    assert Comparison(ACCURACY, taught, alone).verdict == verdict


def test_where_less_is_better_less_helps():
    metric = Metric(name="e", title="error", better="lower", text="")
    assert Comparison(metric, [1.0, 1.1, 1.0], [2.0, 2.1, 2.2]).verdict == "helps"


def test_the_spread_is_the_standard_error_of_paired_differences():
    found = Comparison(ACCURACY, [0.9, 0.7], [0.8, 0.8])
    assert found.gain == pytest.approx(0.0)
    assert found.spread == pytest.approx(math.sqrt(0.02) / math.sqrt(2))


def test_a_teacher_that_knows_better_than_the_labels_helps(teacher, student, data):
    """A few labels of which a third are wrong; the held-out part has the right ones."""
    x, y = data.train.inputs[0], data.train.labels
    wrong = torch.arange(200) % 3 == 0
    train = Split((x[:200],), torch.where(wrong, (y[:200] + 1) % 3, y[:200]))
    rest = Split((x[200:],), y[200:])
    parts = Dataset("lies", train=train, validation=rest, calibration=rest, test=rest)
    ctx = Context(teacher, parts)
    before = student.copy()
    Distill(epochs=20, lr=0.05, alpha=0.0, compare_scratch=True).run(student, ctx)
    record = ctx.records["without teacher"]
    assert record["verdict"] == "helps", record
    assert len(record["taught"]) == 8
    assert any("the teacher helps" in text for _, text in ctx.notes)
    plain = before.copy()
    Distill(epochs=20, lr=0.05, alpha=0.0).run(plain, Context(teacher, parts))
    for name, tensor in plain.tensors().items():  # the comparison changes nothing of the student
        assert torch.equal(tensor, student.tensors()[name])


def test_it_needs_labels(teacher, unlabelled):
    with pytest.raises(CompresscError, match=r"CC105.*labels"):
        Pipeline(parse_passes("distill(compare_scratch=true)"), unlabelled).run(teacher)
