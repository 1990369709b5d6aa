"""How much worse a score is: in points where 1 is perfect, else as a share of the teacher's."""

import math

import pytest

from compressc.tasks.metric import ACCURACY, MAE, PERPLEXITY


@pytest.mark.parametrize(
    ("metric", "before", "after", "lost"),
    [
        (ACCURACY, 0.9, 0.85, 0.05),
        (ACCURACY, 0.9, 0.95, -0.05),
        (PERPLEXITY, 20.0, 22.0, 0.1),
        (PERPLEXITY, 20.0, 19.0, -0.05),
        (MAE, 0.0, 0.0, 0.0),
        (MAE, 0.0, 0.1, math.inf),
        (PERPLEXITY, 20.0, math.inf, math.inf),
        (ACCURACY, None, 0.9, math.inf),
        (ACCURACY, 0.9, math.nan, math.inf),
    ],
)
def test_what_is_lost(metric, before, after, lost):
    assert metric.lost(before, after) == pytest.approx(lost)


def test_no_better_goes_by_the_direction():
    assert ACCURACY.no_better(0.5, 0.5)
    assert not ACCURACY.no_better(0.6, 0.5)
    assert PERPLEXITY.no_better(30.0, 27.0)
    assert not PERPLEXITY.no_better(20.0, 27.0)
    assert not ACCURACY.no_better(0.5, math.nan)
    assert not PERPLEXITY.no_better(0.5, math.nan)
