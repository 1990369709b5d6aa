"""Stratified division."""

import pytest
import torch

from compressc.data import Split
from compressc.data.splitting import assemble, divide


@pytest.mark.parametrize(
    ("sizes", "count", "wanted"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([10, 10, 10], 10, [4, 3, 3]),  # the remainder goes to the first of equal claims
        ([97, 2, 1], 50, [49, 1, 0]),
        ([31, 30, 39], 10, [3, 3, 4]),  # to the largest of 0.1, 0 and 0.9
        ([15, 44, 41], 10, [2, 4, 4]),  # 1.5, 4.4, 4.1
        ([1] * 5, 2, [1, 1, 0, 0, 0]),
    ],
)
def test_classes_are_in_proportion(sizes, count, wanted):
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    chosen, rest = divide(labels, len(labels), count, seed=3)
    assert labels[chosen].bincount(minlength=len(sizes)).tolist() == wanted
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(len(labels)))


def test_labels_need_not_be_consecutive_and_may_be_missing_or_many_dimensional():
    labels = torch.tensor([7, 7, 900, 900] * 5)
    assert (labels[divide(labels, 20, 10, 0)[0]] == 7).sum() == 5
    for free in (None, torch.zeros(20, 3, dtype=torch.int64)):
        chosen, rest = divide(free, 20, 6, 0)
        assert (len(chosen), len(rest), len({*chosen.tolist(), *rest.tolist()})) == (6, 14, 20)


def test_seed_decides_and_nothing_else():
    labels = torch.arange(100) % 4
    a, b, c = (divide(labels, 100, 20, seed)[0].tolist() for seed in (1, 1, 2))
    assert a == b != c
    assert a != sorted(a)  # shuffled, so that the first few are a fair sample


def test_calibration_is_at_most_256_of_train():
    def calibration(n: int) -> int:
        s = Split((torch.zeros(n, 1),), torch.arange(n) % 2)
        return len(assemble("a", s, s, 0).calibration)

    assert (calibration(100), calibration(1000)) == (100, 256)
