"""Every layer kind answers for each of its traits, and every move moves numbers and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compressc.analysis.coupling_rules import ROLES as COUPLED
from compressc.analysis.macs import ROLES as COUNTED
from compressc.ir import LAYERS, Op, Ref, fit_attributes, layer_attributes, layer_tensors
from compressc.ir.layer_building import build_layer
from compressc.ir.layers import NORMS, PRODUCTS, ROLES
from compressc.ir.moves import MOVES

#: Kind -> attributes of a small layer, and the sizes of it that a cut may change.
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"in": 6, "out": 4}, {"in": 5, "out": 3}),
    **{
        f"{kind}{n}d": ({"in": 6, "out": 4, "kernel": (3,) * n, "groups": 2}, {"in": 2, "out": 2})
        for kind in ("conv", "conv_transpose")
        for n in (1, 2, 3)
    },
    **{f"batch_norm{n}d": ({"features": 6}, {"features": 4}) for n in (1, 2, 3)},
    "layer_norm": ({"shape": (6,)}, {"shape": (4,)}),
    "rms_norm": ({"shape": (6,), "eps": 1e-6}, {"shape": (4,)}),
    "group_norm": ({"groups": 2, "channels": 6}, {"channels": 4}),
    "embedding": ({"rows": 6, "width": 4}, {"rows": 5, "width": 3}),
    "dropout": ({"p": 0.1}, {}),
    **{kind: ({"in": 6, "hidden": 4}, {}) for kind in ("lstm", "gru", "rnn")},
    "max_pool2d": ({"kernel": 2, "stride": 2}, {}),
    "avg_pool2d": ({"kernel": 2, "stride": 2}, {}),
    "adaptive_avg_pool2d": ({"size": 1}, {}),
}


def small(kind: str, **changed: Any) -> nn.Module:
    return build_layer(kind, SMALL.get(kind.removeprefix("quantized_"), ({}, {}))[0] | changed)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_kind_has_a_role(kind):
    assert LAYERS[kind].role in ROLES
    assert LAYERS[kind].int8 == kind.startswith("quantized_")


def test_every_role_is_taken_and_answered_for():
    assert {layer.role for layer in LAYERS.values()} == set(ROLES)
    assert set(COUPLED) == set(COUNTED) == set(ROLES)
    assert set(ROLES) > PRODUCTS | NORMS


HELD = [kind for kind, layer in LAYERS.items() if layer.role != "tensor"]


@pytest.mark.parametrize("kind", HELD)
def test_the_dimensions_of_a_weight_are_what_the_kind_says(kind):
    layer: Any = small(kind)
    known = LAYERS[kind]
    assert bool(known.weight) == any(name == "weight" for name, _ in layer_tensors(layer))
    for dim, text in enumerate(known.weight):
        size = layer.weight.shape[dim] * (layer.groups if "conv" in kind and dim == 1 else 1)
        made = getattr(layer, known.attributes[text])
        assert made == ((size,) if text == "shape" else size)


@pytest.mark.parametrize("kind", [kind for kind in HELD if LAYERS[kind].weight])
def test_attributes_are_fitted_to_cut_tensors(kind):
    cut = SMALL[kind.removeprefix("quantized_")][1]
    layer, wanted = small(kind), small(kind, **cut)
    layer._parameters, layer._buffers = wanted._parameters, wanted._buffers
    fit_attributes(kind, layer)
    found, expected = (layer_attributes(Op("x", kind, layer=own)) for own in (layer, wanted))
    assert found == expected


def test_norms_without_gains_are_fitted_by_their_statistics():
    layer: Any = nn.BatchNorm2d(6, affine=False)
    layer.running_mean = torch.zeros(4)
    fit_attributes("batch_norm2d", layer)
    assert layer.num_features == 4
    plain = nn.LayerNorm(6, elementwise_affine=False)
    fit_attributes("layer_norm", plain)
    assert plain.normalized_shape == (6,)


@pytest.mark.parametrize("kind", [kind for kind in HELD if not LAYERS[kind].weight])
def test_what_takes_integers_runs_on_them(kind):
    x = torch.ones(1, 2, 4, 4, dtype=torch.int64)
    if LAYERS[kind].integers:
        assert small(kind)(x).numel()
    elif LAYERS[kind].role == "activation":
        with pytest.raises(RuntimeError):
            small(kind)(x)


#: Calls that want more than a tensor [2, 1, 3] -> what.
MORE: dict[str, tuple[Any, ...]] = {
    "to.dtype": (torch.float64,),
    "type_as": (torch.zeros((), dtype=torch.float64),),
    "unsqueeze": (0,),
    "permute": ((2, 0, 1),),
    "transpose.int": (0, 2),
    "movedim.int": (0, 2),
    "moveaxis.int": (0, 2),
    "swapaxes": (0, 2),
    "swapdims": (0, 2),
    "reshape": ((3, 2),),
    "view": ((3, 2),),
    "_unsafe_view": ((3, 2),),
    "flatten.using_ints": (),
    "unflatten.int": (2, (3, 1)),
    "reshape_as": (torch.zeros(3, 2),),
    "view_as": (torch.zeros(3, 2),),
    "select.int": (2, 1),
    "slice.Tensor": (2, 1, 3),
    "narrow": (2, 1, 2),
    "unbind.int": (2,),
    "chunk": (2, 2),
    "split.Tensor": (2, 2),
    "split_with_sizes": ((1, 2), 2),
    "tensor_split.sections": (2, 2),
    "hsplit.int": (1,),
    "vsplit.int": (2,),
    "dsplit.int": (3,),
    "unsafe_chunk": (2, 2),
    "unsafe_split.Tensor": (1, 2),
    "unsafe_split_with_sizes": ((1, 2), 2),
    "expand": ((2, 4, 3),),
    "expand_as": (torch.zeros(2, 4, 3),),
    "broadcast_to": ((2, 4, 3),),
    "repeat": ((1, 4, 1),),
    "tile": ((4, 1),),
}
SQUARE = ("t", "mT", "mH", "adjoint", "numpy_T")


def moved(name: str, x: torch.Tensor) -> list[torch.Tensor]:
    packet = getattr(torch.ops.aten, name)
    overload = next((key for key in MORE if key.partition(".")[0] == name), name)
    call = getattr(packet, overload.partition(".")[2] or "default")
    result = call(x, *MORE.get(overload, ()))
    return list(result) if isinstance(result, list | tuple) else [result]


@pytest.mark.parametrize("packet", [packet for packet in MOVES if packet != "getitem"])
def test_a_move_hands_on_the_numbers_it_is_given(packet):
    name = packet.removeprefix("aten.")
    x = torch.arange(6.0).reshape((2, 3) if name in SQUARE else (2, 1, 3))
    results = moved(name, x)
    numbers = [number for result in results for number in result.flatten().tolist()]
    in_order = list(range(6))
    match MOVES[packet]:
        case "same":
            assert numbers == in_order
            assert results[0].shape == x.shape
        case "cast":
            assert numbers == in_order
            assert results[0].shape == x.shape
        case "ones":
            assert numbers == in_order
            assert [n for n in results[0].shape if n > 1] == [2, 3]
        case "reorder":
            assert sorted(numbers) == in_order
            assert numbers != in_order
        case "reshape":
            assert numbers == in_order
            assert results[0].shape != x.shape
        case "part":
            assert set(numbers) <= set(in_order)
            assert len(numbers) == len(set(numbers))
        case "copies":
            assert set(numbers) == set(in_order)
            assert len(numbers) == 24


def test_an_op_says_what_it_is():
    x = Ref("x")
    softmax = Op("p", "aten.softmax.int", (x, -1))
    assert (softmax.packet, softmax.role, softmax.move, softmax.int8) == (
        *("aten.softmax", None, None),
        False,
    )
    norm = Op("n", "batch_norm2d", (x,), layer=nn.BatchNorm2d(2))
    assert (norm.packet, norm.role, norm.move) == ("batch_norm2d", "batch_norm", None)
    assert Op("v", "aten.transpose.int", (x, 0, 1)).move == "reorder"
    assert Op("w", "aten.slice_scatter", (x, x)).move is None
    assert Op("d", "dropout", (x,), layer=nn.Dropout()).move == "same"
    assert Op("q", "quantized_linear", (x,)).int8
    assert Op("i", "input").role is None
