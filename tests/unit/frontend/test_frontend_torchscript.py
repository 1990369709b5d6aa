"""TorchScript archives: converted where they are trusted, equal to the last bit, else refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import lower

torch.set_num_threads(1)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(128, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(image)))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 4), 1))


class Views(nn.Module):
    """Sizes taken from the input, as traces write them: tensors, arithmetic, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.size(0), x.size(1) * 2
        y = x.view(batch, length, 6)
        return self.fc(y) + torch.arange(length).view(1, length + 0, 1)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.double = True

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        for layer in self.layers:
            x = torch.relu(layer(x))
        if self.double:
            x = x * 2
        return x, (x + 1, x - 1)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if float(x.sum()) > 0:
            x = x + 1
        return x


class Number(Branch):
    def forward(self, x: Tensor, times: int = 2) -> Tensor:  # type: ignore[override]
        for _ in range(times):
            x = self.fc(x)
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


def traced(make: Callable[[], nn.Module], *shape: int) -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(make().eval(), torch.randn(3, *shape), check_trace=False)


def scripted(make: Callable[[], nn.Module]) -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(make().eval())


CASES = {
    "cnn traced": (lambda: traced(Cnn, 3, 16, 16), "image: f32[b,3,16,16]"),
    "cnn scripted": (lambda: scripted(Cnn), "image: f32[b,3,16,16]"),
    "views": (lambda: traced(Views, 4, 12), "x: f32[b,s,12]"),
    "loop": (lambda: scripted(Loop), "x: f32[b,4]"),
    "recurrent": (lambda: traced(Recurrent, 6, 8), "x: f32[b,6,8]"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_archive_computes_what_it_did(name: str, tmp_path: Path) -> None:
    make, spec = CASES[name]
    path = tmp_path / "model.pt"
    torch.jit.save(make(), path)
    loaded = load_model(path, trust_pickle=True, input_spec=[spec])
    assert loaded.format == "TorchScript archive"
    (op,) = loaded.graph.inputs
    assert f"{op.name}: {op.type}" == spec
    sizes = [{"b": 6, "s": 9}.get(str(n), n) for n in op.type.shape]
    x = torch.randn([int(n) for n in sizes])
    with torch.no_grad():
        wanted, got = torch.jit.load(path)(x), lower(loaded.graph)(x)
    assert all(map(torch.equal, tree_leaves(got), tree_leaves(wanted)))


def test_an_example_leaves_the_batch_open(tmp_path: Path) -> None:
    torch.jit.save(scripted(Loop), tmp_path / "m.pt")
    for example in ((torch.randn(1, 4),), {"x": torch.randn(4, 4)}):
        loaded = load_model(tmp_path / "m.pt", trust_pickle=True, example=example)
        assert str(loaded.graph.inputs[0].type) == "f32[b,4]"
        assert len(loaded.graph.inputs) == len(example)


def refused(path: Path, code: str, *words: str, **options: object) -> None:
    with pytest.raises(CompresscError) as caught:
        load_model(path, **options)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.hint


def test_a_scripted_module_in_memory_is_a_model_and_stays_as_it_is() -> None:
    script, x = torch.jit.script(Cnn().train()), torch.randn(4, 3, 8, 8)
    loaded = load_model(script, example=(x,))
    assert (loaded.source, loaded.format) == ("Cnn", "TorchScript module")
    assert script.training
    want = script.eval()(x[:3])
    with torch.no_grad():
        assert torch.equal(lower(loaded.graph)(x[:3]), want)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(scripted(Branch), path)
    refused(path, "CC203", "--input", trust_pickle=True)
    spec = ["x: f32[b,4]"]
    refused(path, "CC202", "torch.export.save", trust_pickle=True, input_spec=spec)
    refused(path, "CC204", "forward takes", trust_pickle=True, input_spec=["z: f32[b,4]"])
    refused(path, "CC204", "must accept", trust_pickle=True, input_spec=["x: f32[b,5]"])


class Baked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(7.0)[None]


def test_an_argument_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    path, spec = tmp_path / "m.pt", "x: f32[b,4]"
    torch.jit.save(scripted(Number), path)
    for specs in ([spec], [spec, "times: 3"]):
        refused(path, "CC204", "times: int", trust_pickle=True, input_spec=specs)


def test_a_size_the_trace_has_made_a_constant(tmp_path: Path) -> None:
    """An input of that size; and where the user calls it open, it is not taken for one."""
    torch.jit.save(traced(Baked, 7), tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt", trust_pickle=True, input_spec=["x: f32[b,7]"])
    assert str(loaded.graph.inputs[0].type) == "f32[b,7]"
    example = (torch.randn(3, 7),)
    loaded = load_model(
        tmp_path / "m.pt", trust_pickle=True, input_spec=["x: f32[b,s]"], example=example
    )
    assert str(loaded.graph.inputs[0].type) == "f32[b,7]"


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    torch.jit.save(traced(Noisy, 4), tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "CC202", "other numbers", trust_pickle=True, input_spec=["f32[b,4]"])


# ---- without trust nothing runs ----------------------------------------------------------------


class OnLoad(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.canary, self.training = state
        torch.save(torch.ones(1), self.canary)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_code_that_runs_at_load_does_not(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "m.pt"
    torch.jit.save(scripted(lambda: OnLoad(str(canary))), path)
    refused(path, "CC201", "--trust-pickle", "torch.export.save")
    assert not canary.exists()
    load_model(path, trust_pickle=True, input_spec=["f32[b,4]"])
    assert canary.exists()  # so the archive is as hostile as it claims to be


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_archives(tmp_path: Path, share: float) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(scripted(Cnn), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "CC200", trust_pickle=True, input_spec=["f32[b,3,16,16]"])
