"""Compiled packages: what their source says, and (slow) what they compute."""

import shutil
import zipfile

import pytest
import torch
from backend_graphs import float_graph, integer_result, quantized_graph, samples

from compressc.backend import aotinductor as module_under_test
from compressc.backend import load_backend
from compressc.errors import CompresscError
from compressc.ir import lower

SOURCE = """
    constants_info_[0].name = "fc_scale";
    constants_info_[0].dtype = 6;
    constants_info_[0].original_fqn = "fc.scale";
    constants_info_[1].name = "conv_scale";
    constants_info_[1].original_fqn = "conv.scale";
    CHECK(aoti_torch_cpu__qlinear_pointwise_tensor(buf1, x_scale, x_zp, _frozen_param0, fc_scale, 3));
    CHECK(aoti_torch_cpu_convolution(buf1, x_scale, x_zp, _frozen_param1, conv_scale, 3));
"""  # noqa: E501


def packed(path, source):
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("data/a.wrapper.cpp", source)
    return path


def test_the_source_says_which_layers_are_computed_in_integers(tmp_path):
    backend = load_backend("aotinductor")
    found = backend.int8_layers(packed(tmp_path / "model.pt2", SOURCE), quantized_graph())
    assert (found.ran, found.of) == (1, 2)
    assert [layer.op for layer in found.left] == ["conv"]


def test_without_a_compiler_it_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test.shutil, "which", lambda name: None)
    with pytest.raises(CompresscError, match=r"CC503.*no C\+\+ compiler"):
        load_backend("aotinductor").emit(float_graph(), tmp_path, (samples(2),))
    assert not list(tmp_path.iterdir())


def test_a_damaged_package_is_an_error(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(CompresscError, match="CC504"):
        load_backend("aotinductor").load(path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_a_package_computes_the_graph_at_any_batch(kind, tmp_path):
    backend = load_backend("aotinductor")
    graph = float_graph() if kind == "float" else quantized_graph()
    path = backend.emit(graph, tmp_path, (samples(2),))
    assert list(path.parent.iterdir()) == [path]
    run = backend.load(path)
    for count in (1, 2, 50):
        (got,) = run(samples(count))
        assert got.shape == (count, 64)
        if kind == "float":
            assert (got - lower(graph)(samples(count))).abs().max() < 1e-5
            continue
        want = integer_result(graph, samples(count))
        assert (got.double() - want).abs().max() < 0.03
        assert torch.cosine_similarity(got.double().flatten(), want.flatten(), 0) > 0.9999
    found = backend.int8_layers(path, graph)  # no kernel for the flattened input of the other one
    assert [layer.op for layer in found.left] == (["conv", "fc"] if kind == "float" else ["fc"])
