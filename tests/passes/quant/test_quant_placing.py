"""Results of integer convolutions are integers where a later layer reads them, and only there."""

import onnx
import onnxruntime
import pytest
import torch
from compressc_quant.placing import round_joins, round_once, round_results
from torch import nn

from compressc.analysis.integers import is_integer
from compressc.backend import load_backend
from compressc.ir import lower, parse_graph, retype, verify

Q = "quantized_decomposed.quantize_per_tensor"
DQ = "quantized_decomposed.dequantize_per_tensor"
FORM = "0.02, 0, 0, 255, dtype.u8"


def convolutions(middle, result, names=()):
    """conv a -> middle -> conv b -> head; the middle's value is %m."""
    conv = "{in=4, out=4, kernel=3, padding=1}"
    text = f"""
    graph net(%x: f32[b,4,6,6]) {{
      %x.q = {Q}(%x, {FORM}) : u8[b,4,6,6]
      %x.dq = {DQ}(%x.q, {FORM}) : f32[b,4,6,6]
      %a = quantized_conv2d(%x.dq) {conv} @a.bias @a.weight @a.scale : f32[b,4,6,6]
      {middle}
      %m.q = {Q}(%m, {FORM}) : u8[b,4,6,6]
      %m.dq = {DQ}(%m.q, {FORM}) : f32[b,4,6,6]
      %b = quantized_conv2d(%m.dq) {conv} @b.bias @b.weight @b.scale : f32[b,4,6,6]
      return {result}
    }}"""
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for name in ("a", "b"):
        weight = torch.randint(-64, 65, (4, 4, 3, 3), generator=draw)
        tensors[f"{name}.weight"] = weight.to(torch.int8)
        tensors[f"{name}.scale"] = torch.full((4,), 0.004)
        tensors[f"{name}.bias"] = torch.randn(4, generator=draw) * 0.1
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensors[f"m.{name}"] = torch.rand(4, generator=draw) + 0.5
    return parse_graph(text, {k: v for k, v in tensors.items() if f"@{k}" in text})


NORM = "batch_norm2d(%{}) {{features=4}} @m.weight @m.bias @m.running_mean @m.running_var"
SILU = "%m = silu(%a) : f32[b,4,6,6]"
BEHIND = {
    "silu": (SILU, "%b", ["a"]),
    "sum": ("%m = aten.add.Tensor(%a, %x) : f32[b,4,6,6]", "%b", ["a"]),
    "relu": ("%m = relu(%a) : f32[b,4,6,6]", "%b", []),  # quantized already
    "relu, silu": (
        "%r = relu(%a) : f32[b,4,6,6]\n%m = silu(%r) : f32[b,4,6,6]",
        *("%b", ["r"]),
    ),
    "an output": (SILU, "[%a, %b]", []),
    "nothing reads it in int8": (SILU, "[%m, %x]", None),
}


def samples(count=64):
    return torch.rand(count, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * 5


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("case", BEHIND)
def test_where_a_quantizer_is_put(case, symmetric):
    middle, result, wanted = BEHIND[case]
    graph = convolutions(middle, result)
    if wanted is None:
        for name in ("b", "m.dq", "m.q"):
            graph.erase(name)
        wanted = []
    before, x = graph.copy(), samples()
    found = round_results(graph, [(x[:32],), (x[32:],)], symmetric)
    retype(graph)
    verify(graph, like=before)
    assert found == wanted
    if not wanted:
        assert str(graph) == str(before)
        return
    (name,) = wanted
    assert [user.kind for user in graph.users(name)] == [Q]
    with torch.no_grad():
        value = lower(before, also=[name])(x)[1][0]
        want, got = lower(before)(x), lower(graph)(x)
    _, scale, zero, least, most, _ = graph[f"{name}.q"].args
    halves = [torch.aminmax(half) for half in (value[:32], value[32:])]
    high, low = (max(0.0, sum(float(h.max) for h in halves) / 2) for _ in "ab")
    low = min(0.0, sum(float(h.min) for h in halves) / 2)
    if symmetric:
        assert zero == 0
        assert scale * most == pytest.approx(max(high, -low), rel=1e-5)
    else:
        assert scale * (most - zero) == pytest.approx(high, abs=scale)
        assert scale * (least - zero) == pytest.approx(low, abs=scale)
    assert (got - want).norm() < 0.03 * want.norm()


def test_where_what_is_read_was_padded_a_quantizer_is_put_too():
    graph = convolutions("%m = aten.tanh(%a) : f32[b,4,6,6]", "%b")
    text = str(graph).replace("padding=1}", "}", 1).replace("(%x.dq) {in=4", "(%p) {in=4", 1)
    pad = '%p = aten.pad(%x.dq, [1, 1, 1, 1], "constant", none) : f32[b,4,8,8]'
    lines = text.split("\n")
    place = next(i for i, line in enumerate(lines) if "%a = " in line)
    lines[place] = lines[place].replace(", }", "}")
    padded = parse_graph("\n".join([*lines[:place], pad, *lines[place:]]), graph.tensors())
    assert round_results(padded, [(samples(32),)], symmetric=False) == ["a"]
    verify(padded)


def test_a_value_that_is_quantized_for_one_reader_is_so_for_all():
    middle = f"""
      %a.q = {Q}(%a, {FORM}) : u8[b,4,6,6]
      %a.dq = {DQ}(%a.q, {FORM}) : f32[b,4,6,6]
      %s = silu(%a) : f32[b,4,6,6]
      %m = aten.add.Tensor(%a.dq, %s) : f32[b,4,6,6]"""
    graph = convolutions(middle, "%b")
    assert round_results(graph, [(samples(),)], symmetric=False) == ["a"]
    assert graph["s"].inputs == ("a.dq",)


MOVED = "%m = max_pool2d(%x.dq) {kernel=3, stride=1, padding=1} : f32[b,4,6,6]"


@pytest.mark.parametrize("case", ["moved", "read elsewhere", "computed"])
def test_what_is_moved_between_two_ranges_is_rounded_once(case):
    wider = FORM.replace("0.02", "0.05")
    middle = MOVED if case == "moved" else f"%r = relu(%x.dq) : f32[b,4,6,6]\n{MOVED}"
    if case == "computed":
        middle = middle.replace("(%x.dq) {", "(%r) {")
    text = str(convolutions(middle, "%b" if case != "read elsewhere" else "[%b, %r]"))
    lines = [line.replace("0.02", "0.05") if "%m.q" in line else line for line in text.split("\n")]
    lines = [line for line in lines if "%a = " not in line]
    tensors = convolutions(middle, "%b").tensors()
    graph = parse_graph("\n".join(lines), {k: v for k, v in tensors.items() if k[0] == "b"})
    before, x = graph.copy(), samples(8)
    assert round_once(graph) == (["x"] if case == "moved" else [])
    retype(graph)
    verify(graph)
    if case != "moved":
        assert str(graph) == str(before)
        return
    assert str(graph).count(wider) == 4
    steps = torch.nn.functional.max_pool2d(torch.round(x / 0.05).clamp(0, 255), 3, 1, 1)
    layer = graph["b"].layer
    want = torch.nn.functional.conv2d(steps * 0.05, layer.float_weight(), layer.bias, padding=1)
    assert torch.allclose(lower(graph)(x), want, atol=1e-5)


def joined(form, reader):
    """conv a and x, both integers, in a concatenation that `reader` reads."""
    return f"""
    graph net(%x: f32[b,2,6,6]) {{
      %x.q = {Q}(%x, {FORM}) : u8[b,2,6,6]
      %x.dq = {DQ}(%x.q, {FORM}) : f32[b,2,6,6]
      %s = silu(%x) : f32[b,2,6,6]
      %s.q = {Q}(%s, {form}) : u8[b,2,6,6]
      %s.dq = {DQ}(%s.q, {form}) : f32[b,2,6,6]
      %join = aten.cat([%x.dq, %s.dq], 1) : f32[b,4,6,6]
      %pool = max_pool2d(%join) {{kernel=2, stride=2}} : f32[b,4,3,3]
      {reader}
      return %r
    }}"""


CONV = (
    "%r = quantized_conv2d(%{}) {{in=4, out=4, kernel=1}} @r.bias @r.weight @r.scale"
    " : f32[b,4,{n},{n}]"
)
OTHER = "0.03, 0, 0, 255, dtype.u8"


@pytest.mark.parametrize(
    ("form", "reader", "wanted"),
    [
        (FORM, CONV.format("join", n=6), ["join"]),
        (FORM, CONV.format("pool", n=3), ["join"]),
        (OTHER, CONV.format("join", n=6), []),  # it would round once more
        (FORM, "%r = silu(%join) : f32[b,4,6,6]", []),
    ],
)
def test_a_layer_behind_a_concatenation_of_integers_reads_integers(form, reader, wanted):
    tensors = {
        "r.weight": torch.randint(-64, 65, (4, 4, 1, 1)).to(torch.int8),
        "r.scale": torch.full((4,), 0.004),
        "r.bias": torch.zeros(4),
    }
    graph = parse_graph(joined(form, reader), tensors if "@r" in reader else {})
    before, x = graph.copy(), samples()[:, :2]
    assert round_joins(graph) == wanted
    retype(graph)
    verify(graph, like=before)
    assert is_integer(graph, graph["r"].inputs[0]) is bool(wanted)
    with torch.no_grad():
        assert torch.equal(lower(graph)(x), lower(before)(x))


def test_onnx_runtime_computes_a_fire_module_in_integers(run, tmp_path):
    from quant_nets import imported, random_data

    class Fire(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
            self.c, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
            return self.head(self.c(x).relu().mean((2, 3)))

    torch.manual_seed(0)
    x = torch.randn(32, 3, 6, 6)
    graph, _ = run(imported(Fire().eval(), (x[:4],)), random_data(x))
    backend = load_backend("onnx")
    path = backend.emit(graph, tmp_path, (x[:4],))
    ran = backend.int8_layers(path, graph)
    assert ran is not None
    assert (ran.ran, ran.of) == (4, 4)


@pytest.mark.parametrize("preset", ["mixed", "performance"])
@pytest.mark.parametrize("last", [nn.BatchNorm2d, nn.SiLU, nn.Hardswish])
def test_onnx_runtime_takes_its_integer_convolution(last, preset, run, tmp_path):
    from quant_nets import imported, random_data

    torch.manual_seed(0)
    layers = []
    for _ in range(2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
        layers += [last(8)] if last is nn.BatchNorm2d else [last()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 3))
    x = torch.randn(64, 8, 6, 6)
    net.train()(x)
    graph, _ = run(imported(net.eval(), (x[:4],)), random_data(x), preset=preset)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    path = load_backend("onnx").emit(graph, tmp_path, (x[:4],))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("QLinearConv") == 2
    assert not {"Conv", "FusedConv"} & set(kinds)
    model = onnx.load(path).graph
    values = {node.output[0] for node in model.node if node.op_type == "QuantizeLinear"}
    zeros = {node.input[2] for node in model.node if {*node.input, *node.output} & values}
    kinds_of_zeros = {t.data_type for t in model.initializer if t.name in zeros}
    assert kinds_of_zeros == {onnx.TensorProto.UINT8}  # also of symmetric ranges
    with torch.no_grad():
        want, got = net(x), lower(graph)(x)
    assert (got - want).norm() < 0.05 * want.norm()
