"""Models and data in other floats than float32, settled when they are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import compressc
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program, load_model
from compressc.ir import lower


def net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4))
    return layers.to(dtype).eval()


class Mixed(nn.Module):
    """Weights in halves, a norm computed in float32, and casts between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 6).half(), nn.LayerNorm(6), nn.Linear(6, 4).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.norm(self.a(x.half()).float()).half())
        return out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, None], ids=str)
def test_other_floats_become_float32_with_a_note(
    dtype: torch.dtype, given: torch.dtype | None
) -> None:
    x = torch.randn(6, 8)
    loaded = load_model(net(dtype), example=(x.to(given or dtype),))
    assert str(loaded.graph.type_of(loaded.graph.inputs[0].name)) == "f32[b,8]"
    assert {t.dtype for t in loaded.graph.tensors().values()} == {torch.float32}
    want = net(dtype).float()(x)  # the same weights, computed in float32
    torch.testing.assert_close(lower(loaded.graph)(x), want, rtol=1e-6, atol=1e-6)
    assert any("converted to float32" in note for note in loaded.notes)


def test_a_mixed_model_loses_its_casts() -> None:
    loaded = load_model(Mixed().eval(), input_spec=["x: f32[b,8]"])
    assert [op.kind for op in loaded.graph][1:] == ["linear", "layer_norm", "linear"]


def test_keep_keeps_and_says_so() -> None:
    loaded = load_model(net(torch.bfloat16), input_spec=["f32[b,8]"], dtype="keep")
    assert str(loaded.graph.type_of(loaded.graph.inputs[0].name)) == "bf16[b,8]"
    assert any("--dtype float32" in note for note in loaded.notes)


def test_a_float32_model_has_no_note() -> None:
    assert not load_model(net(torch.float32), input_spec=["f32[b,8]"]).notes


def test_an_exported_program_in_halves() -> None:
    program = export_module(net(torch.float16), (torch.randn(4, 8).half(),))
    x = torch.randn(5, 8)
    loaded = load_model(program)
    torch.testing.assert_close(lower(loaded.graph)(x), net(torch.float16).float()(x))


def test_ties_are_kept() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    module[2].weight = module[0].weight
    graph = load_model(module.half().eval(), input_spec=["f32[b,8]"]).graph
    assert graph["0"].layer.weight is graph["2"].layer.weight  # type: ignore[union-attr]


def test_an_unknown_choice() -> None:
    with pytest.raises(CompresscError, match=r"CC100.*float32 or keep"):
        load_model(net(torch.float32), input_spec=["f32[b,8]"], dtype="int8")


def test_data_follow_the_model() -> None:
    """numpy's numbers are float64, which no model takes."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(24, 8)))
    part = Split((x,))
    data = Dataset("made", part, part, part)
    compiled = compressc.compile(net(torch.float32), "simplify", data=data, cache=None)
    assert compiled.data is not None
    assert compiled.data.test.inputs[0].dtype == torch.float32
    assert compiled.data.test is compiled.data.train
    assert data.test.inputs[0].dtype == torch.float64


def test_data_that_fit_are_not_copied() -> None:
    part = Split((torch.randn(24, 8),))
    data = Dataset("made", part, part, part)
    assert data.cast(lambda tensors: tensors) is data


class Autocast(nn.Module):
    """Computes a part in bfloat16, as a training loop would have all of it."""

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.stem, self.body, self.enabled = nn.Linear(4, 4), nn.Linear(4, 8), enabled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            return self.body(x).float()


def test_an_autocast_region_is_refused_by_its_place() -> None:
    program = export_module(Autocast().eval(), (torch.randn(3, 4),))
    wanted = r"CC202.*got a region of torch.autocast in bfloat16\) at body; hint: leave autocast"
    with pytest.raises(CompresscError, match=wanted):
        import_program(program)
    x = torch.randn(3, 4)
    plain = Autocast(enabled=False).eval()
    with torch.no_grad():
        assert torch.equal(lower(import_program(export_module(plain, (x,))))(x), plain(x))
