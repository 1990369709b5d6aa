"""`load_model`: every format, told by content, and a message of its own for what is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.frontend import (
    Loaded,
    check_inputs,
    export_module,
    import_program,
    load_model,
)
from compressc.ir import lower, save_bundle
from tests.models import ZOO, DigitsCnn, Small, small

IMAGE = "x: f32[b,1,8,8]"


def refused(source: object, code: str, *parts: str, **options: object) -> CompresscError:
    """The error a source is refused with, on one line, with these words in it."""
    with pytest.raises(CompresscError) as caught:
        load_model(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert caught.value.code == code, text
    assert "\n" not in text
    for part in parts:
        assert part in text
    return caught.value


def outputs(loaded: Loaded, example: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        return tree_leaves(lower(loaded.graph)(*example))


# ---- exported programs -------------------------------------------------------------------------


def test_an_exported_program_under_any_name(program_file: Path) -> None:
    loaded = load_model(program_file)
    assert loaded.format == "exported program"
    assert loaded.source == str(program_file)
    assert loaded.example is not None
    assert loaded.example[0].shape == (4, 4)
    assert loaded.fixed_batch is None
    x = torch.randn(9, 4)
    assert torch.equal(outputs(loaded, (x,))[0], small()(x))


def test_a_program_reads_like_the_module_it_was_made_of(zoo_files: dict[str, Path]) -> None:
    for name in ("tied_weights", "two_inputs", "many_inputs", "plain_matrices", "in_place"):
        path = zoo_files[name]
        module, example = ZOO[name]()
        direct = import_program(export_module(module, example), name)
        loaded = load_model(path)
        assert str(loaded.graph) == str(direct), name
        for a, b in zip(outputs(loaded, example), tree_leaves(module(*example)), strict=True):
            assert torch.equal(a, b), name


def test_a_program_without_example_inputs(tmp_path: Path) -> None:
    program = export_module(small(), (torch.randn(4, 4),))
    program._example_inputs = None
    torch.export.save(program, tmp_path / "m.pt2")
    assert load_model(tmp_path / "m.pt2").example is None


def test_a_program_with_a_fixed_batch_says_so(tmp_path: Path) -> None:
    program = torch.export.export(small(), (torch.randn(4, 4),))
    torch.export.save(program, tmp_path / "m.pt2")
    assert load_model(tmp_path / "m.pt2").fixed_batch == 4


def test_half_precision_and_shared_memory_weights(tmp_path: Path) -> None:
    module = small().to(torch.bfloat16)
    shared = torch.randn(30, dtype=torch.bfloat16)
    module.fc.weight = torch.nn.Parameter(shared[6:18].view(4, 3).t())  # a view with strides
    torch.export.save(export_module(module, (torch.randn(4, 4).bfloat16(),)), tmp_path / "m.pt2")
    loaded = load_model(tmp_path / "m.pt2", dtype="keep")
    x = torch.randn(5, 4).bfloat16()
    assert torch.equal(outputs(loaded, (x,))[0], module(x))


def test_torch_says_nothing(
    zoo_files: dict[str, Path], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    load_model(zoo_files["in_place"])
    load_model(*ZOO["in_place"]()[:1], example=(torch.randn(4, 6),))
    assert "".join(capfd.readouterr()) == ""
    assert not list(recwarn)


# ---- bundles, modules, graphs in memory --------------------------------------------------------


def test_a_bundle(tmp_path: Path) -> None:
    module = small()
    save_bundle(load_model(module, input_spec=["f32[b,4]"]).graph, tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.format, loaded.example) == ("bundle", None)
    x = torch.randn(5, 4)
    assert torch.equal(outputs(loaded, (x,))[0], module(x))


def test_a_module_in_memory_is_left_as_it_was() -> None:
    module = DigitsCnn().train()
    module.bn1.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loaded = load_model(module, example=(torch.randn(4, 1, 8, 8),))
    assert loaded.format == "module"
    assert module.training
    assert not module.bn1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        for tensor in loaded.graph.tensors().values():
            tensor.zero_()  # the graph's tensors are its own
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_graphs_and_programs_in_memory() -> None:
    program = export_module(small(), (torch.randn(4, 4),))
    first = load_model(program)
    second = load_model(first.graph)
    assert str(first.graph) == str(second.graph)
    assert second.graph is not first.graph


def test_a_module_needs_example_inputs() -> None:
    refused(small(), "CC203", "--input", "--data")


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_any_example_batch_leaves_the_batch_open(batch: int) -> None:
    loaded = load_model(small(), example=(torch.randn(batch, 4),))
    assert str(loaded.graph.inputs[0].type) == "f32[b,4]"


@pytest.mark.parametrize("spec", ["x: f32[b,4]", "f32[b,4]", "x:f32[n, 4]"])
def test_inputs_in_words(spec: str) -> None:
    loaded = load_model(small(), input_spec=[spec])
    assert str(loaded.graph.inputs[0].type) == "f32[b,4]"
    assert loaded.example is not None


def test_named_inputs_in_any_order() -> None:
    module, example = ZOO["two_inputs"]()
    loaded = load_model(module, input_spec=["vector: f32[b,5]", "image: f32[b,1,8,8]"])
    assert [op.name for op in loaded.graph.inputs] == ["vector", "image"]
    got = outputs(loaded, example[::-1])
    for a, b in zip(got, tree_leaves(module(*example)), strict=True):
        assert torch.equal(a, b)


def test_token_inputs_with_an_open_sequence() -> None:
    module, _ = ZOO["tied_weights"]()
    loaded = load_model(module, input_spec=["ids: i64[b,s]"])
    assert str(loaded.graph.inputs[0].type) == "i64[b,s]"
    ids = torch.randint(0, 23, (2, 31))
    assert torch.equal(outputs(loaded, (ids,))[0], module(ids))


@pytest.mark.parametrize(
    "spec", ["", "x", "x: f32", "x: f32[b,", "1x: f32[b]", "f32[2*b]", "q7[b]"]
)
def test_an_input_that_is_none(spec: str) -> None:
    refused(small(), "CC204", "f32[b,3,32,32]", input_spec=[spec])


def test_inputs_that_do_not_fit(program_file: Path) -> None:
    refused(small(), "CC204", "must accept its inputs", example=(torch.randn(4, 5),))
    refused(small(), "CC204", "called x", input_spec=["y: f32[b,4]"])
    refused(program_file, "CC204", "f32[b,4]", example=(torch.randn(4, 5),))
    refused(program_file, "CC204", "2 arrays", example=(torch.randn(4, 4), torch.randn(4, 4)))
    refused(program_file, "CC204", "int64", example=(torch.ones(4, 4, dtype=torch.int64),))


def test_weights_that_are_not_finite() -> None:
    module = small()
    module.fc.weight.data[0, 0] = float("nan")
    refused(module, "CC205", "@fc.weight", example=(torch.randn(4, 4),))


def test_inputs_that_do_not_fit_say_what_would() -> None:
    module = nn.Linear(4, 3)
    graph = load_model(module, input_spec=["f32[b,4]"]).graph
    with pytest.raises(CompresscError, match="give it as float32"):
        check_inputs(graph, (torch.ones(2, 4, dtype=torch.uint8),))
    with pytest.raises(CompresscError, match=r"are f32\[b,4\] \(got 2 arrays"):
        check_inputs(graph, (torch.ones(2, 4), torch.ones(2, 4)))


@pytest.mark.parametrize(("ids", "got"), [([[0, 9]], "9"), ([[-1, 8]], "-1")])
def test_ids_that_no_table_has(ids: list[list[int]], got: str) -> None:
    graph = load_model(nn.Embedding(9, 4), input_spec=["i64[b,s]"]).graph
    check_inputs(graph, (torch.tensor([[0, 8]]),))
    with pytest.raises(CompresscError, match=r"CC204.*ids from 0 to 8") as caught:
        check_inputs(graph, (torch.tensor(ids),), "words.npz.train")
    assert (caught.value.got, caught.value.where) == (got, "words.npz.train")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name: str) -> None:
    refused(name, "CC200", "an empty name")


def test_what_is_no_model_at_all() -> None:
    refused(3, "CC200", "int")


# ---- pickles -----------------------------------------------------------------------------------


def test_a_pickled_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(small(), path)
    error = refused(path, "CC201", "Small", "--trust-pickle", "torch.export.save")
    assert "weights_only" not in str(error)
    refused(path, "CC203", trust_pickle=True)
    loaded = load_model(path, trust_pickle=True, input_spec=["f32[b,4]"])
    assert loaded.format == "pickled module"
    x = torch.randn(5, 4)
    assert torch.equal(outputs(loaded, (x,))[0], small()(x))


def test_a_pickled_module_of_an_old_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    torch.save(small(), path, _use_new_zipfile_serialization=False)
    refused(path, "CC201", "--trust-pickle")
    assert load_model(path, trust_pickle=True, input_spec=["f32[b,4]"]).format == "pickled module"


def test_a_pickled_module_whose_class_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, gone = tmp_path / "m.pt", types.ModuleType("gone")
    net = type("Net", (torch.nn.Linear,), {"__module__": "gone"})
    gone.Net = net
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gone", gone)
        torch.save(net(2, 2), path)
    refused(path, "CC200", "gone", "importable", trust_pickle=True, input_spec=["f32[b,2]"])


FACTORY = """
import torch
from torch import nn
from torch import nn
def digits():
    from tests.models import DigitsCnn
    return DigitsCnn()
def narrow():
    from tests.models import DigitsCnn
    return DigitsCnn(8)
def other():
    return nn.Linear(2, 2)
def broken():
    raise RuntimeError("no luck")
def number():
    return 3
def leaves():
    raise SystemExit(2)
"""


@pytest.mark.parametrize("shape", ["plain", "nested", "parallel", "safetensors"])
def test_a_state_dict_with_a_factory(tmp_path: Path, shape: str) -> None:
    module, example = ZOO["digits_cnn"]()
    weights = module.state_dict()
    path, factory = tmp_path / "w.pt", tmp_path / "factory.py"
    factory.write_text(FACTORY)
    match shape:
        case "plain":
            torch.save(weights, path)
        case "nested":
            torch.save({"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
        case "parallel":
            torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
        case "safetensors":
            safetensors.torch.save_file(weights, path)
    refused(path, "CC200", "weights only", "--factory")
    loaded = load_model(path, factory=f"{factory}:digits", input_spec=[IMAGE])
    assert loaded.format == "state dict"
    assert torch.equal(outputs(loaded, example)[0], module(*example))


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("narrow", "CC200", "of another shape"),
        ("other", "CC200", "2 missing (bias, weight); 24 unexpected"),
        ("broken", "CC100", "no luck"),
        ("number", "CC100", "returned a int"),
        ("leaves", "CC100", "SystemExit: 2"),
        ("nowhere", "CC100", "no function 'nowhere'"),
        ("not a name", "CC100", "no function after a colon"),
    ],
)
def test_a_factory_that_does_not_fit(tmp_path: Path, function: str, code: str, words: str) -> None:
    path, factory = tmp_path / "w.pt", tmp_path / "factory.py"
    factory.write_text(FACTORY)
    torch.save(DigitsCnn().state_dict(), path)
    options = {"factory": f"{factory}:{function}", "input_spec": [IMAGE]}
    words = re.sub(r"\d+ unexpected", "", words)
    refused(path, code, words, **options)


def test_a_factory_from_a_package(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(DigitsCnn().state_dict(), path)
    loaded = load_model(path, factory="tests.models:DigitsCnn", input_spec=[IMAGE])
    assert loaded.format == "state dict"
    refused(path, "CC100", "no_such_package", factory="no_such_package:f", input_spec=[IMAGE])


# ---- what is no model --------------------------------------------------------------------------


def _onnx(path: Path) -> None:
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [value], [output])
    sets = [helper.make_opsetid("some.domain", 99), helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=sets, producer_name="someone")
    model.producer_version = "1.2"
    onnx.save(model, path)


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")


def _adapter(path: Path) -> None:
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")


def _hugging_face(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


NO_MODELS = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "text": (lambda path: path.write_text("hello world\n"), "a text file"),
    "python": (lambda path: path.write_text("import os\n" * 200), "a text file"),
    "graph": (lambda path: path.write_text("graph g() {\n"), "without its weights"),
    "binary": (lambda path: path.write_bytes(bytes(range(128, 256)) * 9), "unknown format"),
    "onnx": (_onnx, "an ONNX file (opset 17, written by someone 1.2)"),
    "no onnx": (lambda path: path.write_bytes(b"\x08\x0a\x12\x7fx"), "unknown format"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "a GGUF file"),
    "adapter": (_adapter, "an adapter without its model"),
    "pipe": (os.mkfifo, "a pipe or a device"),
    "npz": (lambda path: np.savez(path.open("wb"), x=np.zeros(3)), "arrays of numpy"),
    "zip": (lambda path: _zip(path, "a.txt"), "a zip archive without a model"),
    "old": (lambda path: _zip(path, "serialized_exported_program.json"), "old format"),
    "compiled": (lambda path: _zip(path, "m/data/aotinductor/model/x.so"), "compiled code"),
    "folder": (lambda path: path.mkdir(), "a folder without a model"),
    "hugging face": (_hugging_face, "a Hugging Face folder"),
    "broken zip": (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 99), "damaged zip"),
    "number": (lambda path: torch.save(3, path), "a module or its state dict"),
    "list": (lambda path: torch.save([torch.ones(2)], path), "a module or its state dict"),
    "safetensors": (
        lambda path: path.write_bytes((20).to_bytes(8, "little") + b"{}" + b" " * 40),
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", sorted(NO_MODELS))
def test_what_is_no_model_says_what_it_is(tmp_path: Path, kind: str) -> None:
    make, words = NO_MODELS[kind]
    make(tmp_path / "model.pt")  # type: ignore[no-untyped-call]
    error = refused(tmp_path / "model.pt", "CC200", words)
    assert str(tmp_path) in error.where
    assert error.hint or kind in ("number", "list", "safetensors")


def test_small_is_what_it_says() -> None:
    assert isinstance(small(), Small)


# ---- containers of other libraries -------------------------------------------------------------

CONTAINERS = """
import dataclasses, sys
from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple
import torch
from torch import nn
from torch import Tensor, nn
from torch.utils import _pytree
from transformers.modeling_outputs import BaseModelOutputWithPooling
@dataclasses.dataclass
class Output:
    logits: Tensor
    hidden: tuple = ()
    loss: Tensor | None = None
class Named(NamedTuple):
    a: Tensor
    b: Tensor
torch.export.register_dataclass(Output, serialized_type_name="users.Output")
_pytree._register_namedtuple(Named, serialized_type_name="users.Named")
BaseModelOutputWithPooling(last_hidden_state=torch.ones(1))  # registers its class
MAKE = {
    "dataclass": lambda y: Output(y, (y + 1, y + 2)),
    "model_output": lambda y: BaseModelOutputWithPooling(last_hidden_state=y, pooler_output=y + 1),
    "namedtuple": lambda y: Named(y, y + 1),
    "defaultdict": lambda y: defaultdict(list, {"k": [y], "l": [y + 1]}),
    "ordered": lambda y: OrderedDict(z=y, a=y + 1),
    "deque": lambda y: deque([y, y + 1]),
}
class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(4, 4)
    def forward(self, x):
        return MAKE[self.kind](self.fc(x))
for kind in MAKE:
    program = torch.export.export(
        Net(kind), (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    torch.export.save(program, f"{sys.argv[1]}/{kind}.pt2")
"""
OUTPUTS = {
    "dataclass": '{"logits": %fc, "hidden": [%add, %add_1]}',
    "model_output": '{"last_hidden_state": %fc, "pooler_output": %add}',
    "namedtuple": "[%fc, %add]",
    "defaultdict": '{"k": [%fc], "l": [%add]}',
    "ordered": '{"z": %fc, "a": %add}',
    "deque": "[%fc, %add]",
}


def test_outputs_in_containers_that_are_not_importable_here(tmp_path: Path) -> None:
    """Written by another process: here are neither the user's classes nor their registration."""
    script = tmp_path / "users.py"
    script.write_text(CONTAINERS)
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import sys\nsys.modules['transformers'] = None\n"
        "from compressc.frontend import load_model\n"
        "for path in sys.argv[1:]:\n    print(str(load_model(path).graph).splitlines()[-2])\n"
    )
    paths = [str(tmp_path / f"{kind}.pt2") for kind in OUTPUTS]
    done = subprocess.run(
        [sys.executable, str(loader), *paths], check=True, capture_output=True, text=True
    )
    lines = [line.strip().removeprefix("return ") for line in done.stdout.splitlines()]
    assert lines == list(OUTPUTS.values())
