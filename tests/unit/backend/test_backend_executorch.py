"""Programs for ExecuTorch: what is written for its kernels, and (where it is installed) run."""

from importlib.util import find_spec

import pytest
import torch
from backend_graphs import float_graph, integer_result, quantized_graph, samples

from compressc.backend import executorch as module_under_test
from compressc.backend import load_backend
from compressc.backend.exporting import export_graph
from compressc.backend.signed_values import signed_values, unsigned_values
from compressc.errors import CompresscError
from compressc.ir import lower, retype, verify

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
