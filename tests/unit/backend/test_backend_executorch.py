"""Programs for ExecuTorch: what is written for its kernels, and (where it is installed) run."""

from importlib.util import find_spec

import pytest
import torch
from backend_graphs import float_graph, integer_result, quantized_graph, samples
from compressc_quant import Quant
from compressc_simplify import Simplify
from models import ZOO

from compressc.backend import executorch as module_under_test
from compressc.backend import load_backend
from compressc.backend.exporting import export_graph
from compressc.backend.signed_values import signed_values, unsigned_values
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program
from compressc.ir import lower, parse_graph, retype, verify
from compressc.pipeline import Context

HERE = find_spec("executorch") is not None


def test_values_become_signed_and_weights_have_zero_points_and_the_numbers_stay():
    graph, x = quantized_graph(), samples(16)
    module = export_graph(graph, (x,)).module()
    want = module(x)
    signed_values(module)
    assert torch.equal(module(x), want)
    calls = [node for node in module.graph.nodes if "quantize_per" in str(node.target)]
    assert {node.args[-1] for node in calls} == {torch.int8}
    weights = [node for node in calls if "per_channel" in str(node.target)]
    assert len(weights) == 2
    assert all(node.args[2].op == "get_attr" for node in weights)


def test_symmetric_values_become_unsigned_and_the_numbers_stay():
    plain, x = quantized_graph(), samples(16)
    graph = plain.copy()
    for op in list(graph):
        if "quantize_per_tensor" in op.kind:
            graph.set_inputs(op.name, (*op.args[:2], 0, -128, 127, torch.int8))
    retype(graph)
    made = unsigned_values(graph)
    verify(made)
    calls = [op for op in made if "quantize_per_tensor" in op.kind]
    assert {op.args[2:] for op in calls} == {(128, 0, 255, torch.uint8)}
    with torch.no_grad():
        assert torch.equal(lower(made)(x), lower(graph)(x))
    assert unsigned_values(plain) is plain


def test_without_the_package_it_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "find_spec", lambda name: None)
    with pytest.raises(CompresscError, match=r"CC503.*pip install"):
        load_backend("executorch").emit(float_graph(), tmp_path, (samples(2),))
    assert not list(tmp_path.iterdir())


def test_weights_of_layers_without_a_rounded_result_are_floats_and_the_numbers_stay():
    graph, x = quantized_graph(), samples(16)
    module = export_graph(graph, (x,)).module()
    want = module(x)
    signed_values(module)
    module_under_test._float_weights(module)
    assert torch.equal(module(x), want)
    stored = {name: t.dtype for name, t in module.named_buffers() if t.dim() > 1}
    assert sorted(t.shape for n, t in module.named_buffers() if stored.get(n) == torch.int8) == [
        (8, 2, 3, 3)
    ]
    assert [name for name, dtype in stored.items() if dtype == torch.float32] == [
        name for name, t in module.named_buffers() if t.shape == (64, 288)
    ]


def branching():
    """Two convolutions of one rounded value, the second of what the first makes of it, too."""
    form = "0.02, 128, 0, 255, dtype.u8"
    pair = "quantized_decomposed.{}quantize_per_tensor"
    conv = "{in=4, out=4, kernel=3, padding=1}"
    shape = "[b,4,6,6]"
    graph = f"""
    graph net(%x: f32{shape}) {{
      %x.q = {pair.format("")}(%x, {form}) : u8{shape}
      %x.dq = {pair.format("de")}(%x.q, {form}) : f32{shape}
      %first = quantized_conv2d(%x.dq) {conv} @first.bias @first.weight @first.scale : f32{shape}
      %sigmoid = sigmoid(%first) : f32{shape}
      %both = aten.add.Tensor(%x.dq, %sigmoid) : f32{shape}
      %both.q = {pair.format("")}(%both, {form}) : u8{shape}
      %both.dq = {pair.format("de")}(%both.q, {form}) : f32{shape}
      %next = quantized_conv2d(%both.dq) {conv} @next.bias @next.weight @next.scale : f32{shape}
      %sum = aten.add.Tensor(%next, %x.dq) : f32{shape}
      %sum.q = {pair.format("")}(%sum, {form}) : u8{shape}
      %sum.dq = {pair.format("de")}(%sum.q, {form}) : f32{shape}
      return %sum.dq
    }}"""
    draw = torch.Generator().manual_seed(5)
    tensors = {}
    for name in ("first", "next"):
        weight = torch.randint(-64, 65, (4, 4, 3, 3), generator=draw).to(torch.int8)
        tensors |= {f"{name}.weight": weight, f"{name}.scale": torch.full((4,), 0.001)}
        tensors[f"{name}.bias"] = torch.zeros(4)
    return parse_graph(graph, tensors), torch.randn(16, 4, 6, 6, generator=draw)


def test_each_reader_of_a_dequantized_value_has_its_own_and_the_numbers_stay():
    graph, x = branching()
    module = export_graph(graph, (x,)).module()
    want = module(x)
    module_under_test._read_apart(module)
    assert torch.equal(module(x), want)
    calls = [n for n in module.graph.nodes if "dequantize_per_tensor" in str(n.target)]
    assert len(calls) == 5  # three for %x.dq
    assert all(len(node.users) == 1 for node in calls)


@pytest.mark.parametrize(
    ("kernel", "integers"),
    [
        ("Convolution (NHWC, QC8) IGEMM #1", True),
        ("Deconvolution (NHWC, QS8) #2", True),
        ("Fully Connected (NC, QS8, QC8W) GEMM #1", True),
        ("Fully Connected (NC, QD8, F32, QC8W) GEMM #1", True),
        ("Fully Connected (NC, F32, QC8W) GEMM #1", False),
        ("Convolution (NHWC, F32) DWConv #1", False),
        ("Transpose (ND, X8) #1", False),
        ("Batch Matrix Multiply (NC, QS8) #1", False),
    ],
)
def test_kernels_are_told_by_their_names(kernel, integers):
    assert bool(module_under_test._INTEGER_KERNEL.match(kernel)) == integers


@pytest.mark.parametrize("text", ["executorch(most=0)", "executorch(least=1)"])
def test_wrong_options_are_errors(text):
    with pytest.raises(CompresscError, match=r"CC10[23]"):
        load_backend(text)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="executorch is not installed")
@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_a_program_computes_the_graph_at_any_batch(kind, tmp_path):
    backend = load_backend("executorch(most=20)")
    graph = float_graph() if kind == "float" else quantized_graph()
    path = backend.emit(graph, tmp_path, (samples(2),))
    run = backend.load(path)
    for count in (1, 2, 50):  # the last in three parts
        (got,) = run(samples(count))
        assert got.shape == (count, 64)
        if kind == "float":
            assert (got - lower(graph)(samples(count))).abs().max() < 1e-5
        else:
            assert (got.double() - integer_result(graph, samples(count))).abs().max() < 0.03
    found = backend.int8_layers(path, graph)
    assert [layer.op for layer in found.left] == (["conv", "fc"] if kind == "float" else ["fc"])


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="executorch is not installed")
@pytest.mark.parametrize("most", [1, 15, 16, 17])
def test_any_largest_batch_takes_smaller_ones(most, tmp_path):
    """Of as many as the example has, it took that many alone."""
    backend, graph = load_backend(f"executorch(most={most})"), float_graph()
    run = backend.load(backend.emit(graph, tmp_path, (samples(2),)))
    for count in (1, 2, 16):
        assert (run(samples(count))[0] - lower(graph)(samples(count))).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="executorch is not installed")
def test_a_damaged_program_is_an_error(tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(b"nothing")
    with pytest.raises(CompresscError, match="CC504"):
        load_backend("executorch").load(path)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="executorch is not installed")
def test_a_dense_net_is_written_and_counted(tmp_path):
    """Values that several layers read: its partitioner found that its parts go in a circle."""
    module, inputs = ZOO["dense_net"]()
    graph = import_program(export_module(module.eval(), inputs))
    Simplify().run(graph, Context(teacher=graph))
    x = torch.randn(64, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(1))
    part = Split((x,))
    Quant().run(graph, Context(teacher=graph, data=Dataset("random", part, part, part)))
    backend = load_backend("executorch")
    path = backend.emit(graph, tmp_path, (x,))
    got, want = backend.load(path)(x[:5])[0], lower(graph)(x[:5])
    assert torch.cosine_similarity(got.flatten(), want.flatten(), 0) > 0.999
    found = backend.int8_layers(path, graph)
    assert [layer.op for layer in found.left] == ["head"]
