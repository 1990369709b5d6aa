"""`simplify` foretells what it removes and folds."""

from __future__ import annotations

import pytest
from compressc_simplify import Simplify

from compressc.analysis.coverage import Verdict
from compressc.pipeline import Context, cover
from compressc.testing import check_coverage
from tests.passes.transformer_nets import MODELS, all_nets, transformer
from tests.unit.analysis.analysis_nets import symbolized


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", all_nets())
def test_agreement(name, fold):
    check_coverage(Simplify(fold=fold), symbolized(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_agreement_on_transformers(name):
    check_coverage(Simplify(), transformer(name))


def test_the_verdicts():
    graph = symbolized("digits_cnn")
    (coverage,) = cover([Simplify()], graph)
    assert coverage.verdicts["conv1"] == Verdict.does(
        "takes in the batch norm behind it", "weight", "bias"
    )
    assert coverage.verdicts["bn1"].text == "folded into the layer before it"
    assert coverage.verdicts["drop"].text == "removed: in inference it changes nothing"
    assert coverage.verdicts["relu"] == Verdict.idle("nothing to simplify")
    assert "bn1" in graph
    # three convolutions without bias (16x1x3x3, 16x16x3x3, 16x1x3x3), three norms of 2 x 16
    assert coverage.covered == 144 + 2304 + 144 + 3 * 32


@pytest.mark.parametrize(("fold", "text"), [(True, "it reads %cat"), (False, "fold=False")])
def test_what_is_not_folded_has_a_reason_and_a_note(fold, text):
    graph = symbolized("dense_net")
    context = Context(graph)
    (coverage,) = cover([Simplify(fold=fold)], graph)
    Simplify(fold=fold).run(graph.copy(), context)
    assert text in coverage.verdicts["norms.0"].text
    assert dict(context.notes)["norms.0"] == coverage.verdicts["norms.0"].text
