"""A ViT with fused qkv attention goes the same way; nobody names its heads."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

import compressc
from compressc.data import open_dataset
from compressc.ir import Graph


@pytest.fixture(scope="module")
def compiled(vit_teacher: Path) -> compressc.Compiled:
    return compressc.compile(
        str(vit_teacher), "prune(ratio=0.5),distill(epochs=8),quant", data="digits"
    )


def heads(graph: Graph) -> list[int]:
    """Size of the heads dimension of every attention."""
    kind = "aten.scaled_dot_product_attention"
    return [graph.type_of(op.name).shape[1] for op in graph if op.kind == kind]  # type: ignore[misc]


def test_whole_heads_go(compiled: compressc.Compiled) -> None:
    before, after = heads(compiled.teacher), heads(compiled.graph)
    assert [count // 2 for count in before] == after
    kept = [text for _, text in compiled.passes[0].notes if "heads" in text and "kept" in text]
    assert len(kept) == len(before)


def test_accuracy_comes_back_and_the_file_runs(
    compiled: compressc.Compiled, tmp_path: Path
) -> None:
    report = compiled.save(tmp_path / "out", formats=["onnx"], batches=[])
    (file,) = report.files
    # docs/results.md: 1.1 points are lost at the defaults, half of them to int8
    assert file.accuracy >= report.teacher.accuracy - 0.02  # type: ignore[operator]
    assert report.passes[0].accuracy < file.accuracy  # type: ignore[operator]
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"))
    test = open_dataset("digits").test
    feed = {session.get_inputs()[0].name: test.inputs[0][:7].numpy()}
    (logits,) = session.run(None, feed)
    assert logits.shape == (7, 10)
    want = compiled.module()(test.inputs[0][:7])
    assert (torch.from_numpy(logits).argmax(-1) == want.argmax(-1)).double().mean() >= 6 / 7
