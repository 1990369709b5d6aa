"""What `prune` says it will cut is what it cuts; what it leaves has a reason."""

from __future__ import annotations

import pytest
import torch
from compressc_prune import Prune
from torch import nn

from compressc.pipeline import Context, cover
from compressc.testing import check_coverage, export_graph
from compressc.testing.agreement import silently_left
from tests.passes.transformer_nets import FEW, MODELS, example_data, random_data, transformer
from tests.unit.analysis.analysis_nets import NETS, symbolized

OPTIONS = (
    {},
    {"ratio": 0.8, "normalized": True, "attention": "both", "round_to": 1},
    {"ratio": 0.3, "global": True},
)


def verdicts(name, **options):
    (coverage,) = cover([Prune(**options)], symbolized(name))
    return {op: verdict.text for op, verdict in coverage.verdicts.items()}, coverage


@pytest.mark.parametrize("name", FEW)
def test_agreement(name):
    check_coverage(Prune(), symbolized(name))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_agreement_on_every_network(name, options):
    check_coverage(Prune(**options), symbolized(name))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_agreement_on_transformers(name, options):
    check_coverage(Prune(**options), transformer(name))


def test_agreement_where_data_decide():
    """Gradients rank the widths: without data nothing can be said, with data all of it."""
    chosen = Prune(importance="taylor", **{"global": True})
    coverage = check_coverage(chosen, symbolized("vit"), example_data("vit"))
    assert 0 < coverage.share < 1
    (blind,) = cover([chosen], symbolized("vit"))
    assert {v.outcome for v in blind.verdicts.values()} == {"unknown"}
    assert "[CC105]" in blind.verdicts["patch"].text


def test_what_is_said_of_a_convolutional_network():
    """16 channels run through stem, conv1 and depthwise together; 32 come out of pointwise."""
    texts, coverage = verdicts("digits_cnn")
    assert texts["x"] == "an input of the model"
    assert texts["stem.0"] == "cuts 8 of 16 channels"
    assert texts["bn1"] == "follows the cut of %stem.0 and 2 more"
    assert texts["pointwise"] == "cuts 16 of 32 channels; inputs follow %stem.0 and 2 more"
    assert texts["mean"] == texts["head"] == "follows the cut of %pointwise"
    assert [(item.tensor, item.parameters) for item in coverage.uncovered] == [("head.bias", 10)]


def test_heads_are_said_to_be_heads():
    texts, _ = verdicts("vit")
    assert texts["blocks.0.attn.qkv"] == "cuts 2 of 4 heads"
    assert texts["blocks.0.attn.proj"] == "follows the cut of %blocks.0.attn.qkv"


@pytest.mark.parametrize(
    ("name", "op", "text"),
    [
        (
            "vit",
            "patch",
            "a norm or mean runs over it (normalized=True cuts it) at %blocks.0.norm1",
        ),
        (
            *("vit", "blocks.1.norm2"),
            "a norm or mean runs over it (normalized=True cuts it) at %blocks.0.norm1",
        ),
        ("plain_matrices", "square", "single indices are read from it at %select"),
        ("bare_norm", "b", "a running sum goes along it at %cumsum"),
        ("used_twice", "act", "width of the model's input"),
        ("padded", "stem", "padded at %pad"),
    ],
)
def test_the_reason_names_the_culprit(name, op, text):
    texts, coverage = verdicts(name)
    assert text in texts[op]
    assert coverage.verdicts[op].outcome == "cannot"


def test_an_op_without_a_rule_is_named():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Linear(6, 8), nn.LSTM(8, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(self.first(x))[0])

    graph = export_graph(Recurrent().eval(), torch.randn(4, 5, 6))
    coverage = check_coverage(Prune(), graph)
    (lstm,) = [op for op in graph if op.kind.startswith("aten.lstm")]
    assert coverage.verdicts["first"].text == (
        f"{lstm.kind} has no coupling rule for this call at %{lstm.name}"
    )
    assert coverage.verdicts[lstm.name].outcome == "cannot"
    assert coverage.share == 0.0


def test_a_ratio_that_removes_nothing():
    """1 % of 16 channels is none."""
    texts, coverage = verdicts("digits_cnn", ratio=0.01)
    assert texts["stem.0"] == "ratio=0.01 and round_to=8 leave all of it"
    assert coverage.share == 0.0


@pytest.mark.parametrize("name", ["vit", "plain_matrices", "padded", "mqa"])
def test_no_layer_is_left_alone_without_a_note(name):
    """Each op with parameters that keeps them all has a note of its own, or its width has one;
    norms, biases and positions follow a width and have none of their own."""
    graph = symbolized(name)
    context = Context(graph)
    Prune().run(graph.copy(), context)
    noted = {op for ops, _ in context.notes for op in ops.split(", ")} - {graph.name}
    (coverage,) = cover([Prune()], graph)
    left = {item.tensor.rpartition(".")[0] for item in coverage.uncovered}
    left = {op for op in left if not coverage.verdicts[op].tensors}
    assert {op for op in left if graph[op].role in ("linear", "convolution")} <= noted
    assert not silently_left(graph, coverage, context.notes)
    norms = {op.name for op in graph if (op.role or "").endswith("norm")}
    assert not norms & noted


@pytest.mark.slow
def test_data_do_not_matter_to_magnitudes():
    graph = transformer("bert")
    blind, seeing = (cover([Prune()], graph, data)[0] for data in (None, random_data(graph)))
    assert blind == seeing
