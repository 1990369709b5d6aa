"""Every objective of ours has the properties that an objective must have."""

import pytest

from compressc.distillation import parse_objective
from compressc.plugins import OBJECTIVES, distribution, find
from compressc.testing import check_objective

OURS = [
    name for name in find(OBJECTIVES) if distribution(OBJECTIVES, name).startswith("compressc ")
]


@pytest.mark.parametrize("name", OURS)
def test_it_conforms(name):
    check_objective(parse_objective(name))
