"""Fidelity against numbers worked out by hand; NaN must never look well."""

import math

import pytest
import torch

from compressc.errors import CompresscError
from compressc.measure import Fidelity, fidelity

WANT = torch.tensor([[3.0, 0.0], [0.0, 4.0]])


def test_equal_outputs():
    found = fidelity(WANT, WANT.clone())
    assert found == Fidelity(max_abs_error=0, relative_rms_error=0, cosine=1, samples=2)


def test_by_hand():
    found = fidelity(torch.tensor([[0.0, 4.0], [0.0, 4.0]]), WANT)
    # difference (-3, 4, 0, 0), norms 5 and 5; dot 16 over norms 5 * sqrt(32)
    assert (found.max_abs_error, found.relative_rms_error) == (4.0, 1.0)
    assert found.cosine == pytest.approx(16 / (5 * math.sqrt(32)), rel=1e-12)


def test_sums_are_in_float64():
    want = torch.full((1, 100_000), 1e3)
    got = want.clone()
    got[0, 0] += 1e-3
    assert fidelity(got, want).cosine == pytest.approx(1.0, abs=1e-15)
    assert 0 < fidelity(got, want).relative_rms_error < 1e-8


@pytest.mark.parametrize(
    "got",
    [
        [[math.nan, 0.0], [0.0, 4.0]],
        [[math.inf, 0.0], [0.0, 4.0]],
        [[-math.inf, 0.0], [0.0, 4.0]],
    ],
)
def test_nan_and_infinity_miss_every_threshold(got):
    for pair in ((torch.tensor(got), WANT), (WANT, torch.tensor(got))):
        found = fidelity(*pair)
        assert found.max_abs_error > 1e300
        assert found.relative_rms_error > 1e300
        assert not found.cosine > 0
    nan = torch.tensor(got)
    if torch.isnan(nan).any():  # NaN on both sides is no agreement either
        assert fidelity(nan, nan).max_abs_error == math.inf


def test_equal_masks_count_for_nothing():
    masked = torch.tensor([[1.0, -math.inf], [2.0, -math.inf]])
    assert fidelity(masked, masked).max_abs_error == 0
    assert fidelity(masked, masked).cosine == 1
    assert fidelity(torch.full((1, 2), math.inf), torch.full((1, 2), math.inf)).cosine == 1


def test_infinities_of_other_signs_are_no_agreement():
    low, high = torch.tensor([[1.0, -math.inf]]), torch.tensor([[1.0, math.inf]])
    assert fidelity(low, high).max_abs_error == math.inf
    assert fidelity(low, high).cosine == 0


def test_zero_outputs():
    zero = torch.zeros(2, 2)
    assert fidelity(zero, zero).relative_rms_error == 0
    assert fidelity(zero, zero).cosine == 1
    assert fidelity(WANT, zero).relative_rms_error == math.inf
    assert fidelity(WANT, zero).cosine == 0


def test_round_trips_through_json_with_infinities():
    found = fidelity(torch.full((2, 2), math.nan), WANT)
    assert Fidelity.model_validate_json(found.model_dump_json()) == found


def test_shapes_must_match():
    for got in (WANT[:1], torch.zeros(0, 2)):
        with pytest.raises(CompresscError):
            fidelity(got, WANT if len(got) else got)
