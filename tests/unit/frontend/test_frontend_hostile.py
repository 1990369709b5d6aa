"""A stranger's file is refused before anything in it runs: a canary file proves it."""

from __future__ import annotations

import copy
import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressc.errors import CompresscError
from compressc.frontend import load_model

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"


class Evil:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists after the test only if something ran."""
    return tmp_path / "canary"


def rewrite(
    source: Path,
    target: Path,
    change: dict[str, Callable[[Any], Any]] | None = None,
    extra: dict[str, bytes] | None = None,
    **options: Any,
) -> Path:
    """A copy of an archive with members changed (JSON members as objects) and added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            local, data = name.removeprefix(f"{root}/"), old.read(name)
            if change and local in change and local.endswith(".json"):
                data = json.dumps(change[local](json.loads(data))).encode()
            elif change and local in change:
                data = change[local](data)
            new.writestr(name, data)
        for local, data in (extra or {}).items():
            new.writestr(f"{root}/{local}", data)
    return target


def refusal(path: Path, canary: Path) -> CompresscError:
    """How a file is refused, with proof that nothing ran."""
    with pytest.raises(CompresscError) as caught:
        load_model(path)
    assert not canary.exists()
    return caught.value


def test_rewriting_alone_changes_nothing(program_file: Path, tmp_path: Path) -> None:
    same = rewrite(program_file, tmp_path / "m.pt2", {MODEL: lambda program: program})
    assert str(load_model(same).graph) == str(load_model(program_file).graph).replace("model", "m")


# ---- strings that torch would turn into code ---------------------------------------------------


def _everywhere(value: Any, key: str, new: Any) -> Any:
    """Every string under this key, replaced."""
    if isinstance(value, list):
        return [_everywhere(item, key, new) for item in value]
    if isinstance(value, dict):
        return {
            k: new if k == key and isinstance(v, str) else _everywhere(v, key, new)
            for k, v in value.items()
        }
    return value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("expr_str", "open('{canary}', 'w')"),
        ("expr_str", "[].__class__.__base__.__subclasses__()"),
        ("expr_str", "(lambda: open('{canary}', 'w'))()"),
        ("expr_str", "Symbol('s77', positive=open('{canary}', 'w'))"),
        ("expr_str", "Symbol(\"__import__('os')\")"),
        ("expr_str", "Max(*open('{canary}', 'w'))"),
        ("expr_str", "s77.func"),
        ("expr_str", "f\"{{open('{canary}', 'w')}}\""),
        ("expr_str", "9**9**9"),
        ("expr_str", "Pow(Pow(Integer(9), Integer(16)), Integer(16))"),
        ("expr_str", "1 << 99999999"),
        ("expr_str", "(" * 500 + "1" + ")" * 500),
        ("target", "torch.hub.load"),
        ("target", "torch.load"),
        ("target", "torch.ops.load_library"),
        ("target", "torch.utils._pytree.importlib.import_module"),
        ("target", "_operator.attrgetter"),
        ("target", "_operator.methodcaller"),
        ("target", "math.__loader__.load_module"),
        ("target", "#custom:op"),
        ("name", "x=open('{canary}', 'w')"),
        ("name", "x\nopen('{canary}', 'w')\n"),
    ],
)
def test_code_in_strings_is_refused(
    program_file: Path, tmp_path: Path, canary: Path, key: str, text: str
) -> None:
    text = text.format(canary=canary)
    path = rewrite(program_file, tmp_path / "m.pt2", {MODEL: lambda p: _everywhere(p, key, text)})
    assert refusal(path, canary).code == "CC201"


@pytest.mark.parametrize(
    "name", ["aten.save.default", "aten.from_file.default", "nobody.knows.it", "aten.__class__.mro"]
)
def test_operators_that_touch_files_or_are_unknown_are_refused(
    program_file: Path, tmp_path: Path, canary: Path, name: str
) -> None:
    change = {MODEL: lambda p: _everywhere(p, "target", f"torch.ops.{name}")}
    path = rewrite(program_file, tmp_path / "m.pt2", change)
    error = refusal(path, canary)
    assert error.code == "CC200"
    assert "unknown operation" in str(error)


def _tree(kind: str, context: object) -> Callable[[Any], Any]:
    def change(program: Any) -> Any:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        protocol, root = json.loads(signature["in_spec"])
        root["type"], root["context"] = kind, context
        signature["in_spec"] = json.dumps([protocol, root])
        return program

    return change


@pytest.mark.parametrize(
    ("kind", "context", "code"),
    [
        ("collections.defaultdict", {"default_factory_module": "evil"}, None),
        ("evil.Output", "[]", None),
        ("evil.Output", '{"__enum__": true, "fqn": "evil:E", "name": "A"}', None),
        ("collections.namedtuple", "evil.Named", None),
        ("builtins.dict", '{"__enum__": true, "fqn": "evil:E", "name": "A"}', "CC201"),
    ],
)
def test_tree_specifications_import_nothing(
    program_file: Path,
    tmp_path: Path,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    context: object,
    code: str | None,
) -> None:
    """An unknown container is read as a tuple or a dict; nothing is imported for it."""
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = rewrite(program_file, tmp_path / "m.pt2", {MODEL: _tree(kind, context)})
    if code is None:
        load_model(path)
        assert not canary.exists()
    else:
        assert refusal(path, canary).code == code


def test_guards_and_metadata_are_left_out(program_file: Path, tmp_path: Path, canary: Path) -> None:
    evil = f"open({str(canary)!r}, 'w')"

    def change(program: Any) -> Any:
        program["guards_code"] = [evil]
        program["graph_module"]["metadata"] = {"custom": evil}
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {
                "stack_trace": f"\n{evil}\n",
                "nn_module_stack": f"a,\n{evil}\n,c",
                "source_fn_stack": "a,torch.hub.load",
                "custom": evil,
                "from_node": "[{}]",
            }
        return program

    path = rewrite(program_file, tmp_path / "m.pt2", {MODEL: change})
    assert len(load_model(path).graph) == len(load_model(program_file).graph)
    assert not canary.exists()


# ---- pickles inside and outside ----------------------------------------------------------------


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _pickled(config: Any, path_name: str) -> Any:
    entry = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    return {"config": {**config["config"], "shift": entry}}


@pytest.mark.parametrize("wrap", [_saved, pickle.dumps])
@pytest.mark.parametrize(
    ("config", "member"),
    [
        (WEIGHTS, "data/weights/weight_evil"),
        (CONSTANTS, "data/constants/tensor_evil"),
        (CONSTANTS, "data/constants/custom_obj_0"),
        (CONSTANTS, "data/constants/opaque_obj_0"),
    ],
)
def test_pickled_payloads_are_refused(
    program_file: Path,
    tmp_path: Path,
    canary: Path,
    config: str,
    member: str,
    wrap: Callable[..., bytes],
) -> None:
    name = member.rpartition("/")[2]
    change = {config: lambda c: _pickled(c, name)}
    path = rewrite(program_file, tmp_path / "m.pt2", change, {member: wrap(Evil(canary))})
    assert refusal(path, canary).code == "CC201"


def test_torchs_own_loader_does_run_them(program_file: Path, tmp_path: Path, canary: Path) -> None:
    """The control: the canary works, and these files are hostile."""
    evil = _saved(((Evil(canary),), {}))
    path = rewrite(program_file, tmp_path / "m.pt2", {INPUTS: lambda old: evil})
    with suppress(Exception):
        torch.export.load(path)
    assert canary.exists()
    canary.unlink()
    text = f"open({str(canary)!r}, 'w')"
    path = rewrite(
        program_file, tmp_path / "n.pt2", {MODEL: lambda p: _everywhere(p, "expr_str", text)}
    )
    with suppress(Exception):
        torch.export.load(path)
    assert canary.exists()


@pytest.mark.parametrize("wrap", [_saved, pickle.dumps])
def test_pickled_sample_inputs_are_refused(
    program_file: Path, tmp_path: Path, canary: Path, wrap: Callable[..., bytes]
) -> None:
    evil = wrap(((Evil(canary),), {}))
    path = rewrite(program_file, tmp_path / "m.pt2", {INPUTS: lambda old: evil})
    assert refusal(path, canary).code == "CC201"


def test_legacy_members_are_not_read(program_file: Path, tmp_path: Path, canary: Path) -> None:
    extra = {
        f"data/{kind}/model.pt": pickle.dumps(Evil(canary)) for kind in ("weights", "constants")
    }
    load_model(rewrite(program_file, tmp_path / "m.pt2", extra=extra))
    assert not canary.exists()


def test_weights_that_are_safe_pickles_are_read(program_file: Path, tmp_path: Path) -> None:
    change = {WEIGHTS: lambda c: _pickled(c, "weight_9")}
    extra = {"data/weights/weight_9": _saved(torch.full((3,), 2.0))}
    loaded = load_model(rewrite(program_file, tmp_path / "m.pt2", change, extra))
    assert loaded.graph.tensors()["shift.value"].tolist() == [2.0, 2.0, 2.0]


class EvilModule(torch.nn.Linear):
    """A module that runs code while it is unpickled."""

    canary = ""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (open, (self.canary, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_runs_nothing(tmp_path: Path, canary: Path, zipped: bool) -> None:
    EvilModule.canary = str(canary)
    torch.save(EvilModule(2, 2), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert refusal(tmp_path / "m.pt", canary).code == "CC201"


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_run_nothing(tmp_path: Path, canary: Path, protocol: int) -> None:
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Evil(canary), protocol=protocol))
    assert refusal(tmp_path / "m.pt", canary).code in ("CC200", "CC201")


# ---- the zip container -------------------------------------------------------------------------


def test_compressed_members_are_refused(program_file: Path, tmp_path: Path, canary: Path) -> None:
    extra = {"data/weights/bomb": b"\0" * 50_000_000}
    path = rewrite(program_file, tmp_path / "m.pt2", None, extra, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(path, canary).code == "CC200"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_path_traversal_is_refused(
    program_file: Path, tmp_path: Path, canary: Path, name: str
) -> None:
    path = rewrite(program_file, tmp_path / "m.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    error = refusal(path, canary)
    assert error.code == "CC200"
    assert "evil" in str(error)


def test_members_of_the_same_name_are_refused(
    program_file: Path, tmp_path: Path, canary: Path
) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = rewrite(program_file, tmp_path / "m.pt2", extra={MODEL: b"{}"})
    assert refusal(path, canary).code == "CC200"


def test_overlapping_members_are_refused(program_file: Path, tmp_path: Path, canary: Path) -> None:
    """Many table entries for one stretch of bytes: a bomb without compression."""
    path = rewrite(program_file, tmp_path / "m.pt2", extra={"big": b"x" * 200_000})
    with zipfile.ZipFile(path, "a") as archive:
        big = next(info for info in archive.infolist() if info.filename.endswith("/big"))
        for i in range(50):
            info = copy.copy(big)
            info.filename = f"more/{i}"
            archive.filelist.append(info)
        archive._didModify = True
    assert refusal(path, canary).code == "CC200"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_archives_are_refused(
    program_file: Path, tmp_path: Path, canary: Path, share: float
) -> None:
    data = program_file.read_bytes()
    (tmp_path / "m.pt2").write_bytes(data[: int(len(data) * share)])
    assert refusal(tmp_path / "m.pt2", canary).code == "CC200"


@pytest.mark.parametrize("member", [MODEL, WEIGHTS, CONSTANTS, "data/weights/weight_0"])
def test_a_missing_member_is_refused(
    program_file: Path, tmp_path: Path, canary: Path, member: str
) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(program_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith(member):
                new.writestr(name, old.read(name))
    assert refusal(path, canary).code == "CC200"


def test_a_changed_byte_is_noticed(program_file: Path, tmp_path: Path, canary: Path) -> None:
    with zipfile.ZipFile(program_file) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("weight_0"))
    data = bytearray(program_file.read_bytes())
    name_length, extra_length = struct.unpack("<HH", data[info.header_offset + 26 :][:4])
    data[info.header_offset + 30 + name_length + extra_length + 5] ^= 0xFF
    (tmp_path / "m.pt2").write_bytes(data)
    assert refusal(tmp_path / "m.pt2", canary).code == "CC200"


# ---- forged JSON -------------------------------------------------------------------------------


def _meta(**fields: Any) -> Callable[[Any], Any]:
    def change(config: Any) -> Any:
        config["config"]["fc.weight"]["tensor_meta"].update(fields)
        return config

    return change


def _ints(*values: Any) -> list[dict[str, Any]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": _ints(1 << 20, 1 << 20), "strides": _ints(0, 0)},
        {"sizes": _ints(1 << 40, 0), "strides": _ints(1, 1)} | {"dtype": 99},
        {"sizes": _ints(3, 5)},
        {"sizes": _ints(-3, 4)},
        {"strides": _ints(-4, 1)},
        {"strides": _ints(4)},
        {"storage_offset": {"as_int": 1}},
        {"storage_offset": {"as_int": -1}},
        {"sizes": _ints("3", 4)},
        {"sizes": [{"as_expr": {"expr_str": "open('x')"}}]},
        {"dtype": 99},
        {"sizes": None},
    ],
)
def test_forged_weight_tables_are_refused(
    program_file: Path, tmp_path: Path, canary: Path, fields: dict[str, Any]
) -> None:
    path = rewrite(program_file, tmp_path / "m.pt2", {WEIGHTS: _meta(**fields)})
    assert refusal(path, canary).code == "CC200"


def test_deeply_nested_json_is_refused(program_file: Path, tmp_path: Path, canary: Path) -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(program_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, nested if name.endswith(MODEL) else old.read(name))
    assert refusal(path, canary).code == "CC200"


JUNK: list[Any] = [
    None, True, -1, 0, 2**70, 1.5, "", "x", "a b", "open('canary')", "torch.load", [], {}, [[]],
    {"as_int": 3}, {"as_none": True}, {"as_string": "x"}, {"as_name": "x"},
    {"as_operator": "torch.load"},
    {"as_custom_obj": {"name": "x", "class_fqn": "y"}}, {"as_graph": {"name": "x", "graph": {}}},
]  # fmt: skip


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [path, *(leaf for key, item in items for leaf in _leaves(item, (*path, key)))]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_forged_program_is_refused_or_read(data: st.DataObject, program_file: Path) -> None:
    """Whatever stands anywhere in the JSON: a coded error or a graph, never another exception."""

    def change(program: Any) -> Any:
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(_leaves(program)[1:]))
            target = program
            for key in path[:-1]:
                target = target[key]
            # a copy: the next change may write into it, and JUNK must stay what it is
            target[path[-1]] = deepcopy(data.draw(st.sampled_from(JUNK)))
        return program

    member = data.draw(st.sampled_from([MODEL, MODEL, WEIGHTS]))
    forged = rewrite(program_file, program_file.parent / "forged.pt2", {member: change})
    with suppress(CompresscError):
        load_model(forged)


# ---- whose mistake -----------------------------------------------------------------------------


def test_a_mistake_of_ours_is_not_blamed_on_the_file(
    program_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("compressc.frontend.load.import_program", broken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        load_model(program_file)


def _tensor_values(**fields: Any) -> Callable[[Any], Any]:
    """The recorded type of every value that is no input, forged."""

    def change(program: Any) -> Any:
        graph = program["graph_module"]["graph"]
        made = {o["as_tensor"]["name"] for n in graph["nodes"] for o in n["outputs"]}
        for name, meta in graph["tensor_values"].items():
            if name in made:
                meta.update(fields)
        return program

    return change


@pytest.mark.parametrize("fields", [{"sizes": _ints(7, 7), "strides": _ints(7, 1)}, {"dtype": 5}])
def test_a_forged_program_that_breaks_the_importer_is_the_files(
    program_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("whatever")

    path = rewrite(program_file, tmp_path / "m.pt2", {MODEL: _tensor_values(**fields)})
    monkeypatch.setattr("compressc.frontend.load.import_program", broken)
    with pytest.raises(CompresscError, match="CC200"):
        load_model(path)


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


def _hugging_face(path: Path, **config: Any) -> Path:
    path.mkdir()
    kind = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4}
    (path / "config.json").write_text(json.dumps(kind | {"num_attention_heads": 2} | config))
    safetensors.torch.save_file({"pooler.dense.bias": torch.ones(4)}, path / "model.safetensors")
    return path


def _safetensors(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + body)
    return path


def _entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _bundle(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "graph.txt").write_text(text)
    safetensors.torch.save_file({"w": torch.ones(2)}, path / "weights.safetensors")
    return path


def bombs(folder: Path, program: Path) -> list[Path]:
    """Small files that ask for much memory, each in its own way."""
    nested = b"[" * 1_000_000
    huge = {"sizes": _ints(1 << 40), "strides": _ints(0)}
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
        rewrite(program, folder / "strides", {WEIGHTS: _meta(**huge)}),
        rewrite(program, folder / "json", {WEIGHTS: lambda _: []}, {"more.json": nested}),
        _safetensors(folder / "header", b"{" + b" " * 60, length=1 << 50),
        _safetensors(folder / "shape", {"x": _entry([1 << 40], 0, 1 << 42)}, b"abcd"),
        _safetensors(folder / "nested", b'{"x":' + nested),
        _hugging_face(folder / "layers", num_hidden_layers=1_000_000),
        _hugging_face(folder / "vocabulary", vocab_size=1_000_000_000),
        _hugging_face(folder / "wide", hidden_size=1_000_000),
        _hugging_face(folder / "labels", num_labels=100_000_000),
        _hugging_face(folder / "positions", max_position_embeddings=250_000_000),
        _hugging_face(folder / "dictionary", id2label={str(i): "x" for i in range(50_000)}),
        _bundle(folder / "bundle", f"graph g(%x: f32[{10**15}]) {{\n  return %x\n}}\n"),
        _bundle(folder / "deep", f"graph g(%x: f32[b]) {{\n  return {'[' * 10_000}\n}}\n"),
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
        ({"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}, 12),  # overlap
        ({"a": _entry([2], 0, 8), "b": _entry([2], 0, 8)}, 8),  # the same bytes twice
        ({"a": _entry([2], 4, 12)}, 12),  # a gap
        ({"a": _entry([3], 0, 8)}, 8),  # too few bytes
        ({"a": _entry([2], 0, 8)}, 4),  # truncated
        ({"a": _entry([2], 0, 8)}, 80),  # more bytes than are described
        ({"a": _entry([-2], 0, 8)}, 8),
        ({"a": _entry([2], 8, 0)}, 8),
        ({"a": _entry([1 << 62, 4], 0, 16)}, 16),  # the product overflows
        ({"a": _entry([2], 0, 8, "EVIL")}, 8),
        ({"a": {"dtype": "F32", "shape": [float("nan")], "data_offsets": [0, 8]}}, 8),
        ({"a": None}, 8),
        ([], 8),
        (b'{"a":{}', 8),
        (b'{"a":1,"a":2}', 8),
        (b"{\xff}", 8),
    ],
)
def test_forged_safetensors(tmp_path: Path, canary: Path, header: Any, body: int) -> None:
    path = _safetensors(tmp_path / "m.safetensors", header, bytes(body))
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
    path = _bundle(tmp_path / "m", GRAPH.replace("%s", FORGED[case]))
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
