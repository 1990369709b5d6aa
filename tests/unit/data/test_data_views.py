"""Augmentation: a function of seed, view and sample, whoever asks and in whatever batch."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressc.data import Split, as_dataset, augmented
from compressc.data.views import Draw
from compressc.errors import CompresscError
from compressc.pipeline import View

X = torch.randn(40, 2, 6, 8, generator=torch.Generator().manual_seed(0))
MASKS = torch.arange(40 * 48).reshape(40, 6, 8) % 5


def source(text, labels=None, x=X):
    part = Split((x,), labels)
    return augmented(as_dataset({"train": part, "test": part}, "mine"), text).train


@pytest.mark.parametrize("text", ["flip", "shift(pixels=2)", "crop(least=0.5)", "flip,shift,crop"])
def test_a_view_is_the_same_in_every_batch_and_another_in_every_epoch(text):
    part = source(text)
    assert part.has_views
    view = View(5, 1)
    whole = part.select(torch.arange(40), view).inputs[0]
    few = part.select(torch.tensor([7, 30, 7]), view).inputs[0]
    assert torch.allclose(few, whole[[7, 30, 7]])
    inner = part.subset(torch.tensor([30, 2])).select(torch.tensor([0]), view)
    assert torch.allclose(inner.inputs[0], whole[[30]])
    streamed = list(part.stream((torch.tensor([i]), view) for i in (3, 9)))
    assert torch.allclose(torch.cat([b.inputs[0] for b in streamed]), whole[[3, 9]])
    for other in (View(5, 2), View(6, 1)):
        assert not torch.equal(part.select(torch.arange(40), other).inputs[0], whole)
    assert torch.equal(part.select(torch.arange(40)).inputs[0], X)  # no view: as they are


def test_flip_turns_a_share_of_the_images_and_their_masks():
    batch = source("flip(share=0.3)", MASKS).select(torch.arange(40), View(0, 0))
    turned = [not torch.equal(ours, x) for ours, x in zip(batch.inputs[0], X, strict=True)]
    assert 4 <= sum(turned) <= 20  # 12 expected; 2.9 is a standard deviation
    for row, flipped in enumerate(turned):
        assert torch.equal(batch.inputs[0][row], X[row].flip(-1) if flipped else X[row])
        assert torch.equal(batch.labels[row], MASKS[row].flip(-1) if flipped else MASKS[row])


def test_shift_moves_by_whole_pixels_and_marks_what_came_in():
    batch = source("shift(pixels=2)", MASKS).select(torch.arange(40), View(0, 0))
    seen = set()
    for row in range(40):
        padded = F.pad(X[row], (2, 2, 2, 2))
        places = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(padded[:, dy : dy + 6, dx : dx + 8], batch.inputs[0][row])
        ]
        ((dy, dx),) = places
        mask = F.pad(MASKS[row], (2, 2, 2, 2), value=-100)[dy : dy + 6, dx : dx + 8]
        assert torch.equal(batch.labels[row], mask)
        seen.add((dy, dx))
    assert len(seen) > 10  # of 25


def test_crop_enlarges_a_window():
    ramp = torch.linspace(0, 1, 8).expand(40, 1, 6, 8).contiguous()
    batch = source("crop(least=0.5)", MASKS, ramp).select(torch.arange(40), View(0, 0))
    steps = batch.inputs[0][:, 0, 0].diff(dim=1)
    slope = steps[:, 2:-2].mean(1) * 7  # of a ramp enlarged: the side of the window
    assert float(slope.min()) > 0.49
    assert float(slope.max()) < 1.01
    assert float(slope.max() - slope.min()) > 0.2
    assert set(batch.labels.unique().tolist()) <= set(range(5))
    assert torch.allclose(
        source("crop(least=1)", None, ramp).select(torch.arange(4), View(0, 0)).inputs[0],
        ramp[:4],
        atol=1e-5,
    )


def test_draws_are_even_and_apart():
    numbers = Draw(View(0, 0), torch.arange(20_000)).uniform()
    counts = torch.histc(numbers, 20, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 43.8  # chi-square, one in a thousand
    others = [
        Draw(View(0, 0), torch.arange(20_000)).uniform(1),
        Draw(View(0, 1), torch.arange(20_000)).uniform(),
        Draw(View(0, 0), torch.arange(20_000), 1).uniform(),
    ]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([numbers, other]))[0, 1])) < 0.03


OWN = """
import random, torch, numpy
def noise(x, generator):
    return x + torch.rand(x.shape, generator=generator)
def careless(x, generator):
    return x + torch.rand(1) + random.random() + numpy.random.rand()
def with_labels(x, y, generator):
    return x * 0 + y, y + 1
def nan(x, generator):
    return x.log()
def smaller(x, generator):
    return x[:, 1:]
def fails(x, generator):
    raise ValueError("no colour left")
def one(x): return x
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("function", ["noise", "careless"])
def test_a_function_of_a_file_is_seeded_for_each_sample(own, function):
    state = torch.get_rng_state(), random.getstate()
    part = source(f"flip,{own}:{function}")
    whole = part.select(torch.arange(40), View(0, 0)).inputs[0]
    assert torch.equal(part.select(torch.tensor([9, 1]), View(0, 0)).inputs[0], whole[[9, 1]])
    assert not torch.equal(part.select(torch.arange(40), View(0, 1)).inputs[0], whole)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_a_function_may_change_labels_too(own):
    batch = source(f"{own}:with_labels", torch.arange(40)).select(torch.tensor([4]), View(0, 0))
    assert batch.inputs[0].unique().tolist() == [4]
    assert batch.labels.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "code", "got"),
    [
        ("{own}:nan", "CC302", "NaN"),
        ("{own}:smaller", "CC302", "[2, 2, 5, 8]"),
        ("{own}:fails", "CC302", "ValueError: no colour left"),
        ("{own}:one", "CC300", "1 parameters"),
        ("{own}:none", "CC300", "none of that name"),
        ("flop", "CC107", ""),
        ("flip(share=2)", "CC102", "2"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(own, text, code, got):
    with pytest.raises(CompresscError) as caught:
        source(text.format(own=own))
    assert caught.value.code == code
    assert got in caught.value.got


def test_images_alone_are_moved():
    with pytest.raises(CompresscError, match="CC301"):
        source("flip", None, torch.zeros(40, 3))


def test_what_is_done_counts_for_the_fingerprint(own):
    part = Split((X,))
    data = as_dataset({"train": part, "test": part}, "mine")
    texts = ["", "flip", "flip(share=0.1)", f"{own}:noise"]
    prints = [augmented(data, text).fingerprint for text in texts]
    own.write_text(OWN.replace("x + torch.rand(x", "x - torch.rand(x"))
    prints.append(augmented(data, texts[-1]).fingerprint)
    assert len(set(prints)) == 5
    assert prints[0] == data.fingerprint
    assert np.array_equal(augmented(data, "flip").test.inputs[0], X)
