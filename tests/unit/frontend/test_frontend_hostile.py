"""A stranger's file is refused before anything in it runs: a canary file proves it."""

from __future__ import annotations

import copy
import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressc.errors import CompresscError
from compressc.frontend import load_model
from tests.unit.frontend.forged_files import (
    CONSTANTS,
    INPUTS,
    MODEL,
    WEIGHTS,
    Evil,
    ints,
    meta,
    refusal,
    rewrite,
)


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


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": ints(1 << 20, 1 << 20), "strides": ints(0, 0)},
        {"sizes": ints(1 << 40, 0), "strides": ints(1, 1)} | {"dtype": 99},
        {"sizes": ints(3, 5)},
        {"sizes": ints(-3, 4)},
        {"strides": ints(-4, 1)},
        {"strides": ints(4)},
        {"storage_offset": {"as_int": 1}},
        {"storage_offset": {"as_int": -1}},
        {"sizes": ints("3", 4)},
        {"sizes": [{"as_expr": {"expr_str": "open('x')"}}]},
        {"dtype": 99},
        {"sizes": None},
    ],
)
def test_forged_weight_tables_are_refused(
    program_file: Path, tmp_path: Path, canary: Path, fields: dict[str, Any]
) -> None:
    path = rewrite(program_file, tmp_path / "m.pt2", {WEIGHTS: meta(**fields)})
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
        for name, own in graph["tensor_values"].items():
            if name in made:
                own.update(fields)
        return program

    return change


@pytest.mark.parametrize("fields", [{"sizes": ints(7, 7), "strides": ints(7, 1)}, {"dtype": 5}])
def test_a_forged_program_that_breaks_the_importer_is_the_files(
    program_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("whatever")

    path = rewrite(program_file, tmp_path / "m.pt2", {MODEL: _tensor_values(**fields)})
    monkeypatch.setattr("compressc.frontend.load.import_program", broken)
    with pytest.raises(CompresscError, match="CC200"):
        load_model(path)
