"""Recurrent layers compute what torch's modules do, and their types are found without steps."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir import (
    derive_types,
    fit_attributes,
    lower,
    parse_graph,
    print_graph,
    random_weights,
    verify,
)
from compressc.ir.layer_building import build_layer
from compressc.ir.recurrent import Recurrent, results_like, whole_sequences

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
FORMS = [
    {"layers": layers, "bidirectional": both, "batch_first": first, "biases": biases}
    for layers, both, first, biases in itertools.product((1, 2), *[(False, True)] * 3)
]
NAMES = {"layers": "num_layers", "biases": "bias"}


def pair(kind: str, form: dict) -> tuple[Recurrent, nn.Module]:
    torch.manual_seed(0)
    theirs = CELLS[kind](5, 3, **{NAMES.get(name, name): value for name, value in form.items()})
    ours = build_layer(kind, {"in": 5, "hidden": 3, **form})
    assert list(ours._parameters) == list(theirs._parameters)
    ours._parameters.update(theirs._parameters)
    return ours, theirs


def flat(results) -> list[torch.Tensor]:
    y, states = results
    return [y, *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_it_computes_what_the_module_computes(kind, form):
    ours, theirs = pair(kind, form)
    for length in (1, 7):
        x = torch.randn(2, length, 5) if form["batch_first"] else torch.randn(length, 2, 5)
        states = [torch.randn(ours.num_layers * ours.directions, 2, 3) for _ in range(ours.STATES)]
        for given in ([], states):
            hx = (tuple(given) if len(given) > 1 else given[0]) if given else None
            with torch.no_grad():
                want, got = flat(theirs(x, hx)), ours(x, *given)
            assert all(map(torch.equal, got, want))
            blank = [tensor.to("meta") for tensor in (x, *given)]
            types = ours.to("meta")(*blank)
            assert [(t.shape, t.stride()) for t in types] == [(t.shape, t.stride()) for t in want]
            ours, theirs = pair(kind, form)


def test_dropout_between_layers_is_for_training_alone():
    layer = build_layer("lstm", {"in": 4, "hidden": 4, "layers": 2, "dropout": 0.5})
    for name in layer._parameters:
        layer._parameters[name] = nn.Parameter(torch.randn(layer._parameters[name].shape))
    x = torch.randn(6, 2, 4)
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.train()
    assert not torch.equal(layer(x)[0], layer(x)[0])


def test_a_nonlinearity_that_there_is_not():
    with pytest.raises(CompresscError, match="tanh or relu"):
        build_layer("rnn", {"in": 4, "hidden": 4, "nonlinearity": "gelu"})


TENSORS = " ".join(
    f"@y.{name}_l0{end}"
    for end in ("", "_reverse")
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
)
TEXT = f"""graph g(%x: f32[b,s,4], %h: f32[2,b,3]) {{
  %y = gru(%x, %h) {{in=4, hidden=3, batch_first=true, bidirectional=true}} {TENSORS} : (f32[b,s,6], f32[2,b,3])
  %z = getitem(%y, 0) : f32[b,s,6]
  return %z
}}"""  # noqa: E501


def test_its_text_reads_back_and_its_types_are_open():
    graph = parse_graph(TEXT)
    verify(graph)
    text = print_graph(graph)
    assert "{in=4, hidden=3, batch_first=true, bidirectional=true}" in text
    assert print_graph(parse_graph(text)) == text
    assert str(derive_types(graph)["y"]) == "(f32[b,s,6], f32[2,b,3])"
    graph = parse_graph(text, random_weights(graph))
    assert lower(graph)(torch.randn(2, 5, 4), torch.randn(2, 2, 3)).shape == (2, 5, 6)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("f32[b,s,6], f32[2,b,3])", "f32[b,s,3], f32[2,b,3])", r"f32\[b,s,6\]"),
        ("%h: f32[2,b,3]", "%h: f32[1,b,3]", "the states"),
        ("%x: f32[b,s,4]", "%x: f32[b,s,5]", "last dimension"),
    ],
)
def test_operands_that_do_not_fit(old, new, what):
    with pytest.raises(CompresscError, match=rf"CC401.*{what}"):
        verify(parse_graph(TEXT.replace(old, new, 1)))


def test_torch_is_as_it_was_afterwards():
    call = torch.ops.aten.lstm.input
    before = dict(call.py_kernels)
    with whole_sequences():
        assert results_like in call.py_kernels.values()
    assert call.py_kernels == before


@pytest.mark.parametrize("kind", CELLS)
def test_sizes_are_fitted_to_cut_tensors(kind):
    form = {"layers": 2, "bidirectional": True}
    layer = build_layer(kind, {"in": 6, "hidden": 4, **form})
    wanted = build_layer(kind, {"in": 5, "hidden": 3, **form})
    layer._parameters = wanted._parameters
    fit_attributes(kind, layer)
    assert (layer.input_size, layer.hidden_size) == (5, 3)
