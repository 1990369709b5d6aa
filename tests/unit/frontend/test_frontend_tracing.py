"""Sizes that the model's code branches on: limits, closed dimensions, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import lower

X = torch.randn(3, 5, 6)


class Branching(nn.Module):
    """Triples where `condition(s)` holds, else doubles."""

    def __init__(self, condition: Callable[[int], bool]) -> None:
        super().__init__()
        self.fc, self.condition = nn.Linear(6, 3), condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return y * 3 if self.condition(x.shape[1]) else y * 2


def test_a_bound_on_a_size_is_a_limit() -> None:
    module = Branching(lambda s: s <= 8)
    loaded = load_model(module, example=(X,), input_spec=["x: f32[b,s,6]"])
    assert loaded.graph.limits == {"s": (1, 8)}
    with pytest.raises(CompresscError, match=r"takes s <= 8.*s = 9"):
        load_model(loaded.graph, example=(torch.randn(3, 9, 6),))
    x = torch.randn(2, 8, 6)
    assert torch.equal(lower(loaded.graph)(x), module(x))


def test_a_run_of_sizes_that_decide_alike_is_a_limit() -> None:
    module = Branching(lambda s: s % 4 == 0)
    graph = load_model(module, example=(X,), input_spec=["x: f32[b,s,6]"]).graph
    assert graph.limits == {"s": (5, 7)}
    for length in (5, 6, 7):
        x = torch.randn(2, length, 6)
        assert torch.equal(lower(graph)(x), module(x))


def test_a_size_that_decides_alone_is_closed_and_told() -> None:
    module = Branching(lambda s: s % 5 == 0)
    loaded = load_model(module, example=(X,), input_spec=["x: f32[b,s,6]"])
    assert str(loaded.graph.inputs[0].type) == "f32[b,5,6]"
    assert "these are fixed: s = 5" in loaded.notes[0]
    x = torch.randn(2, 5, 6)
    assert torch.equal(lower(loaded.graph)(x), module(x))


def test_sizes_that_nothing_asks_stay_open() -> None:
    loaded = load_model(Branching(lambda s: True), example=(X,), input_spec=["x: f32[b,s,6]"])
    assert str(loaded.graph.inputs[0].type) == "f32[b,s,6]"
    assert (loaded.notes, loaded.graph.limits) == ((), {})


class Blocks(nn.Module):
    """Sequences in blocks of eight, as windowed attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = -(-x.shape[1] // 8)
        padded = nn.functional.pad(x, (0, 0, 0, blocks * 8 - x.shape[1]))
        return self.fc(padded.reshape(x.shape[0], blocks, 8, 6).mean(2))


def test_blocks_of_a_sequence_compute_the_same_at_every_size_that_is_taken() -> None:
    module = Blocks()
    graph = load_model(module, example=(X,), input_spec=["x: f32[b,s,6]"]).graph
    assert graph.limits == {"s": (1, 8)}
    for length in (2, 5, 8):
        x = torch.randn(2, length, 6)
        assert torch.equal(lower(graph)(x), module(x))


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * (2 if x.shape[0] % 3 == 0 else 1)


def test_a_batch_that_decides_is_refused() -> None:
    with pytest.raises(CompresscError, match=r"CC401.*true only where.*other batch sizes"):
        load_model(Folded(), example=(torch.randn(3, 6),))


class LastStep(nn.Module):
    """Takes the last valid step of each sequence, and would take fewer sequences than lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, x.shape[2])
        return self.out(x.gather(1, last).squeeze(1))


def test_samples_share_their_batch_though_the_model_would_take_others() -> None:
    module, ids = LastStep().eval(), torch.randint(0, 9, (6, 7))
    lengths = torch.randint(1, 8, (6,))
    graph = load_model(module, example=(ids, lengths)).graph
    assert [str(graph.type_of(op.name)) for op in graph.inputs] == ["i64[b,7]", "i64[b]"]
    torch.testing.assert_close(lower(graph)(ids[:4], lengths[:4]), module(ids[:4], lengths[:4]))


class Says(nn.Module):
    """Returns what is no tensor, or computes with a number read out of one."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.fc, self.what = nn.Linear(6, 3), what

    def forward(self, x: torch.Tensor) -> object:
        return self.fc(x) * x.max().item() if self.what == "item" else self.what


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Says("hello"), "returns tensors"),
        (Says("item"), r"read out of a tensor \(.item"),
        (nn.Sequential(nn.LazyLinear(3)), "0.weight.* of a lazy layer.*call the module once"),
    ],
)
def test_what_no_trace_can_hold_says_why(module: nn.Module, words: str) -> None:
    with pytest.raises(CompresscError, match=f"CC202.*{words}"):
        load_model(module, example=(torch.randn(3, 6),))


class ManyLengths(nn.Module):
    """Doubles where the last of many lengths is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        y = self.fc(torch.stack([x.mean(1) for x in inputs]).sum(0))
        return y * 2 if inputs[-1].shape[1] % 5 == 0 else y


def test_the_seventh_open_dimension_is_tried_like_the_first() -> None:
    example = tuple(torch.randn(3, 5 + i, 6) for i in range(6))
    specs = [f"f32[b,{letter},6]" for letter in "stuvwx"]
    graph = load_model(ManyLengths(), example=example, input_spec=specs).graph
    assert graph.limits == {}  # ten divides by five, so nothing else may be taken for it
    assert str(graph.inputs[-1].type) == "f32[b,10,6]"
