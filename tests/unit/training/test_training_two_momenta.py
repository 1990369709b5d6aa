"""SGD with a momentum for what labels teach and one for what the teacher does."""

import pytest
import torch
from torch import nn
from training_problems import state_bytes

from compressc.training import Checkpoints, Hooks, Lesson, Recipe, TensorBatches, train
from compressc.training.two_momenta import TwoMomenta

RATE, MOMENTUM, DELTA = 0.05, 0.9, 0.08


def problem(by_labels=frozenset({"labels"})):
    """A line whose labels say another slope than the teacher."""
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 24).unsqueeze(1)

    def terms(module, batch):
        answers = module(batch[0])
        return {
            "labels": (answers - 3 * batch[0]).pow(2).mean(),
            "teacher": (answers - 2 * batch[0] - 1).pow(2).mean(),
        }

    def validate(module):
        return -float((module(x) - 2 * x - 1).pow(2).mean())

    batches, weights = TensorBatches([x], 8), {"teacher": 2.0}
    return net, Lesson(batches, terms, validate, weights=weights, by_labels=frozenset(by_labels))


def recipe(dot=DELTA, **more):
    """Nine steps of SGD."""
    options = {"weight_decay": 0.1, "warmup": 0.0, "clip": 0.0, "optimizer": "sgd", **more}
    return Recipe(3, RATE, dot=dot, **options)


def by_hand(steps):
    """The three lines of the paper, number by number, for gradients that are given."""
    w, labels, teacher = 1.0, 0.0, 0.0
    for g_labels, g_teacher, rate in steps:
        labels = g_labels + 0.1 * w + (MOMENTUM - DELTA) * labels
        teacher = g_teacher + (MOMENTUM + DELTA) * teacher
        w -= rate * (labels + teacher)
    return w


def test_three_steps_by_the_formula():
    steps = [(0.5, -1.0, 0.1), (-0.2, 0.4, 0.1), (0.3, 0.1, 0.05)]
    parameter = nn.Parameter(torch.ones(1, dtype=torch.float64))
    groups = [{"params": [parameter], "weight_decay": 0.1}]
    optimizer = TwoMomenta(groups, MOMENTUM, DELTA)
    for g_labels, g_teacher, rate in steps:
        optimizer.zero_grad()
        # in two batches: what is put aside adds up, as gradients do
        optimizer.put_aside([parameter], [torch.tensor([g_labels - 0.1], dtype=torch.float64)])
        optimizer.put_aside([parameter], [torch.tensor([0.1], dtype=torch.float64)])
        parameter.grad = torch.tensor([g_labels + g_teacher], dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert parameter.item() == pytest.approx(by_hand(steps), rel=1e-12)


def weights_after(dot, **options):
    net, lesson = problem(options.pop("by_labels", {"labels"}))
    train(net, lesson, recipe(dot, **options))
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_momenta_that_are_one_are_sgd(clip, accumulate):
    # a delta of 1e-9 takes the other optimizer and its two gradients, clipped as one
    options = {"clip": clip, "accumulate": accumulate}
    torch.testing.assert_close(weights_after(1e-9, **options), weights_after(0.0, **options))


def test_the_terms_of_the_labels_have_the_smaller_momentum():
    both = [weights_after(DELTA), weights_after(DELTA, by_labels={"teacher"}), weights_after(0.0)]
    assert not torch.allclose(both[0], both[1])
    assert not torch.allclose(both[0], both[2])
    # the bias is the teacher's alone: with more momentum it goes further in nine steps
    assert both[0][1] > both[2][1] > both[1][1]


class Killed(BaseException):
    pass


class Dies(Hooks):
    def __init__(self, step):
        self.step = step

    def stepped(self, moment):
        if moment.step == self.step:
            raise Killed


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_killed_run_goes_on_with_both_momenta(tmp_path, step):
    whole, lesson = problem()
    train(whole, lesson, recipe())
    net, lesson = problem()
    kept = Checkpoints(tmp_path, seconds=0.0)
    with pytest.raises(Killed):
        train(net, lesson, recipe(), hooks=[Dies(step)], checkpoints=kept)
    net, lesson = problem()
    train(net, lesson, recipe(), checkpoints=Checkpoints(tmp_path, seconds=0.0))
    assert state_bytes(net) == state_bytes(whole)


@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.2), (0.1, 0.2), (0.9, -0.1)])
def test_momenta_outside_of_0_to_1_are_refused(momentum, delta):
    with pytest.raises(ValueError, match="both momenta"):
        TwoMomenta([{"params": [nn.Parameter(torch.ones(1))]}], momentum, delta)
