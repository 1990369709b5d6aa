"""`compressc opt`: passes on text, with whose weights, and what it says of bad text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compressc.cli import main
from compressc.ir import load_bundle, parse_graph, random_weights, save_bundle

TEXT = """graph mlp(%x: f32[b,4]) {
  %a = linear(%x) {in=4, out=6} @a.weight @a.bias : f32[b,6]   # from a
  %r = relu(%a) : f32[b,6]   # from r
  %b = linear(%r) {in=6, out=3} @b.weight @b.bias : f32[b,3]   # from b
  return %b
}
"""


@pytest.fixture
def weak() -> dict[str, torch.Tensor]:
    """Weights whose neurons 0, 2 and 5 do nearly nothing."""
    weights = random_weights(parse_graph(TEXT))
    for name in ("a.weight", "a.bias"):
        weights[name][[0, 2, 5]] *= 1e-3
    weights["b.weight"][:, [0, 2, 5]] *= 1e-3
    return weights


def run(*arguments: object) -> int:
    return main(["opt", *map(str, arguments)])


def test_text_in_text_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text(TEXT)
    assert run(tmp_path / "in.txt", "-p", "prune(ratio=0.5)") == 0
    printed = capsys.readouterr()
    assert "%a = linear(%x) {in=4, out=3}" in printed.out
    assert str(parse_graph(printed.out)) == printed.out
    assert "prune(ratio=0.5): set_layer 2" in printed.err
    assert run(tmp_path / "in.txt", "-p", "prune(ratio=0.5)", "-o", tmp_path / "out.txt") == 0
    assert (tmp_path / "out.txt").read_text() == printed.out


def test_weights_of_a_file_beside_the_text_and_in_a_bundle(
    tmp_path: Path, weak: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "in.txt").write_text(TEXT)
    save_file(weak, tmp_path / "weak.safetensors")
    save_bundle(parse_graph(TEXT, weak), tmp_path / "bundle")
    wanted = "# from a kept 1:1,3-4\n"
    for i, given in enumerate(
        (
            ("in.txt", "--weights", tmp_path / "weak.safetensors"),
            ("bundle/graph.txt",),
            ("bundle",),
        )
    ):
        model, *more = given
        out = tmp_path / f"out{i}"
        assert run(tmp_path / model, "-p", "prune(ratio=0.5)", "-o", out, *more) == 0
        assert wanted in (out / "graph.txt").read_text()
        kept = load_bundle(out)["a"].layer.weight  # type: ignore[union-attr]
        assert torch.equal(kept, weak["a.weight"][[1, 3, 4]])


@pytest.mark.parametrize(
    ("text", "arguments", "code"),
    [
        ("graph", ("-p", "simplify"), "CC402"),
        (TEXT.replace("f32[b,3]", "f32[b,4]"), ("-p", "simplify"), "CC401"),
        (TEXT, ("-p", "simplifi"), "CC101"),
        (TEXT, ("-p", "distill"), "CC105"),
        (TEXT, ("-p", "simplify", "--weights", "none.safetensors"), "CC403"),
        (TEXT, ("-p", "simplify", "-o", "in.txt/x.txt"), "CC600"),
        (None, ("-p", "simplify"), "CC402"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    arguments: tuple[str, ...],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("in.txt").write_text(text)
    assert run("in.txt", *arguments) != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert len(lines) == 1
    assert lines[0].startswith(f"[{code}]")
