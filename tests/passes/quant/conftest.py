"""One trained network and its quantized graph for all tests of the pass."""

import pytest
from compressc_quant import Quant
from quant_nets import imported, trained

from compressc.data import open_dataset
from compressc.pipeline import Context


@pytest.fixture(scope="session")
def digits():
    return open_dataset("digits")


@pytest.fixture(scope="session")
def teacher(digits):
    return imported(trained(digits), digits.train.take(4).inputs)


@pytest.fixture(scope="session")
def run(digits):
    """Quantize a copy of a graph; returns it and the context with its notes."""

    def apply(graph, data=None, **options):
        context = Context(teacher=graph, data=data or digits)
        edited = graph.copy()
        Quant(**options).run(edited, context)
        return edited, context

    return apply


@pytest.fixture(scope="session")
def quantized(teacher, run):
    return run(teacher)[0]
