"""Batches of a source: every sample once, in an order without memory, read in one stream."""

import gc
from itertools import chain, islice
from typing import ClassVar

import pytest
import torch

from compressc import processes
from compressc.data import Split
from compressc.errors import CompresscError
from compressc.training import SampleBatches

CPU = torch.device("cpu")


class Watched(Split):
    """Samples that tell how they are read; ahead of the asker, as by workers."""

    streams: ClassVar[int] = 0
    views: ClassVar[list] = []

    def stream(self, requests):
        type(self).streams += 1
        requests = iter(requests)
        ahead = list(islice(requests, 3))
        while ahead:
            positions, view = ahead.pop(0)
            ahead += islice(requests, 1)
            type(self).views.append(view)
            yield self.select(positions)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Watched, "streams", 0)
    monkeypatch.setattr(Watched, "views", [])


def batches(count=10, size=4):
    rows = torch.arange(count)
    return SampleBatches(Watched((rows.float().unsqueeze(1),), rows % 3), size, CPU)


def rows(source, *place):
    return [batch.samples.inputs[0].flatten().int().tolist() for batch in source.epoch(*place)]


def test_an_epoch_has_every_sample_once_in_even_batches():
    found = rows(batches(), 0, 1)  # 10 / 4 rounds to 2 batches of 5
    assert [len(batch) for batch in found] == [5, 5]
    assert sorted(chain(*found)) == list(range(10))


@pytest.mark.parametrize("count", [1, 7, 600, 4321])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_positions_say_which_samples_they_are(count, size):
    found = list(batches(count, size).epoch(3, 2))
    sizes = {len(batch.positions) for batch in found}
    assert max(sizes) - min(sizes) <= 1
    positions = torch.cat([batch.positions for batch in found])
    assert sorted(positions.tolist()) == list(range(count))
    for batch in found:
        assert torch.equal(batch.samples.inputs[0].flatten(), batch.positions.float())
        assert torch.equal(batch.samples.labels, batch.positions % 3)


def test_an_epoch_is_a_function_of_seed_number_and_start():
    source = batches(64, 8)
    whole = rows(source, 1, 5)
    assert rows(source, 1, 5, 3) == whole[3:]
    list(islice(source.epoch(1, 5), 2))  # left in the middle
    assert rows(source, 1, 5) == whole
    assert rows(batches(64, 8), 1, 5) == whole
    assert rows(source, 2, 5) != whole
    assert rows(source, 1, 6) != whole


def test_epochs_in_a_row_are_one_stream_and_views_of_their_own():
    source = batches()
    rows(source, 7, 1, 1)
    rows(source, 7, 2)
    rows(source, 7, 3)
    assert Watched.streams == 1
    assert [(view.seed, view.number) for view in Watched.views] == [
        (7, 1),
        (7, 2),
        (7, 2),
        (7, 3),
        (7, 3),
    ]
    list(islice(source.epoch(7, 4), 1))  # a setback: the epoch is left
    rows(source, 7, 5)
    assert Watched.streams == 2


def test_a_stream_ends_with_who_asked_for_it():
    ended = []

    class Ending(Split):
        def stream(self, requests):
            try:
                yield from super().stream(requests)
            finally:
                ended.append(True)

    source = SampleBatches(Ending((torch.zeros(30, 1),)), 4, CPU)
    list(source.epoch(0, 1))
    assert not ended  # it reads on into the next epoch
    gc.disable()
    try:
        del source
        assert ended
    finally:
        gc.enable()


def test_processes_have_their_parts_of_each_batch_and_weights(monkeypatch):
    whole = list(batches(53, 8).epoch(1, 2))  # batches of 8 and of 7
    monkeypatch.setattr(processes._State, "world", 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(processes._State, "rank", rank)
        parts.append(list(batches(53, 8).epoch(1, 2)))
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share.positions for share in shares]), batch.positions)
        # the mean of weighted means is the mean of all
        means = [share.weight * share.positions.double().mean() for share in shares]
        assert float(sum(means) / 2) == pytest.approx(float(batch.positions.double().mean()))
        assert batch.weight == 1.0


def test_a_batch_with_no_sample_for_a_process_is_an_error(monkeypatch):
    monkeypatch.setattr(processes._State, "world", 4)
    assert len(batches(12, 4)) == 3
    with pytest.raises(CompresscError, match=r"CC102.*3 for 4 processes"):
        batches(12, 3)
