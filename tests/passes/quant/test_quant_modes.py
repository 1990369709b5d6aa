"""The modes of `quant` beside int8 in observed ranges: weights alone, at run time, 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressc_quant import Quant
from compressc_quant.rounding import column_by_column, to_nearest
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_nets import Tied, imported, random_data
from torch import nn

from compressc.backend import emit_proved, load_backend
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import lower, parse_graph, run_graph, verify
from compressc.ir.number_forms import ELEMENTS, NumberForm
from compressc.pipeline import parse_passes
from compressc.target import Target

U4 = NumberForm(ELEMENTS["u4"], axis=0, group=16, zero_point=True)
I8 = NumberForm(torch.int8, axis=0)


class Words(nn.Module):
    """A table, two layers behind a norm that a sum reads, too, and a head; padding has no part."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(50, width), nn.LayerNorm(width)
        self.up, self.gate = nn.Linear(width, 64), nn.Linear(width, 64)
        self.down, self.head = nn.Linear(64, width), nn.Linear(width, 5, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [b, 6] -> [b, 5]."""
        x = self.norm(self.table(ids))
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def words():
    ids = [
        torch.randint(0, 50, (n, 6), generator=torch.Generator().manual_seed(n)) for n in (64, 32)
    ]
    graph = imported(Words().eval(), (ids[0][:4],))
    return graph, Dataset("words", *(Split((x,)) for x in (ids[0], ids[0], ids[1])))


def off(got, want):
    """Relative root mean square error, in float64."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())


def outputs(graph, data):
    return run_graph(graph, data.test.inputs)[0]


# ---- rounding -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.booleans())
def test_no_number_is_further_off_than_half_a_step_of_its_own_range(seed, coarse):
    weight = np.random.default_rng(seed).standard_normal((3, 32)).astype(np.float32)
    form = U4 if coarse else I8
    found = to_nearest(torch.from_numpy(weight), form)
    groups = weight.reshape(3, -1, 16 if coarse else 32).astype(np.float64)
    if coarse:
        low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
        step = (high - low) / 15
        plain = np.clip(np.rint(groups / step[..., None]) + np.rint(-low / step)[..., None], 0, 15)
        plain = (plain - np.rint(-low / step)[..., None]) * step[..., None]
    else:
        step = np.abs(groups).max(-1) / 127
        plain = np.rint(groups / step[..., None]) * step[..., None]
    errors = (found.floats().double().numpy().reshape(groups.shape) - groups) ** 2
    # the range that loses least loses no more than the whole range does
    assert (errors.sum(-1) <= ((plain - groups) ** 2).sum(-1) * (1 + 1e-4)).all()
    if not coarse:
        assert (np.sqrt(errors) <= step[..., None] * 0.5001).all()


def test_gptq_keeps_the_products_and_nearest_keeps_the_weights():
    draw = torch.Generator().manual_seed(3)
    mixed = torch.randn(64, 64, generator=draw)
    x = torch.randn(4096, 64, generator=draw) @ mixed  # inputs that are not independent
    weight = torch.randn(24, 64, generator=draw)
    moment = (x.T.double() @ x.double()) / len(x)
    nearest, spread = to_nearest(weight, U4), column_by_column(weight, U4, moment)
    products = [off(x @ found.floats().float().T, x @ weight.T) for found in (nearest, spread)]
    weights = [off(found.floats(), weight) for found in (nearest, spread)]
    assert products[1] < 0.85 * products[0]
    assert weights[0] < weights[1]
    assert float(spread.values.min()) >= 0
    assert float(spread.values.max()) <= 15


def test_gptq_of_rows_with_inputs_of_their_own_is_gptq_of_each():
    draw = torch.Generator().manual_seed(4)
    mixed = torch.randn(3, 9, 9, generator=draw)
    x = torch.randn(3, 500, 9, generator=draw) @ mixed
    weight = torch.randn(6, 9, generator=draw)
    moments = (x.mT.double() @ x.double()) / 500
    found = column_by_column(weight, I8, moments, 64)
    alone = [column_by_column(weight[2 * g :][:2], I8, moments[g], 64) for g in range(3)]
    assert torch.equal(found.values, torch.cat([part.values for part in alone]))
    assert torch.equal(found.scale, torch.cat([part.scale for part in alone]))
    assert int(found.values.abs().max()) == 64
    lost = ((found.floats() - weight).reshape(3, 2, 9).double() @ x.mT.double()).norm()
    nearest = to_nearest(weight, I8, 64).floats()
    assert lost < ((nearest - weight).reshape(3, 2, 9).double() @ x.mT.double()).norm()


def test_gptq_of_independent_inputs_is_rounding_to_nearest():
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    found = column_by_column(weight, U4, torch.eye(32, dtype=torch.float64))
    assert torch.allclose(found.floats().float(), to_nearest(weight, U4).floats(), atol=1e-5)


# ---- weights alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_four_bits_are_near_and_the_graph_stays_one(words, run, method):
    graph, data = words
    found, context = run(graph, data, mode="weights", bits=4, method=method)
    verify(found, like=graph)
    text = str(found)
    assert "weight=u4{axis=0, group=32, zero_point=true}" in text
    assert str(parse_graph(text, found.tensors())) == text
    assert 0.001 < off(outputs(found, data), outputs(graph, data)) < 0.15
    assert not any("skipped" in note for op, note in context.notes if op != "norm")
    assert any(note.startswith("weights are u4 ") for _, note in context.notes)
    assert all(op.input_form is None for op in found)


def test_eight_bits_are_the_int8_layers_of_old_with_float_inputs(words, run):
    graph, data = words
    found, _ = run(graph, data, mode="weights")
    assert [op.kind for op in found if op.weight_form] == [
        *("quantized_embedding", "quantized_linear", "quantized_linear"),
        *("quantized_linear", "quantized_linear"),
    ]
    assert all(op.int8 for op in found if op.weight_form)
    assert "quantize_per_tensor" not in str(found)
    assert off(outputs(found, data), outputs(graph, data)) < 0.012


def test_awq_loses_less_where_some_columns_are_large(run):
    graph = imported(nn.Sequential(nn.Linear(32, 24), nn.ReLU()).eval(), (torch.randn(4, 32),))
    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(2))
    x[:, 5], x[:, 20] = x[:, 5] * 40, x[:, 20] * 15
    data = random_data(x)
    found = {
        method: run(graph, data, mode="weights", bits=4, method=method)[0]
        for method in ("rtn", "awq")
    }
    lost = {method: off(outputs(f, data), outputs(graph, data)) for method, f in found.items()}
    assert lost["awq"] < 0.6 * lost["rtn"]
    assert [op.kind for op in found["awq"]].count("aten.mul.Tensor") == 1
    # the factors and the weights they were put into cancel: the layer is the one that was
    (factor,) = (op.layer.value for op in found["awq"] if op.kind == "constant")
    (wide,) = (op.layer for op in found["awq"] if op.weight_form)
    (plain,) = (op.layer for op in graph if op.kind == "linear")
    assert off(wide.float_weight() * factor, plain.weight) < 0.12


def test_gptq_loses_less_than_nearest(words, run):
    graph, _ = words
    # ids in a narrow range: a few rows of the table, so inputs that are far from independent
    draw = torch.Generator().manual_seed(7)
    parts = [Split((torch.randint(0, 6, (n, 6), generator=draw),)) for n in (256, 128, 128)]
    data = Dataset("few", *parts)
    lost = {}
    for method in ("rtn", "gptq"):
        found, _ = run(graph, data, mode="weights", bits=4, method=method)
        lost[method] = off(outputs(found, data), outputs(graph, data))
    assert lost["gptq"] < lost["rtn"]


def test_groups_are_halved_where_they_do_not_divide(run):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(48, 20), nn.Linear(20, 64), nn.Linear(64, 3)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    graph = imported(Odd().eval(), (torch.randn(4, 48),))
    found, _ = run(graph, random_data(torch.randn(64, 48)), mode="weights", bits=4, group=64)
    assert [found[name].weight_form.group for name in "abc"] == [16, None, 64]


def test_a_tied_weight_is_stored_once(run):
    graph = imported(Tied().eval(), (torch.randn(4, 1, 8, 8),))
    found, _ = run(graph, mode="weights", bits=4)
    first, second = found["first"].layer, found["second"].layer
    assert first.weight is second.weight
    assert first.zero_point is second.zero_point
    verify(found)


# ---- at run time --------------------------------------------------------------------------------


def test_dynamic_layers_compute_as_onnx_says(words, run):
    graph, data = words
    found, context = run(graph, data, mode="dynamic", range="full")
    forms = {op.name: op.input_form for op in found if op.weight_form}
    assert forms.pop("table") is None
    assert all(str(form) == "u8{zero_point=true, dynamic=true}" for form in forms.values())
    layer, x = found["up"].layer, torch.randn(3, 6, 32)
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = np.clip(np.rint(x.double().numpy() / scale) + zero, 0, 255).astype(np.int64) - zero
    sums = steps @ layer.weight.numpy().astype(np.int64).T
    want = sums * layer.scale.double().numpy() * scale + layer.bias.detach().double().numpy()
    assert off(layer(x), torch.from_numpy(want)) < 1e-3
    assert off(outputs(found, data), outputs(graph, data)) < 0.05
    assert any("full range" in note for _, note in context.notes)


def test_weights_of_dynamic_layers_keep_to_half_their_range_where_sums_overflow(words):
    graph, data = words
    largest = {}
    for instructions in ("avx2", "avx512_vnni"):
        from compressc.pipeline import Context

        context = Context(teacher=graph, data=data, target=Target(instruction_set=instructions))
        found = graph.copy()
        Quant(mode="dynamic").run(found, context)
        largest[instructions] = int(found["up"].layer.weight.abs().max())
        assert int(found["table"].layer.weight.abs().max()) == 127
    assert largest == {"avx2": 64, "avx512_vnni": 127}


def test_convolutions_are_left_to_observed_ranges_and_that_is_said(teacher, run):
    found, context = run(teacher, mode="dynamic")
    assert found["stem"].kind == "conv2d"
    assert found["head"].input_form is not None
    assert any(op == "stem" and "mode=static" in note for op, note in context.notes)


# ---- 16 bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_all_is_computed_in_the_type_and_inputs_and_outputs_stay(teacher, digits, run, to, dtype):
    found, _ = run(teacher, mode="cast", to=to)
    verify(found, like=teacher)
    assert {t.dtype for t in found.tensors().values()} == {dtype}
    assert found.type_of("stem").dtype is dtype
    got, want = outputs(found, digits), outputs(teacher, digits)
    assert got.dtype is torch.float32
    assert 1e-5 < off(got, want) < 4 * torch.finfo(dtype).eps


def test_a_mask_beyond_the_type_becomes_its_largest_number(run):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.register_buffer(
                "mask", torch.tensor([0.0, 0.0, torch.finfo(torch.float32).min, 0])
            )

        def forward(self, x):
            return torch.softmax(self.a(x) + self.mask, -1)

    graph = imported(Masked().eval(), (torch.randn(4, 4),))
    data = random_data(torch.randn(64, 4))
    found, _ = run(graph, data, mode="cast", to="f16")
    got = outputs(found, data)
    assert torch.isfinite(got).all()
    assert float(got[:, 2].abs().max()) == 0
    assert off(got, outputs(graph, data)) < 0.003


# ---- what is refused before any work ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("quant(mode=dynamic,bits=4)", "'bits=4' is for mode=static or mode=weights"),
        ("quant(mode=cast,bits=8)", "'bits' is for mode=static or mode=weights or mode=dynamic"),
        ("quant(group=32)", "'group' is for bits=4 or mode=weights"),
        ("quant(mode=dynamic,method=gptq)", "'method' is for mode=static or mode=weights"),
        ("quant(method=awq)", "'method=awq' is for mode=weights"),
        ("quant(method=gptq,smooth=true)", "'method=gptq' rounds layers anew"),
        ("quant(to=f16)", "'to' is for mode=cast"),
        ("quant(mode=weights,preset=performance)", "'preset' is for mode=static"),
        ("quant(mode=weights,range=half)", "'range' is for mode=static or mode=dynamic"),
        ("quant(mode=weights,bits=5)", "bits"),
        ("quant(mode=weights,group=3)", "group"),
        ("quant(mode=float)", "mode"),
    ],
)
def test_options_that_contradict_are_refused(text, told):
    with pytest.raises(CompresscError) as caught:
        parse_passes(text)
    assert caught.value.code == "CC102"
    assert told in str(caught.value)


def test_data_are_wanted_where_they_are_looked_at():
    needs = {text: Quant(**options).requirements for text, options in {
        "static": {},
        "rtn": {"mode": "weights", "bits": 4},
        "gptq": {"mode": "weights", "method": "gptq"},
        "dynamic": {"mode": "dynamic"},
        "cast": {"mode": "cast"},
    }.items()}  # fmt: skip
    assert {text for text, need in needs.items() if need} == {"static", "gptq"}


@pytest.mark.parametrize(
    "options", [{"mode": "weights", "bits": 4}, {"mode": "dynamic"}, {"mode": "cast"}]
)
def test_coverage_says_what_run_does(words, run, options):
    from compressc.pipeline import Context

    graph, data = words
    told = Quant(**options).coverage(graph, Context(teacher=graph, data=data))
    found, _ = run(graph, data, **options)
    changed = {op.name for op in graph if op.layer and found[op.name].layer.state_dict().keys()
               != op.layer.state_dict().keys()}  # fmt: skip
    if options["mode"] != "cast":
        assert {name for name, verdict in told.items() if verdict.outcome == "does"} == changed
    else:
        assert all(verdict.outcome == "does" for verdict in told.values())


# ---- files --------------------------------------------------------------------------------------

FILES = [
    ({"mode": "weights"}, ("onnx", "openvino", "pt2")),
    ({"mode": "weights", "bits": 4}, ("onnx", "openvino", "pt2")),
    ({"mode": "weights", "bits": 4, "group": 16}, ("onnx", "openvino")),
    ({"mode": "dynamic"}, ("onnx", "openvino", "pt2")),
    ({"mode": "cast", "to": "f16"}, ("onnx", "openvino", "pt2")),
    ({"mode": "cast", "to": "bf16"}, ("openvino", "pt2")),
]


@pytest.mark.parametrize(("options", "formats"), FILES)
def test_files_of_a_text_model_compute_the_graph(words, run, tmp_path, options, formats):
    graph, data = words
    found, _ = run(graph, data, **options)
    for name in formats:
        _, proof = emit_proved(load_backend(name), found, tmp_path / name, data.test)
        assert proof.samples == 32


@pytest.mark.parametrize("options", [{"mode": "weights", "bits": 4}, {"mode": "weights"}])
def test_files_of_a_convolutional_model_compute_the_graph(teacher, digits, run, tmp_path, options):
    found, _ = run(teacher, **options)
    want = lower(teacher)(*digits.test.inputs).argmax(1)
    for name in ("onnx", "openvino"):
        backend = load_backend(name)
        path, _ = emit_proved(backend, found, tmp_path / name, digits.test.take(64))
        got = backend.load(path)(*digits.test.inputs)[0].argmax(1)
        assert float((got == want).double().mean()) > 0.95


class Next(nn.Module):
    """Scores of the next word, by the table that words are looked up in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner = nn.Embedding(96, 64), nn.Linear(64, 96)
        self.back, self.head = nn.Linear(96, 64), nn.Linear(64, 96, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [b, 6] -> [b, 6, 96]."""
        x = self.table(ids)
        return self.head(x + self.back(F.silu(self.inner(x))))


@pytest.mark.parametrize(
    "options", [{"mode": "weights"}, {"mode": "weights", "bits": 4}, {"mode": "dynamic"}]
)
def test_a_table_that_the_last_layer_multiplies_by_is_once_in_the_file(run, tmp_path, options):
    import onnx

    ids = torch.randint(0, 96, (64, 6))
    part = Split((ids,))
    found, _ = run(imported(Next().eval(), (ids[:4],)), Dataset("ids", part, part, part), **options)
    assert found["head"].layer.weight is found["table"].layer.weight
    path, _ = emit_proved(load_backend("onnx"), found, tmp_path, part)
    stored = [t for t in onnx.load(path).graph.initializer if len(t.raw_data) > 1024]
    share = options.get("bits", 8) / 8
    assert sorted(len(t.raw_data) for t in stored) == [96 * 64 * share] * 3


def test_four_bits_are_four_bits_in_the_files(words, run, tmp_path):
    import onnx
    import openvino

    graph, data = words
    found, _ = run(graph, data, mode="weights", bits=4)
    numbers = sum(op.layer.weight.numel() for op in graph if op.kind in ("linear", "embedding"))
    path, _ = emit_proved(load_backend("onnx"), found, tmp_path / "a", data.test)
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 4
    assert kinds.count("GatherBlockQuantized") == 1
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    packed = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
    assert sum(np.prod(t.dims) for t in packed) < 0.53 * numbers  # with zero points
    assert all(np.prod(t.dims) <= 128 for t in floats)  # scales and biases
    assert all(
        attribute.i == 1
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "accuracy_level"
    )
    path, _ = emit_proved(load_backend("openvino"), found, tmp_path / "b", data.test)
    model = openvino.Core().read_model(path)
    # a processor with VNNI would round activations, too
    asked = model.get_rt_info(["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    assert asked.astype(str) == "0"
    constants = [
        (node.get_element_type().get_type_name(), int(np.prod(list(node.shape))))
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    ]
    assert sum(n for kind, n in constants if kind == "u4") >= numbers - 50 * 32
