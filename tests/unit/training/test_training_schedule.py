"""The learning-rate schedule and the batches, against numbers worked out by hand."""

import pytest
import torch

from compressc.training import TensorBatches, batched, cosine_with_warmup


def test_cosine_without_warmup_falls_from_one():
    # 0.5 * (1 + cos(pi * k / 4)) for k = 0..3
    want = [1.0, 0.8535534, 0.5, 0.1464466]
    assert [cosine_with_warmup(k, 4, 0.0) for k in range(4)] == pytest.approx(want)


def test_warmup_rises_linearly_to_the_peak_then_falls():
    got = [cosine_with_warmup(k, 10, 0.3) for k in range(10)]
    assert got[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert got[3:] == sorted(got[3:], reverse=True)
    assert got[-1] > 0


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_one_step_runs_at_the_peak(warmup):
    assert cosine_with_warmup(0, 1, warmup) == 1.0


def test_an_epoch_has_every_row_once_in_even_batches():
    rows = torch.arange(10)
    source = TensorBatches([rows, rows * 2], 4)  # 10 / 4 rounds to 2 batches of 5
    batches = list(source.epoch(0, 1))
    assert len(source) == len(batches) == 2
    assert [len(a) for a, _ in batches] == [5, 5]
    assert sorted(torch.cat([a for a, _ in batches]).tolist()) == list(range(10))
    assert all(torch.equal(b, a * 2) for a, b in batches)


def test_no_batch_is_a_leftover_of_one_row():
    source = TensorBatches([torch.arange(9)], 4)
    assert [len(a) for (a,) in source.epoch(0, 1)] == [5, 4]


def test_seed_and_epoch_decide_the_order():
    source = TensorBatches([torch.arange(32)], 8)

    def order(seed, epoch, start=0):
        return torch.cat([a for (a,) in source.epoch(seed, epoch, start)]).tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(2, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1, start=3) == order(1, 1)[24:]


def test_fewer_rows_than_a_batch_are_one_batch():
    assert len(TensorBatches([torch.arange(3)], 64)) == 1


@pytest.mark.parametrize(("tensors", "size"), [([torch.zeros(0)], 4), ([torch.zeros(2)], 0)])
def test_batches_refuse_what_gives_no_batch(tensors, size):
    with pytest.raises(ValueError, match="at least 1"):
        TensorBatches(tensors, size)


def test_batched_keeps_order_and_the_rest():
    assert [a.tolist() for (a,) in batched([torch.arange(5)], 2)] == [[0, 1], [2, 3], [4]]
