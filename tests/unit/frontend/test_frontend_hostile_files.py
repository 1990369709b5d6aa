"""Bombs that ask for memory, and forged files of the other formats: refused, and nothing runs."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from compressc.frontend import load_model
from tests.unit.frontend.forged_files import (
    INPUTS,
    WEIGHTS,
    bundle,
    entry,
    hugging_face,
    ints,
    meta,
    refusal,
    rewrite,
    safetensors_file,
)

# ---- memory, in a process that may not have more -----------------------------------------------

LIMITED = """
import sys, torch
from compressc.errors import CompresscError
from compressc.frontend import load_model
try:
    import transformers.models.bert.modeling_bert  # what is imported on demand is no model's
except ImportError:
    pass
def used(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = used("VmRSS")
    try:
        load_model(path)
        code = "loaded"
    except CompresscError as error:
        code = error.code
    print(path.rpartition("/")[2], code, round(used("VmHWM") - before))
"""


def bombs(folder: Path, program: Path) -> list[Path]:
    """Small files that ask for much memory, each in its own way."""
    nested = b"[" * 1_000_000
    huge = {"sizes": ints(1 << 40), "strides": ints(0)}
    zeros = {"x/data.pkl": b"\x80\x02" + b"\0" * 10, "x/data/0": b"\0" * 300_000_000}
    with zipfile.ZipFile(folder / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in zeros.items():
            archive.writestr(name, data)
    (folder / "pickle").write_bytes(b"\x80\x02" + b"X\xff\xff\xff\x7f" + b"a" * 100)
    (folder / "onnx").write_bytes(b"\x08\x07" + b"\x12\xff\xff\xff\xff\x0f" + b"a" * 100)
    return [
        folder / "zip",
        folder / "pickle",
        folder / "onnx",
        rewrite(program, folder / "strides", {WEIGHTS: meta(**huge)}),
        rewrite(program, folder / "json", {WEIGHTS: lambda _: []}, {"more.json": nested}),
        safetensors_file(folder / "header", b"{" + b" " * 60, length=1 << 50),
        safetensors_file(folder / "shape", {"x": entry([1 << 40], 0, 1 << 42)}, b"abcd"),
        safetensors_file(folder / "nested", b'{"x":' + nested),
        hugging_face(folder / "layers", num_hidden_layers=1_000_000),
        hugging_face(folder / "vocabulary", vocab_size=1_000_000_000),
        hugging_face(folder / "wide", hidden_size=1_000_000),
        hugging_face(folder / "labels", num_labels=100_000_000),
        hugging_face(folder / "positions", max_position_embeddings=250_000_000),
        hugging_face(folder / "dictionary", id2label={str(i): "x" for i in range(50_000)}),
        bundle(folder / "bundle", f"graph g(%x: f32[{10**15}]) {{\n  return %x\n}}\n"),
        bundle(folder / "deep", f"graph g(%x: f32[b]) {{\n  return {'[' * 10_000}\n}}\n"),
    ]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_no_bomb_takes_memory(program_file: Path, tmp_path: Path) -> None:
    """Peak memory, in a process of its own, grows by less than 150 MiB for any of them."""
    pytest.importorskip("transformers")
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    paths = [str(path) for path in bombs(tmp_path, program_file)]
    done = subprocess.run(
        [sys.executable, str(script), *paths],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [path.rpartition("/")[2] for path in paths]
    for name, code, grown in rows:
        assert code.startswith("CC") or name == "bundle", (name, code)
        assert int(grown) < 150, (name, grown)


# ---- other containers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),  # overlap
        ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),  # the same bytes twice
        ({"a": entry([2], 4, 12)}, 12),  # a gap
        ({"a": entry([3], 0, 8)}, 8),  # too few bytes
        ({"a": entry([2], 0, 8)}, 4),  # truncated
        ({"a": entry([2], 0, 8)}, 80),  # more bytes than are described
        ({"a": entry([-2], 0, 8)}, 8),
        ({"a": entry([2], 8, 0)}, 8),
        ({"a": entry([1 << 62, 4], 0, 16)}, 16),  # the product overflows
        ({"a": entry([2], 0, 8, "EVIL")}, 8),
        ({"a": {"dtype": "F32", "shape": [float("nan")], "data_offsets": [0, 8]}}, 8),
        ({"a": None}, 8),
        ([], 8),
        (b'{"a":{}', 8),
        (b'{"a":1,"a":2}', 8),
        (b"{\xff}", 8),
    ],
)
def test_forged_safetensors(tmp_path: Path, canary: Path, header: Any, body: int) -> None:
    path = safetensors_file(tmp_path / "m.safetensors", header, bytes(body))
    assert refusal(path, canary).code == "CC200"


CALLS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "builtins.getattr",
    "operator.methodcaller",
]


@pytest.mark.parametrize("call", [*CALLS, "torch.hub.load", "torch.load", "runpy.run_path"])
@pytest.mark.parametrize("where", ["plain", "zip", "inputs"])
def test_globals_by_any_name_are_not_called(
    program_file: Path, tmp_path: Path, canary: Path, call: str, where: str
) -> None:
    module, _, name = call.rpartition(".")
    text = f"open({str(canary)!r}, 'w')".encode()
    data = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + len(text).to_bytes(4, "little")
    data += text + b"\x85R."
    path = tmp_path / "m.pt"
    if where == "plain":
        path.write_bytes(data)
    elif where == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data.pkl", data)
            archive.writestr("m/byteorder", b"little")
            archive.writestr("m/version", b"3\n")
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("m/data.pkl", data)
            archive.writestr("m/version", b"3\n")
        rewrite(program_file, path, {INPUTS: lambda _: buffer.getvalue()})
    assert refusal(path, canary).code == "CC201"


GRAPH = "graph g(%x: f32[b,2]) {\n%s  return %y\n}\n"
FORGED = {
    "a cycle": "  %y = relu(%z) : f32[b,2]\n  %z = relu(%y) : f32[b,2]\n",
    "itself": "  %y = relu(%y) : f32[b,2]\n",
    "nothing": "",
    "twice": "  %y = relu(%x) : f32[b,2]\n  %y = relu(%x) : f32[b,2]\n",
    "another type": "  %y = relu(%x) : f32[b,3]\n",
    "a parameter that is not there": "  %y = parameter() @nowhere : f32[2]\n",
    "a file": "  %y = aten.from_file('/etc/passwd', false, 2) : f32[2]\n",
    "saved": "  %y = aten.save(%x, 'canary') : f32[b,2]\n",
    "another library": "  %y = torch.load('canary') : f32[b,2]\n",
    "python": "  %y = __import__('os')(%x) : f32[b,2]\n",
    "code in a size": "  %y = relu(%x) : f32[b,open('canary', 'w')]\n",
    "code in an argument": "  %y = aten.add.Tensor(%x, open('canary', 'w')) : f32[b,2]\n",
    "a tower": "  %y = relu(%x) : f32[b,9**9**9]\n",
    "not a number": "  %y = relu(%x) : f32[b,nan]\n",
    "much": "  %y = aten.zeros([999999999999, 999999]) : f32[999999999999,999999]\n",
}


@pytest.mark.parametrize("case", sorted(FORGED))
def test_forged_graph_text(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = bundle(tmp_path / "m", GRAPH.replace("%s", FORGED[case]))
    if case == "much":  # a graph of a tensor that no one has made yet is well formed
        load_model(path)
        return
    assert refusal(path, canary).code in ("CC400", "CC401", "CC402", "CC403")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["state dict", "safetensors", "legacy"])
def test_truncated_weights(tmp_path: Path, canary: Path, kind: str, share: float) -> None:
    path, weights = tmp_path / "m.pt", {"w": torch.randn(300), "v": torch.randn(300)}
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind != "legacy")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert refusal(path, canary).code in ("CC200", "CC201")
