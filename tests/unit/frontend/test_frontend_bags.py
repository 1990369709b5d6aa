"""Bags of embeddings, and inputs that have no batch in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import compressc
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import lower

OFFSETS = torch.tensor([0, 3, 3, 5])  # the second bag is empty


class Bags(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bags, self.top = nn.EmbeddingBag(20, 6, **options), nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = self.top(self.bags(ids, per_sample_weights=weights))
        return out


class Ragged(Bags):
    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        out: torch.Tensor = self.top(self.bags(ids, offsets))
        return out


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_bags_are_a_look_up_and_a_reduction(mode: str, padding: int | None) -> None:
    torch.manual_seed(0)
    module = Bags(mode=mode, padding_idx=padding).eval()
    graph = load_model(module, input_spec=["ids: i64[b,4]"]).graph
    assert "embedding" in [op.kind for op in graph]
    assert not [op.kind for op in graph if "bag" in op.kind]
    ids = torch.randint(0, 20, (6, 4))
    ids[0], ids[1] = (padding or 0) % 20, (padding or 0) % 20  # whole bags of padding
    torch.testing.assert_close(lower(graph)(ids), module(ids))


def test_weights_of_each_sample() -> None:
    module = Bags(mode="sum").eval()
    graph = load_model(module, input_spec=["ids: i64[b,4]", "weights: f32[b,4]"]).graph
    ids, weights = torch.randint(0, 20, (6, 4)), torch.randn(6, 4)
    torch.testing.assert_close(lower(graph)(ids, weights), module(ids, weights))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
def test_bags_by_offsets(mode: str, last: bool) -> None:
    module = Ragged(mode=mode, padding_idx=3, include_last_offset=last).eval()
    ids = torch.randint(0, 20, (9,))
    ids[3:5] = 3
    offsets = torch.cat([OFFSETS, torch.tensor([9])]) if last else OFFSETS
    loaded = load_model(
        module, example=(ids, offsets), input_spec=["ids: i64[n]", "offsets: i64[m]"]
    )
    torch.testing.assert_close(lower(loaded.graph)(ids, offsets), module(ids, offsets))
    assert F.embedding_bag.__module__ == "torch.nn.functional"


D = torch.export.Dim.DYNAMIC


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("core", [False, True])
def test_bags_of_a_program_that_was_exported_elsewhere(
    mode: str, padding: int | None, core: bool
) -> None:
    torch.manual_seed(0)
    module = Bags(mode=mode, padding_idx=padding).eval()
    ids = torch.randint(0, 20, (6, 4))
    ids[0] = 2  # a whole bag of padding
    program = torch.export.export(module, (ids,), dynamic_shapes=({0: D},))
    graph = load_model(program.run_decompositions() if core else program).graph
    assert [op.kind for op in graph][:2] == ["input", "embedding"]
    assert graph["bags"].lineage == ("bags",)
    more = torch.cat([ids, ids.flip(0)])
    torch.testing.assert_close(lower(graph)(more), module(more))


@pytest.mark.parametrize("last", [False, True])
def test_bags_by_offsets_of_a_program_that_was_exported_elsewhere(last: bool) -> None:
    module = Ragged(mode="mean", padding_idx=3, include_last_offset=last).eval()
    ids = torch.randint(0, 20, (9,))
    ids[3:5] = 3
    offsets = torch.cat([OFFSETS, torch.tensor([9])]) if last else OFFSETS
    program = torch.export.export(module, (ids, offsets), dynamic_shapes=({0: D}, {0: D}))
    graph = load_model(program).graph
    assert "embedding" in [op.kind for op in graph]
    fewer = torch.tensor([0, 4, 6])  # other sizes than it was traced with
    torch.testing.assert_close(lower(graph)(ids[:6], fewer), module(ids[:6], fewer))


def test_weights_of_each_sample_of_a_program_that_was_exported_elsewhere() -> None:
    module = Bags(mode="sum").eval()
    ids, weights = torch.randint(0, 20, (6, 4)), torch.randn(6, 4)
    program = torch.export.export(module, (ids, weights), dynamic_shapes=({0: D}, {0: D}))
    graph = load_model(program).graph
    assert [op.kind for op in graph if op.kind == "embedding"]
    torch.testing.assert_close(lower(graph)(ids[:4], weights[:4]), module(ids[:4], weights[:4]))


def test_bags_can_be_compressed() -> None:
    module = Bags(mode="mean").eval()
    compiled = compressc.compile(module, "prune", inputs=["ids: i64[b,4]"], cache=None)
    ids = torch.randint(0, 20, (6, 4))
    assert compiled.module()(ids).shape == (6, 3)


# ---- inputs without batch in front ---------------------------------------------------------------


class TimeMajor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> torch.Tensor:
        out = self.o(self.e(x).relu())
        return out if h is None else out + h.sum()


@pytest.mark.parametrize(
    "inputs",
    [
        ["x: f32[11,b,8]"],
        ["x: f32[b,5,8]", "h: f32[1,b,3]"],
        ["x: f32[n,8]", "h: f32[m,2]"],
        ["x: f32[b,8]", "h: f32[]"],
    ],
    ids=["time-major", "a state", "unlike sizes", "a scalar"],
)
def test_inputs_without_batch_in_front_are_told_at_load(inputs: list[str]) -> None:
    loaded = load_model(TimeMajor().eval(), input_spec=inputs)
    assert any("batch in front" in note for note in loaded.notes)
    with pytest.raises(CompresscError) as caught:
        compressc.compile(TimeMajor().eval(), "prune", inputs=inputs, cache=None)
    assert caught.value.code == "CC204"
    assert "first dimension of every input" in caught.value.wanted
    assert caught.value.got.startswith("x: f32[")
    assert "transpose" in caught.value.hint


def test_a_batch_in_front_is_not_told() -> None:
    assert not load_model(TimeMajor().eval(), input_spec=["x: f32[b,5,8]", "h: f32[b,3]"]).notes
