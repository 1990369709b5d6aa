"""Checkpoints as trainers leave them: the weights that fit are found, or the way is said."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import Loaded, load_model
from compressc.ir import lower

FACTORY = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2)
    def forward(self, x):
        return self.o(self.b(self.a(x)).relu())
def wrapped():
    net = nn.Module.__new__(nn.Sequential); nn.Module.__init__(net); net.add_module("net", Net())
    return net
def tied():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    net[2].weight = net[0].weight
    return net
"""


class Settings(dict[str, Any]):
    """A configuration that a trainer keeps, filled like a dict."""


@pytest.fixture
def net() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(FACTORY, scope)
    torch.manual_seed(0)
    module: nn.Module = scope["Net"]()
    module.b.running_mean += torch.randn(6)  # type: ignore[operator]
    return module.eval()


def read(folder: Path, value: Any, function: str = "Net", **options: Any) -> Loaded:
    (folder / "net.py").write_text(FACTORY)
    path = folder / "weights.pt"
    torch.save(value, path)
    factory = f"{folder / 'net.py'}:{function}"
    return load_model(path, input_spec=["f32[b,4]"], factory=factory, **options)


def refused(folder: Path, value: Any, *words: str, **options: Any) -> None:
    with pytest.raises(CompresscError) as caught:
        read(folder, value, **options)
    assert caught.value.code == "CC200"
    for word in words:
        assert word in str(caught.value)


def prefixed(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def shapes(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    optimizer = {0: {"step": torch.ones(()), "exp_avg": torch.randn(6, 4)}}
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    return {
        "plain": weights,
        "ordered": OrderedDict(weights),
        "module.": prefixed(weights, "module."),
        "module._orig_mod.": prefixed(weights, "module._orig_mod."),
        "a compiled part": {n.replace("b.", "b._orig_mod."): t for n, t in weights.items()},
        "a key of its own": {"model_state": weights, "optimizer_state": {"state": optimizer}},
        "two deep": {"model": {"state_dict": weights}, "epoch": 3},
        "Lightning": {"state_dict": {**prefixed(weights, "net."), "loss.scale": torch.ones(1)}},
        "an average": {"ema": {**prefixed(weights, "module."), "n_averaged": torch.ones(())}},
        "in a list": [weights, optimizer],
        "arguments": {"model": weights, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
        "numpy": {"model": weights, "best": np.float64(0.9), "curve": np.zeros(3)},
        "a configuration": {"model": weights, "hyper": Settings(a=Settings(b=np.float32(1)))},
        "no counters": {n: t for n, t in weights.items() if "num_batches" not in n},
        "halves": {n: t.half() if t.is_floating_point() else t for n, t in weights.items()},
        "the same twice": {"model": weights, "copy": {n: t.clone() for n, t in weights.items()}},
        "another of other shapes": {"model": weights, "big": {n: t[:1] for n, t in other.items()
                                                              if t.dim()}},
    }  # fmt: skip


@pytest.mark.parametrize("name", shapes({}))
def test_the_weights_that_fit_are_taken(name: str, net: nn.Module, tmp_path: Path) -> None:
    loaded = read(tmp_path, shapes(dict(net.state_dict()))[name])
    x = torch.randn(5, 4)
    tolerance = 1e-2 if name == "halves" else 0.0
    torch.testing.assert_close(lower(loaded.graph)(x), net(x), rtol=tolerance, atol=tolerance)


def test_notes_say_what_was_taken_and_what_was_not(net: nn.Module, tmp_path: Path) -> None:
    weights = dict(net.state_dict())
    value = {"state_dict": {**prefixed(weights, "net."), "loss.scale": torch.ones(1)}, "n": 3}
    notes = read(tmp_path, {**value, "args": argparse.Namespace(a=1)}).notes
    assert "the weights are those under 'state_dict.net' in the file" in notes
    assert "1 tensors of the file are not used: loss.scale" in notes
    assert "objects of the file that were not read: argparse.Namespace" in notes
    assert not read(tmp_path, weights).notes


def test_several_that_fit_are_named(net: nn.Module, tmp_path: Path) -> None:
    weights = dict(net.state_dict())
    average = {name: tensor * 2 for name, tensor in weights.items()}
    value = {"model": weights, "ema": {"shadow": average}}
    refused(tmp_path, value, "2 sets of weights that fit: model, ema.shadow", "--state-key model")
    loaded = read(tmp_path, value, state_key="ema.shadow")
    assert torch.equal(loaded.graph.tensors()["a.weight"], average["a.weight"])
    refused(tmp_path, value, "no weights under 'emma'", "model, ema.shadow", state_key="emma")


def test_students_and_teachers_in_one_file(net: nn.Module, tmp_path: Path) -> None:
    weights = dict(net.state_dict())
    other = {name: tensor * 2 for name, tensor in weights.items()}
    value = {**prefixed(weights, "teacher."), **prefixed(other, "student.")}
    refused(tmp_path, value, "teacher", "student", "--state-key")
    loaded = read(tmp_path, value, state_key="student")
    assert torch.equal(loaded.graph.tensors()["o.weight"], other["o.weight"])


def test_unexpected_tensors_are_left_out_where_that_is_said(net: nn.Module, tmp_path: Path) -> None:
    value = {**net.state_dict(), "head.weight": torch.ones(2)}
    refused(tmp_path, value, "1 unexpected (head.weight)", "--ignore-extra")
    loaded = read(tmp_path, value, ignore_extra=True)
    assert "1 tensors of the file are not used: head.weight" in loaded.notes


def test_missing_tensors_are_missing_whatever_is_said(net: nn.Module, tmp_path: Path) -> None:
    value = {name: t for name, t in net.state_dict().items() if name != "o.bias"}
    refused(tmp_path, value, "1 missing (o.bias)", ignore_extra=True)


def test_one_of_two_tied_tensors_is_enough(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    loaded = read(tmp_path, {"0.weight": weight}, function="tied")
    x = torch.randn(5, 4)
    torch.testing.assert_close(lower(loaded.graph)(x), (x @ weight.T).relu() @ weight.T)


def test_a_module_that_has_a_prefix_of_its_own(net: nn.Module, tmp_path: Path) -> None:
    loaded = read(tmp_path, dict(net.state_dict()), function="wrapped")
    x = torch.randn(5, 4)
    assert torch.equal(lower(loaded.graph)(x), net(x))


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.randn(6, 4).to_sparse(), ("sparse", "to_dense")),
        (torch.empty(6, 4, device="meta"), ("meta device", "numbers")),
        (torch.randn(6, 4) * 1j, ("complex",)),
        (torch.ones(6, 4, dtype=torch.int8), ("int8", "float weights")),
    ],
    ids=["sparse", "meta", "complex", "int8"],
)
def test_weights_that_are_no_dense_floats(
    weight: torch.Tensor, words: tuple[str, ...], net: nn.Module, tmp_path: Path
) -> None:
    refused(tmp_path, {**net.state_dict(), "a.weight": weight}, *words)


def test_a_factory_on_the_meta_device(net: nn.Module, tmp_path: Path) -> None:
    text = FACTORY + "\ndef meta():\n    return Net().to('meta')\n"
    (tmp_path / "net.py").write_text(text)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CompresscError, match=r"CC200.*meta device.*build it on cpu"):
        load_model(
            tmp_path / "w.pt", factory=f"{tmp_path / 'net.py'}:meta", input_spec=["f32[b,4]"]
        )


def test_safetensors_with_a_prefix_and_folders_of_weights(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    folder = tmp_path / "step_100"
    folder.mkdir()
    tensors = prefixed(dict(net.state_dict()), "model.")
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    for place in (folder, folder / "model.safetensors"):
        options = {"factory": f"{tmp_path / 'net.py'}:Net", "input_spec": ["f32[b,4]"]}
        loaded = load_model(place, **options)  # type: ignore[arg-type]
        assert torch.equal(loaded.graph.tensors()["a.weight"], net.a.weight)  # type: ignore[union-attr,arg-type]


class Runs:
    """An object whose reading would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_nothing_left_out_has_run(net: nn.Module, tmp_path: Path) -> None:
    made = tmp_path / "made"
    value = {"model": net.state_dict(), "x": Runs(str(made))}
    loaded = read(tmp_path, value)
    assert not made.exists()
    assert any("open" in note for note in loaded.notes)


# ---- modules beside files ------------------------------------------------------------------------

MODULE = (
    "import torch\nimport {helper}\n"
    "class Net(torch.nn.Module):\n"
    "    def __init__(self): super().__init__(); self.l = torch.nn.Linear(4, 2)\n"
    "    def forward(self, x): return self.l(x) * {helper}.K\n"
)


def test_a_factory_has_its_own_neighbours(tmp_path: Path) -> None:
    torch.save(prefixed(dict(nn.Linear(4, 2).state_dict()), "l."), tmp_path / "w.pt")
    x, seen = torch.ones(3, 4), []
    for name, factor in (("one", 1.0), ("two", 2.0), ("two", 3.0)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "neighbour.py").write_text(f"K = {factor}\n")
        (tmp_path / name / "net.py").write_text(MODULE.format(helper="neighbour"))
        factory = f"{tmp_path / name / 'net.py'}:Net"
        loaded = load_model(tmp_path / "w.pt", factory=factory, input_spec=["x: f32[b,4]"])
        seen.append(lower(loaded.graph)(x))
    torch.testing.assert_close(seen[1], seen[0] * 2)
    torch.testing.assert_close(seen[2], seen[0] * 3)


def test_a_pickled_module_whose_class_lies_beside_it(tmp_path: Path) -> None:
    import importlib
    import sys

    (tmp_path / "beside_the_pickle.py").write_text(
        MODULE.format(helper="math").replace(".K", ".pi")
    )
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("beside_the_pickle").Net()
    torch.save(module, tmp_path / "net.pt")
    sys.path.remove(str(tmp_path))
    del sys.modules["beside_the_pickle"]
    loaded = load_model(tmp_path / "net.pt", trust_pickle=True, input_spec=["x: f32[b,4]"])
    assert loaded.format == "pickled module"
    assert "beside_the_pickle" not in sys.modules
    assert str(tmp_path) not in sys.path
