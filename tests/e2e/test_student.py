"""Half of the blocks of the digits ViT go, and what they knew comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

import compressc


@pytest.fixture(scope="module")
def compiled(vit_teacher: Path) -> compressc.Compiled:
    passes = "student(depth=0.5),distill(epochs=6),quant"
    return compressc.compile(str(vit_teacher), passes, data="digits")


def test_blocks_go_and_accuracy_comes_back(compiled: compressc.Compiled, tmp_path: Path) -> None:
    report = compiled.save(tmp_path / "out", formats=["onnx"], batches=[])
    student, distilled, *_ = report.passes
    assert student.parameters < 0.7 * report.teacher.parameters
    # docs/howto-student.md: 70 % of the digits, and 99 % after training
    assert student.accuracy < report.teacher.accuracy - 0.1  # type: ignore[operator]
    assert distilled.accuracy >= report.teacher.accuracy - 0.02  # type: ignore[operator]
    (file,) = report.files
    assert file.accuracy >= report.teacher.accuracy - 0.02  # type: ignore[operator]


def test_features_pair_across_the_gap(compiled: compressc.Compiled) -> None:
    notes = dict(compiled.passes[1].notes)
    assert notes["blocks.0.add_1"] == "matched with the teacher's %blocks.1.add_1"
    assert notes["blocks.2.add_1"] == "matched with the teacher's %blocks.2.add_1"
