"""`diff` and `inspect` on what a run writes, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressc.cli import main


@pytest.fixture(scope="module")
def out(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run that prunes half."""
    folder = tmp_path_factory.mktemp("diff") / "out"
    job = ["--passes", "prune(ratio=0.5)", "--data", "digits", "--emit", "pt2", "--batches", "1"]
    assert main(["compile", str(teacher), *job, "--no-cache", "-q", "-o", str(folder)]) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_a_model_and_its_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, teacher: Path, out: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    text = run(capsys, 1, "diff", str(teacher), str(out / "graph"), "--batch", "4")
    assert "in 56 -> 32, out 112 -> 56" in text
    assert "resized   9 x relu" in text
    before, after = (f"{n:,}" for n in (474946, 126498))
    assert before in text
    assert after in text
    assert "at b=4" in text


@pytest.mark.parametrize("form", ["graph", "", "passes/01-prune.txt", "model.pt2"])
def test_every_form_of_a_result_tells_the_same(
    capsys: pytest.CaptureFixture[str], teacher: Path, out: Path, form: str
) -> None:
    """A folder, the output folder, text without weights, an exported file."""
    record = json.loads(run(capsys, 1, "diff", str(teacher), str(out / form), "--json"))
    changes = record["changes"]
    assert {change["status"] for change in changes} == {"resized"}
    assert record["ops"] == {"before": 36, "after": 36, "same": 1}
    assert record["totals"]["after"]["parameters"] == 126498
    (stem,) = [change for change in changes if change["before"] == ["stem"]]
    assert stem["details"] == [["out", "56", "32"]]
    assert (stem["cost_before"]["macs"], stem["cost_after"]["macs"]) == (9 * 64 * 56, 9 * 64 * 32)


def test_equal(capsys: pytest.CaptureFixture[str], teacher: Path, out: Path) -> None:
    for other in (teacher, out / "passes/00-teacher.txt"):
        assert "no difference" in run(capsys, 0, "diff", str(teacher), str(other))
    assert "no difference" in run(capsys, 0, "diff", str(out), str(out / "graph"))
    assert json.loads(run(capsys, 0, "diff", str(out), str(out), "--json"))["equal"]


def test_errors_keep_their_codes(
    capsys: pytest.CaptureFixture[str], teacher: Path, tmp_path: Path
) -> None:
    forged = tmp_path / "forged.txt"
    forged.write_text(
        "graph g(%x: f32[b,4]) {\n  %y = aten.nothing(%x) : f32[b,4]\n  return %y\n}\n"
    )
    lying = tmp_path / "lying.txt"
    lying.write_text("graph g(%x: f32[b,4]) {\n  %y = aten.relu(%x) : f32[b,5]\n  return %y\n}\n")
    assert main(["diff", str(teacher), str(lying)]) == 5
    assert main(["diff", str(teacher), str(tmp_path / "none")]) == 3
    assert main(["diff", str(teacher), str(forged)]) == 5
    assert main(["diff", str(teacher), str(teacher), "--size", "q=3"]) == 2
    assert main(["diff", str(teacher), str(teacher), "--size", "b=0"]) == 2
    capsys.readouterr()


def test_inspect_says_formula_and_peak(capsys: pytest.CaptureFixture[str], teacher: Path) -> None:
    out = run(capsys, 0, "inspect", str(teacher), "--batch", "2", "--no-text")
    assert "10,285,408*b = 20,570,816 at b=2" in out
    assert "43,264*b" in out
    assert "%stem" not in out
    record = json.loads(run(capsys, 0, "inspect", str(teacher), "--json"))
    assert record["cost"]["parameters"] == 474946
    assert record["formulas"]["macs"] == "10285408*b"
    assert record["not_counted"] == {}
    assert record["rows"][0]["name"] == "stem"


def test_inspect_tells_blocks_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Forty layers: no text, one row each; all of it on demand."""
    monkeypatch.setenv("COLUMNS", "140")
    lines = ["graph deep(%x: f32[b,8]) {"]
    value = "x"
    for i in range(40):
        weights = f"@h.{i}.fc.weight @h.{i}.fc.bias"
        lines += [
            f"  %h.{i}.fc = linear(%{value}) {{in=8, out=8}} {weights} : f32[b,8]",
            f"  %h.{i}.act = relu(%h.{i}.fc) : f32[b,8]",
            f"  %h.{i}.add = aten.add.Tensor(%h.{i}.act, %{value}) : f32[b,8]",
        ]
        value = f"h.{i}.add"
    lines += [f"  return %{value}", "}"]
    from safetensors.torch import save_file
    from torch import zeros

    weights = {
        f"h.{i}.fc.{n}": zeros(8, 8) if n == "weight" else zeros(8)
        for i in range(40)
        for n in ("weight", "bias")
    }
    save_file(weights, tmp_path / "weights.safetensors")
    (tmp_path / "graph.txt").write_text("\n".join(lines))
    short = run(capsys, 0, "inspect", str(tmp_path))
    assert "h.{0..39}.fc (x40)" in short
    assert "%h.7.fc" not in short
    assert "--text prints the graph" in short
    assert "h.7.fc" in run(capsys, 0, "inspect", str(tmp_path), "--all")
    assert "%h.7.fc = linear" in run(capsys, 0, "inspect", str(tmp_path), "--text")
