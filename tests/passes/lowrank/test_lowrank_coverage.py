"""`lowrank` foretells the rank of each layer, or why it has none."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from compressc_lowrank.leading import energies
from torch import nn

from compressc.analysis.coverage import Verdict
from compressc.pipeline import Context, cover
from compressc.testing import check_coverage, export_graph
from tests.passes.transformer_nets import MODELS, all_nets, transformer
from tests.unit.analysis.analysis_nets import symbolized


@pytest.mark.parametrize("options", [{}, {"energy": 0.6}, {"rank": 3}], ids=str)
@pytest.mark.parametrize("name", all_nets())
def test_agreement(name, options):
    check_coverage(LowRank(**options), symbolized(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_agreement_on_transformers(name):
    assert check_coverage(LowRank(energy=0.6), transformer(name)).share > 0.5


def test_the_verdicts():
    """Break-even of 24 x 32 is 13.7, so that rank 3 pays and rank 11 does not."""
    graph = export_graph(
        nn.Sequential(nn.Linear(32, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 4)),
        torch.randn(4, 32),
    )
    (three,), (eleven,) = (cover([LowRank(rank=rank)], graph) for rank in (3, 11))
    assert three.verdicts["0"] == Verdict.does("factorizes to rank 3 of 24", "weight")
    assert eleven.verdicts["0"].text == "rank 11 is not below 0.8 of break-even 13.7"
    assert three.verdicts["1"] == three.verdicts["2"] == Verdict.idle("no matrix of weights")
    assert three.verdicts["3"].text == "rank 3 is not below 0.8 of break-even 3.4"
    assert (three.covered, three.total) == (24 * 32, 24 * 32 + 24 + 48 + 4 * 24 + 4)


def test_weights_that_are_not_loaded_have_no_rank():
    graph = symbolized("vit")
    for op in graph:
        if op.layer is not None:
            op.layer.to("meta")
    (coverage,) = cover([LowRank()], graph)
    assert coverage.verdicts["head"].outcome == "unknown"
    assert "not loaded" in coverage.verdicts["head"].text
    (fixed,) = cover([LowRank(rank=2)], graph)
    assert fixed.verdicts["head"] == Verdict.does("factorizes to rank 2 of 10", "weight")


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_energies(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    want = torch.linalg.svdvals(matrix.double()).square()
    torch.testing.assert_close(energies(matrix), want, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", ["vit", "plain_matrices", "digits_cnn"])
def test_every_layer_with_a_matrix_has_a_note(name):
    graph = symbolized(name)
    context = Context(graph)
    LowRank().run(graph.copy(), context)
    layers = [op for op in graph if op.layer is not None]
    matrices = {op.name for op in layers if any(p.ndim > 1 for p in op.layer.parameters())}
    linear = {op.name for op in layers if op.role in ("linear", "convolution")}
    told = {op for op, _ in context.notes}
    assert linear <= told <= matrices  # norms and biases are none of its business
