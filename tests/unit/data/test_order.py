import itertools
from collections import Counter

import pytest
import torch

from compressc.data.order import order


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_every_sample_comes_once_in_an_epoch(total: int) -> None:
    assert order(total, seed=3, epoch=7).sort().values.tolist() == list(range(total))


def test_a_part_of_an_epoch_is_that_part_of_it() -> None:
    whole = order(1000, seed=1, epoch=2)

    assert torch.equal(order(1000, 1, 2, 130, 194), whole[130:194])
    assert order(1000, 1, 2, 5, 5).tolist() == []


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [tuple(order(50, seed, epoch).tolist()) for seed in (0, 1, -1) for epoch in range(4)]

    assert len(set(orders)) == len(orders)


def test_the_order_is_the_same_for_ever() -> None:
    # written down once: another order would give other weights for the same seed
    assert order(10, seed=0, epoch=0).tolist() == [3, 2, 1, 6, 4, 5, 8, 7, 9, 0]


def test_every_order_of_four_is_about_as_frequent() -> None:
    runs = 24 * 200
    seen = Counter(tuple(order(4, 5, epoch).tolist()) for epoch in range(runs))

    # 24 cells of 200 expected: chi-square of 23 degrees is below 49.7 but for one in a thousand
    assert set(seen) <= set(itertools.permutations(range(4)))
    squares = sum((seen[p] - 200) ** 2 / 200 for p in itertools.permutations(range(4)))
    assert squares < 49.7


def test_neighbours_are_not_neighbours_afterwards() -> None:
    total = 10_000
    steps = order(total, 0, 0).diff().abs().double()

    # the mean distance of two random positions is a third; its standard error here is 0.0024
    assert abs(float(steps.mean()) / total - 1 / 3) < 0.01


def test_two_epochs_do_not_go_together() -> None:
    a, b = (order(10_000, 0, epoch).double() for epoch in (0, 1))

    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.04  # four standard errors


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 11)])
def test_positions_outside_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="of 10 samples"):
        order(10, 0, 0, start, stop)
