"""What nncf decides on random inputs is what it decides on the data."""

from __future__ import annotations

import pytest
import torch
from compressc_quant import Quant
from compressc_quant.verdicts import why_float
from torch import nn

from compressc.analysis.coverage import Verdict
from compressc.errors import CompresscError
from compressc.ir import Op
from compressc.pipeline import Context, cover
from compressc.testing import check_coverage, export_graph
from tests.passes.transformer_nets import MODELS, example_data, random_data, transformer
from tests.unit.analysis.analysis_nets import NETS, symbolized

QUICK = ("digits_cnn", "plain_matrices")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in NETS]
)
def test_agreement(name):
    graph, data = symbolized(name), example_data(name, 32)
    seen = check_coverage(Quant(), graph, data)
    (blind,) = cover([Quant()], graph)
    assert blind == seen


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["auto", "convolutional"])
@pytest.mark.parametrize("name", MODELS)
def test_agreement_on_transformers(name, model_type):
    graph = transformer(name)
    data = random_data(graph)
    seen = check_coverage(Quant(model_type=model_type), graph, data)
    (blind,) = cover([Quant(model_type=model_type)], graph)
    assert blind == seen
    assert seen.share > 0.6


def test_the_verdicts():
    (coverage,) = cover([Quant()], symbolized("digits_cnn"))
    texts = {name: verdict.text for name, verdict in coverage.verdicts.items()}
    assert texts["conv1"] == texts["head"] == "int8 weight, int8 inputs"
    assert texts["depthwise"] == "int8 weight, int8 inputs"  # behind a pooling of int8 values
    assert texts["bn1"] == texts["drop"] == "removed by simplify, which runs first"
    assert texts["add"] == "int8 inputs"
    assert {item.tensor for item in coverage.uncovered} == {"pointwise.bias", "head.bias"}


@pytest.mark.slow  # a batch norm that stays costs nncf 15 s whatever the model
def test_what_stays_float_says_why():
    (coverage,) = cover([Quant()], symbolized("dense_net"))
    assert coverage.verdicts["norms.0"] == Verdict.cannot(
        "it is not folded into the layer before it (simplify says why)"
    )
    assert coverage.verdicts["group_norm"].outcome == "cannot"
    assert coverage.verdicts["cat"].text == "int8 inputs"  # convolutions have integer results


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("conv1d", "nncf's rules for transformers leave it in float"),
        ("rms_norm", "it has no int8 kernel in ONNX Runtime or OpenVINO"),
        ("aten.softmax.int", "softmax and the product with the values stay in float"),
        (*("parameter", "a tensor that no linear layer, convolution or embedding holds has"),),
        ("instance_norm", "instance_norm has no int8 form"),
    ],
)
def test_reasons(kind, text):
    assert why_float(Op("x", kind), transformer=True).startswith(text)


def test_where_nncf_fails_nothing_is_covered(monkeypatch):
    def fail(*_):
        raise CompresscError("CC601", "nncf could not quantize the graph")

    monkeypatch.setattr("compressc_quant.static.observe", fail)
    (coverage,) = cover([Quant()], symbolized("rms_gated"))
    assert {v.outcome for v in coverage.verdicts.values()} == {"cannot"}
    assert "quant would fail: [CC601]" in coverage.verdicts["gate"].text


def test_a_bare_parameter_has_a_note(run):
    """A scale that no layer holds stays float, and the report says so."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(64, 8), nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1)) * self.scale

    graph = export_graph(Scaled().eval(), torch.randn(4, 1, 8, 8))
    _, context = run(graph, samples=32)
    assert isinstance(context, Context)
    assert "holds has no int8 form" in dict(context.notes)["scale"]
