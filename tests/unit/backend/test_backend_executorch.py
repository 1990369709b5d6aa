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


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="executorch is not installed")
def test_a_damaged_program_is_an_error(tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(b"nothing")
    with pytest.raises(CompresscError, match="CC504"):
        load_backend("executorch").load(path)
