"""Condensed data: mathematics by hand, the same bytes after a kill, what cannot be condensed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compressc_distill.families.condensing.choosing import herded
from compressc_distill.families.condensing.distributions import embedding, mean_distance
from compressc_distill.families.condensing.kernel import regression, tangent_kernel, targets

from compressc.cli import main
from compressc.condensing import condense
from compressc.data import Dataset, Split, open_dataset
from compressc.distillation import drawn_of_each
from compressc.errors import CompresscError
from compressc.testing import Killed, kill_at


def blobs(per_class=30, labelled=True, shape=(6,)):
    """Three classes about three centres."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(3 * per_class) % 3
    x = torch.randn(len(y), *shape, generator=draw)
    x = x + 2 * torch.randn(3, *shape, generator=draw)[y]
    part = Split((x,), y if labelled else None)
    return Dataset("blobs", part, part, part)


def test_distance_of_means_by_hand():
    draw = torch.Generator().manual_seed(1)
    made, real = torch.randn(6, 4, generator=draw), torch.randn(9, 4, generator=draw)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0, 0, 2])
    total = 0.0
    for c in range(3):
        for d in range(4):
            ours = sum(made[2 * c + k, d].item() for k in range(2)) / 2
            theirs = [real[i, d].item() for i in range(9) if labels[i] == c]
            total += (ours - sum(theirs) / len(theirs)) ** 2
    assert mean_distance(made, real, labels).item() == pytest.approx(total, rel=1e-5)


def kernel_by_hand(a, b, depth):
    """The recursion for two rows, in plain floats."""
    size = len(a)
    saa, sbb = (sum(x * x for x in row) / size for row in (a, b))
    s = k = sum(x * y for x, y in zip(a, b, strict=True)) / size
    for _ in range(depth):
        c = max(-1.0, min(1.0, s / math.sqrt(saa * sbb)))
        s = math.sqrt(saa * sbb) * (c * (math.pi - math.acos(c)) + math.sqrt(1 - c * c)) / math.pi
        k = s + k * (math.pi - math.acos(c)) / math.pi
    return k


def test_the_tangent_kernel_by_hand_and_by_a_wide_network():
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(n, 5, generator=draw).double() for n in (3, 2))
    found = tangent_kernel(a, b, 2)
    for i in range(3):
        for j in range(2):
            want = kernel_by_hand(a[i].tolist(), b[j].tolist(), 2)
            assert found[i, j].item() == pytest.approx(want, rel=1e-6)
    wide = 4000
    w = torch.randn(wide, 5, generator=draw).double().requires_grad_()
    v = torch.randn(wide, generator=draw).double().requires_grad_()

    def network(row):  # weights of variance 1; factors make them 1/d and 2/width
        return (torch.relu(w @ row / math.sqrt(5)) * math.sqrt(2 / wide)) @ v

    slopes = [torch.cat([g.flatten() for g in torch.autograd.grad(network(x), (w, v))]) for x in a]
    inner = torch.stack(slopes) @ torch.stack(slopes).T
    assert torch.allclose(inner, tangent_kernel(a, a, 1), rtol=0.1, atol=0.05)


def test_kernel_regression_by_the_normal_equations():
    """With no hidden layer it is linear ridge regression: the same answer from the primal side."""
    draw = torch.Generator().manual_seed(3)
    made, real = torch.randn(8, 3, generator=draw), torch.randn(5, 3, generator=draw)
    y = targets(torch.arange(4).repeat_interleave(2), 4)
    a, b = (x.numpy().astype(np.float64) / math.sqrt(3) for x in (made, real))
    level = 0.1 * np.mean((a * a).sum(1))
    weights = np.linalg.solve(a.T @ a + level * np.eye(3), a.T @ y.numpy())
    found = regression(made, real, y, 0, 0.1)
    assert np.allclose(found.numpy(), b @ weights, atol=1e-9)
    assert y.sum(1).abs().max() < 1e-12


def test_herding_takes_the_nearest_mean_each_time():
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(4)).double()
    values, taken = rows.tolist(), []
    mean = [sum(row[d] for row in values) / 12 for d in range(3)]
    for number in range(1, 5):
        best, least = -1, math.inf
        for i in (i for i in range(12) if i not in taken):
            sums = [sum(values[j][d] for j in (*taken, i)) / number for d in range(3)]
            far = sum((a - b) ** 2 for a, b in zip(sums, mean, strict=True))
            best, least = (i, far) if far < least else (best, least)
        taken.append(best)
    assert herded(rows, 4).tolist() == taken


@pytest.mark.parametrize("shape", [(6,), (1, 6, 6), (2, 1, 3), (4, 5)])
def test_random_networks_take_any_input_and_go_by_their_seed(shape):
    x = torch.randn(3, *shape)
    first, again, other = (embedding(shape, 8, seed)(x) for seed in (1, 1, 2))
    assert first.ndim == 2
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", ["matching(steps=40,width=8)", "kernel(steps=40)"])
def test_what_is_made_loses_less_than_what_it_began_as(method):
    said: list[str] = []
    x, y = condense(blobs(), 2, method, cache=None, say=said.append)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    assert x.shape == (6, 6)
    first, last = (float(word) for word in said[0].split("loss ")[1].split(" -> "))
    assert last < first
    start = blobs().train.inputs[0][drawn_of_each(blobs().train.labels, 2, 0)]
    assert not torch.allclose(x, start)


@pytest.mark.parametrize("method", ["random", "herding"])
def test_what_is_chosen_is_real(method):
    x, y = condense(blobs(), 3, method, cache=None)
    whole = blobs().train
    for row, label in zip(x, y, strict=True):
        (place,) = torch.nonzero((whole.inputs[0] == row).all(1)).flatten().tolist()
        assert whole.labels[place] == label


@pytest.mark.parametrize("method", ["matching(steps=30,width=8)", "kernel(steps=30)"])
def test_killed_and_begun_again_it_is_the_same(tmp_path, method):
    want, _ = condense(blobs(), 2, method, cache=None)
    with pytest.raises(Killed):
        condense(blobs(), 2, method, cache=tmp_path, checkpoint_every=0.0, tell=kill_at(17))
    seen = []
    got, _ = condense(
        blobs(), 2, method, cache=tmp_path, tell=lambda event: seen.append(event.facts["done"])
    )
    assert seen[0] > 10  # it went on
    assert torch.equal(got, want)
    seen.clear()
    again, _ = condense(blobs(), 2, method, cache=tmp_path, tell=seen.append)
    assert torch.equal(again, want)
    assert not seen  # it was there


def test_what_cannot_be_condensed(tmp_path):
    with pytest.raises(
        CompresscError, match=r"CC301.*40 samples.*got 30 of class 0.*--per-class 30"
    ):
        condense(blobs(), 40, "random", cache=None)
    with pytest.raises(CompresscError, match=r"CC105.*a label for each"):
        condense(blobs(labelled=False), 2, "random", cache=None)
    with pytest.raises(CompresscError, match=r"CC107.*did you mean 'matching'"):
        condense(blobs(), 2, "matchin", cache=None)
    x, y = torch.randn(8, 3), torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])
    part = Split((x,), y)
    with pytest.raises(CompresscError, match=r"CC301.*got 0 of class 1.*without a gap"):
        condense(Dataset("gap", part, part, part), 2, "random", cache=None)
    two = Split((x, x), y)
    with pytest.raises(CompresscError, match=r"CC301.*one input of floats"):
        condense(Dataset("two", two, two, two), 2, "random", cache=None)
    numbers = Split((x,), x[:, 0])
    with pytest.raises(CompresscError, match=r"CC301.*one class for each"):
        condense(Dataset("numbers", numbers, numbers, numbers), 2, "random", cache=None)


def test_the_command_writes_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["condense", "--data", "digits", "--per-class", "3", "--method", "random"]
    assert main([*words, "-o", "small.npz"]) == 0
    assert "30 of 1,257 samples to learn from" in capsys.readouterr().out
    data = open_dataset("small.npz")
    whole = open_dataset("digits")
    assert len(data.train) == 30
    assert torch.equal(data.test.take(540).inputs[0], whole.test.take(540).inputs[0])
    assert main([*words, "-o", "small.txt"]) == 2
    assert main([*words[:-3], "200", "-o", "small.npz"]) == 4
