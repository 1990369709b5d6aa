"""Number forms: text, packing, and what the stored integers stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressc.analysis import overview
from compressc.analysis.cost import total_cost
from compressc.analysis.stored import bytes_by_type
from compressc.errors import CompresscError
from compressc.ir import load_bundle, lower, parse_graph, parse_type, save_bundle, verify
from compressc.ir.number_forms import (
    ELEMENTS,
    INT8_PER_CHANNEL,
    NumberForm,
    pack,
    round_dynamically,
    unpack,
)
from compressc.ir.quantized import QUANTIZED, quantized_layer, stored_types
from compressc.ir.types import TensorType, parse_number_form

I4, U4 = ELEMENTS["i4"], ELEMENTS["u4"]
FORMS = st.builds(
    NumberForm,
    st.sampled_from(list(ELEMENTS.values())),
    axis=st.integers(0, 3),
    group=st.none() | st.integers(1, 256),
    zero_point=st.booleans(),
    dynamic=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(FORMS, st.lists(st.integers(1, 99), max_size=3))
def test_forms_and_types_with_them_read_back(form, shape):
    assert parse_number_form(str(form)) == form
    type_ = TensorType(form.dtype, tuple(shape), form)
    assert parse_type(str(type_)) == type_


def test_forms_print_as_documented():
    form = NumberForm(I4, axis=0, group=32)
    assert str(form) == "i4{axis=0, group=32}"
    assert str(TensorType(I4, (64, 576), form)) == "i4[64,576]{axis=0, group=32}"
    assert str(NumberForm(torch.uint8, zero_point=True, dynamic=True)) == (
        "u8{zero_point=true, dynamic=true}"
    )
    assert str(NumberForm(torch.int8)) == "i8{}"


@pytest.mark.parametrize(
    "text",
    [
        *("i4", "i5{}", "i4{axis=true}", "i4{axis=0, group=0}", "i4{group=32}", "i4{axis=0}}"),
        *("i4{axis}", "f32{axis=0}", "i4{zero_point=1}", "i4{x=1}", "i4{axis=0, axis=1"),
    ],
)
def test_text_that_is_no_form_is_refused(text):
    with pytest.raises(CompresscError) as caught:
        parse_number_form(text)
    assert caught.value.code == "CC402"


@pytest.mark.parametrize(
    ("form", "least", "most"),
    [
        (NumberForm(I4, axis=0), -7, 7),
        (NumberForm(I4, axis=0, zero_point=True), -8, 7),
        (NumberForm(U4, axis=0), 0, 15),
        (INT8_PER_CHANNEL, -127, 127),
        (NumberForm(torch.uint8), 0, 255),
    ],
)
def test_a_form_knows_its_integers(form, least, most):
    assert (form.least, form.most) == (least, most)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([I4, U4]), st.integers(1, 5), st.integers(1, 9))
def test_packing_is_exact_and_has_the_first_number_in_the_low_half(data, dtype, rows, columns):
    form = NumberForm(dtype, axis=0, zero_point=True)
    number = st.integers(form.least, form.most)
    row = st.lists(number, min_size=columns, max_size=columns)
    values = np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    stored = pack(torch.from_numpy(values), form)
    padded = np.pad(values % 16, [(0, 0), (0, columns % 2)])
    assert stored.numpy().tolist() == (padded[:, ::2] + 16 * padded[:, 1::2]).tolist()
    assert stored.dtype is torch.uint8
    assert unpack(stored, form, columns).tolist() == values.tolist()


LAYERS = {
    "linear": (nn.Linear(24, 5), torch.randn(3, 24)),
    "conv1d": (nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(2, 4, 2), torch.randn(1, 2, 5, 5, 5)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3), torch.randn(2, 4, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)),
    "conv_transpose3d": (nn.ConvTranspose3d(2, 3, 2), torch.randn(1, 2, 3, 3, 3)),
    "embedding": (nn.Embedding(9, 24), torch.tensor([[0, 3], [8, 1]])),
}

GROUPS = dict(zip(LAYERS, (8, 6, 6, 8, 6, 9, 6, 12), strict=True))


def stored(layer, form, group):
    """Random integers of the form for a layer, as it stores them, and the weight in float64."""
    draw = np.random.default_rng(5)
    shape = tuple(layer.weight.shape)
    rows, count = shape[0], math.prod(shape[1:])
    groups = count // group if group else 1
    values = draw.integers(form.least, form.most + 1, (rows, count))
    scale = draw.uniform(0.01, 0.1, (rows, groups)).astype(np.float32)
    zeros = draw.integers(form.least, form.most + 1, (rows, groups)) * form.zero_point
    weight = (values.reshape(rows, groups, -1) - zeros[..., None]) * scale[..., None].astype(float)
    tensors = [pack(torch.from_numpy(values), form)]
    if not form.packed:
        tensors[0] = tensors[0].reshape(shape)
    tensors.append(torch.from_numpy(scale if group else scale[:, 0]))
    if form.zero_point:
        tensors.append(pack(torch.from_numpy(zeros), form))
    return tensors, torch.from_numpy(weight.reshape(shape))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("group", [False, True])
def test_a_layer_computes_with_what_its_integers_stand_for(kind, element, zero_point, group):
    layer, x = LAYERS[kind]
    group = group and GROUPS[kind]
    form = NumberForm(ELEMENTS[element], axis=0, group=group or None, zero_point=zero_point)
    tensors, weight = stored(layer, form, group)
    got = quantized_layer(kind, layer, *tensors, form=form)(x).double()
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update({**layer.__dict__, "_parameters": dict(layer._parameters)})
    twin._parameters = {
        name: nn.Parameter((weight if name == "weight" else value).double())
        for name, value in layer._parameters.items()
    }
    want = twin(x if x.dtype is torch.int64 else x.double())
    assert torch.allclose(got, want, atol=1e-4, rtol=1e-5)


def test_every_kind_is_tried():
    assert set(LAYERS) == set(QUANTIZED)


TEXT = """
graph net(%ids: i64[b,s]) {
  %table = quantized_embedding(%ids) {rows=9, width=24, weight=u4{axis=0, group=8, zero_point=true}} @table.weight @table.scale @table.zero_point : f32[b,s,24]
  %fc = quantized_linear(%table) {in=24, out=5, weight=i4{axis=0, group=12}} @fc.bias @fc.weight @fc.scale : f32[b,s,5]
  %last = quantized_linear(%fc) {in=5, out=4, bias=false, input=u8{zero_point=true, dynamic=true}} @last.weight @last.scale : f32[b,s,4]
  return %last
}
"""  # noqa: E501


def graph():
    draw = torch.Generator().manual_seed(1)
    return parse_graph(
        TEXT,
        {
            "table.weight": torch.randint(0, 256, (9, 12), generator=draw).to(torch.uint8),
            "table.scale": torch.rand(9, 3, generator=draw),
            "table.zero_point": torch.randint(0, 256, (9, 2), generator=draw).to(torch.uint8),
            "fc.bias": torch.randn(5, generator=draw),
            "fc.weight": torch.randint(0, 256, (5, 12), generator=draw).to(torch.uint8),
            "fc.scale": torch.rand(5, 2, generator=draw),
            "last.weight": torch.randint(-127, 128, (4, 5), generator=draw).to(torch.int8),
            "last.scale": torch.rand(4, generator=draw),
        },
    )


def test_a_graph_with_forms_verifies_prints_and_is_packed_on_disk(tmp_path):
    found = graph()
    verify(found)
    assert str(found).strip() == str(parse_graph(TEXT)).strip()
    assert str(parse_graph(str(found), found.tensors())) == str(found)
    save_bundle(found, tmp_path)
    again = load_bundle(tmp_path)
    ids = torch.tensor([[0, 3, 8]])
    assert torch.equal(lower(again)(ids), lower(found)(ids))
    # 9 x 12 packed, 9 x 3 floats, 9 x 2 packed; 5 floats, 5 x 12 packed, 5 x 2 floats; ...
    held = 108 + 108 + 18 + 20 + 60 + 40 + 20 + 16
    assert sum(t.nbytes for t in again.tensors().values()) == held
    sizes = {"u4": 108 + 18, "f32": 108 + 20 + 40 + 16, "i4": 60, "i8": 20}
    assert bytes_by_type(found) == sizes == overview(found).bytes_by_type
    cost = total_cost(found)
    assert (cost.parameters, cost.bytes) == (9 * 24 + 5 * 24 + 5 + 4 * 5, held)


def test_what_a_layer_holds_has_types():
    types = {name: str(type_) for name, _, type_ in stored_types(graph()["table"])}
    assert types == {
        "weight": "u4[9,24]{axis=0, group=8, zero_point=true}",
        "scale": "f32[9,3]",
        "zero_point": "u4[9,3]",
    }


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("i4{axis=0, group=12}", "i4{axis=0, group=7}", "CC402"),  # does not divide 24
        ("i4{axis=0, group=12}", "i4{axis=0, group=24}", "CC402"),  # another shape of scales
        ("i4{axis=0, group=12}", "i4{axis=1, group=12}", "CC402"),
        ("i4{axis=0, group=12}", "i4{axis=0, group=12, dynamic=true}", "CC402"),
        ("input=u8{zero_point=true, dynamic=true}", "input=u8{zero_point=true}", "CC402"),
    ],
)
def test_a_form_that_does_not_fit_its_layer_is_refused(old, new, code):
    assert old in TEXT
    with pytest.raises(CompresscError) as caught:
        parse_graph(TEXT.replace(old, new), graph().tensors())
    assert caught.value.code == code


def test_a_value_has_no_form_of_its_own():
    text = TEXT.replace(": f32[b,s,5]", ": u8[b,s,5]{axis=0}")
    with pytest.raises(CompresscError, match="CC401"):
        verify(parse_graph(text, graph().tensors()))


def test_values_are_rounded_dynamically_as_onnx_has_it():
    x = torch.tensor([[-1.0, 0.5, 0.6004, 3.0], [2.9, -0.3, 0.0, 1.0]])
    got = round_dynamically(x, NumberForm(torch.uint8, zero_point=True, dynamic=True))
    scale = np.float32(4.0) / np.float32(255)
    zero = np.rint(np.float32(1.0) / scale)
    steps = np.clip(np.rint(x.numpy() / scale) + zero, 0, 255)
    assert torch.allclose(got, torch.from_numpy((steps - zero) * scale), atol=1e-7)
    assert float(got[1, 2]) == 0
    positive = torch.tensor([2.0, 4.0])  # the range has zero in it
    assert torch.allclose(
        round_dynamically(positive, NumberForm(torch.uint8, zero_point=True, dynamic=True)),
        torch.from_numpy(np.rint(np.float32([2, 4]) / (4 / 255)) * 4 / 255).float(),
    )
    zeros = torch.zeros(3)
    assert torch.equal(
        round_dynamically(zeros, NumberForm(torch.uint8, zero_point=True, dynamic=True)), zeros
    )
