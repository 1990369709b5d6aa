"""Keyword, nested, constant and left-out arguments of `forward`, and the inputs they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import lower

torch.set_num_threads(1)


class Net(nn.Module):
    """One linear layer; the subclasses differ in how they take their inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)


class Keyword(Net):
    def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        y = self.fc(x) * scale
        return y if mask is None else y * mask


class Batch(Net):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.fc(batch["x"]) + batch["bias"]}


class Pair(Net):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        a, b = pair
        return self.fc(a) - b


class Deep(Net):
    def forward(self, data: dict[str, Any], flag: bool = False) -> Tensor:
        first, (second, third) = data["a"], data["b"]
        y = self.fc(first) + second * third["z"]
        return -y if flag else y


class Choice(Net):
    def forward(self, x: Tensor, mode: str = "plus", times: int = 1, extra: Any = None) -> Tensor:
        for _ in range(times):
            x = self.fc(x) if mode == "plus" else -self.fc(x)
        return x if extra is None else x + extra


def t(seed: int, n: int = 4) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def deep(n: int = 4) -> dict[str, Any]:
    return {"a": t(0, n), "b": [t(1, n), {"z": t(3, n)}]}


CASES: dict[str, tuple[type[Net], Callable[[int], Any], list[str]]] = {
    "keyword": (Keyword, lambda n: {"x": t(0, n), "mask": t(1, n)}, ["x", "mask"]),
    "keyword left out": (Keyword, lambda n: {"x": t(0, n)}, ["x"]),
    "keyword None": (Keyword, lambda n: {"x": t(0, n), "mask": None}, ["x"]),
    "keyword constant": (Keyword, lambda n: {"x": t(0, n), "scale": 3.0}, ["x"]),
    "dict": (Batch, lambda n: ({"x": t(0, n), "bias": t(1, n)},), ["batch_x", "batch_bias"]),
    "dict by name": (
        Batch,
        lambda n: {"batch": {"bias": t(0, n), "x": t(1, n)}},
        ["batch_bias", "batch_x"],
    ),
    "pair": (Pair, lambda n: ((t(0, n), t(1, n)),), ["pair_0", "pair_1"]),
    "list": (Pair, lambda n: ([t(0, n), t(1, n)],), ["pair_0", "pair_1"]),
    "deep": (Deep, lambda n: (deep(n), True), ["data_a", "data_b_0", "data_b_1_z"]),
    "choice": (Choice, lambda n: (t(0, n), "minus", 3), ["x"]),
    "choice extra": (
        Choice,
        lambda n: {"x": t(0, n), "times": 2, "extra": t(1, n)},
        ["x", "extra"],
    ),
}  # fmt: skip


def call(module: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        result = module(**example) if isinstance(example, dict) else module(*example)
    return tree_leaves(result)


@pytest.mark.parametrize("case", sorted(CASES))
def test_arguments_become_named_inputs(case: str) -> None:
    kind, make, names = CASES[case]
    module = kind()
    loaded = load_model(module, example=make(4))
    assert [op.name for op in loaded.graph.inputs] == names
    assert loaded.example is not None
    assert len(loaded.example) == len(names)
    tensors = [leaf for leaf in tree_leaves(make(7)) if isinstance(leaf, Tensor)]
    with torch.no_grad():
        got = tree_leaves(lower(loaded.graph)(*tensors))
    for a, b in zip(got, call(module, make(7)), strict=True):
        assert torch.equal(a, b)


def test_any_number_of_arguments() -> None:
    class Sum(Net):
        def forward(self, *xs: Tensor) -> Tensor:
            return self.fc(xs[0]) + xs[1]

    module = Sum()
    loaded = load_model(module, example=(t(0), t(1)))
    assert [op.name for op in loaded.graph.inputs] == ["xs_0", "xs_1"]
    assert torch.equal(lower(loaded.graph)(t(2, 9), t(3, 9)), module(t(2, 9), t(3, 9)))


def test_any_keywords() -> None:
    class Open(Net):
        def forward(self, *xs: Tensor, flag: bool = True, **more: Tensor) -> Tensor:
            return self.fc(more["x"]) + more["y"]

    module = Open()
    for options in (
        {"example": {"x": t(0), "y": t(1)}},
        {"input_spec": ["x: f32[b,4]", "y: f32[b,4]"]},
    ):
        loaded = load_model(module, **options)  # type: ignore[arg-type]
        assert [op.name for op in loaded.graph.inputs] == ["x", "y"]
        assert torch.equal(lower(loaded.graph)(t(2, 9), t(3, 9)), module(x=t(2, 9), y=t(3, 9)))
    assert "forward" not in vars(module)


def test_one_tensor_for_two_inputs_gives_two_inputs() -> None:
    x = t(0)
    loaded = load_model(Pair(), example=((x, x),))
    assert len(loaded.graph.inputs) == 2
    assert torch.equal(lower(loaded.graph)(t(1), t(2)), Pair()((t(1), t(2))))


# ---- in words ----------------------------------------------------------------------------------

WORDS: dict[str, tuple[type[Net], list[str], list[str]]] = {
    "dict": (Batch, ["batch.x: f32[b,4]", "batch.bias: f32[b,4]"], ["batch_x", "batch_bias"]),
    "tuple": (Pair, ["pair.0: f32[b,4]", "pair.1: f32[b,4]"], ["pair_0", "pair_1"]),
    "deep": (
        Deep,
        ["data.a: f32[b,4]", "data.b.0: f32[b,4]", "data.b.1.z: f32[b,4]", "flag: True"],
        ["data_a", "data_b_0", "data_b_1_z"],
    ),
    "constants": (
        Choice,
        ["f32[b,4]", "mode: 'minus'", "times: 3", "extra: None"],
        ["x"],
    ),
    "number": (Keyword, ["x: f32[b,4]", "scale: 0.5"], ["x"]),
}


@pytest.mark.parametrize("case", sorted(WORDS))
def test_inputs_in_words_by_path(case: str) -> None:
    kind, specs, names = WORDS[case]
    module = kind()
    loaded = load_model(module, input_spec=specs)
    assert [(op.name, str(op.type)) for op in loaded.graph.inputs] == [
        (n, "f32[b,4]") for n in names
    ]
    xs = [t(i, 9) for i in range(len(names))]
    examples: dict[str, Any] = {
        "dict": lambda: ({"x": xs[0], "bias": xs[1]},),
        "tuple": lambda: ((xs[0], xs[1]),),
        "deep": lambda: ({"a": xs[0], "b": (xs[1], {"z": xs[2]})}, True),
        "constants": lambda: (xs[0], "minus", 3),
        "number": lambda: {"x": xs[0], "scale": 0.5},
    }
    with torch.no_grad():
        got = tree_leaves(lower(loaded.graph)(*xs))
    assert all(map(torch.equal, got, call(module, examples[case]())))


def test_words_say_where_the_tensors_of_an_example_go() -> None:
    specs = ["batch.x: f32[b,4]", "batch.bias: f32[b,4]"]
    loaded = load_model(Batch(), example=(t(0, 5), t(1, 5)), input_spec=specs)
    assert [op.name for op in loaded.graph.inputs] == ["batch_x", "batch_bias"]
    assert loaded.example is not None
    assert torch.equal(loaded.example[1], t(1, 5))


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["batch.x: f32[b,4]", "batch.x: f32[b,4]"], "the same name twice"),
        (["batch: f32[b,4]", "batch.x: f32[b,4]"], "has no parts"),
        (["batch.x: f32[b,4]", "batch: f32[b,4]"], "the same name twice"),
        (["batch.x: f32[b,4]", "f32[b,4]"], "no name"),
        (["batch.x: f32[b,4]", "other: f32[b,4]", "batch.bias: f32[b,4]"], "stand together"),
        (["pair.1: f32[b,4]", "pair.0: f32[b,4]"], "called batch"),
        (["batch..x: f32[b,4]"], "the name"),
        (["x: f32[b,4]"], "called batch"),
        (["x: true"], "an input is written like"),
        (["x: open('x')"], "an input is written like"),
    ],
)
def test_words_that_fit_no_arguments(specs: list[str], words: str) -> None:
    with pytest.raises(CompresscError, match="CC204") as caught:
        load_model(Batch(), input_spec=specs)
    assert words in str(caught.value)


# ---- what is no example ------------------------------------------------------------------------


@dataclasses.dataclass
class Unregistered:
    x: Tensor


class Point(NamedTuple):
    x: Tensor
    bias: Tensor


def test_named_tuples_are_containers() -> None:
    class Takes(Net):
        def forward(self, point: Point) -> Tensor:
            return self.fc(point.x) + point.bias

    loaded = load_model(Takes(), example=(Point(t(0), t(1)),))
    assert [op.name for op in loaded.graph.inputs] == ["point_x", "point_bias"]


@pytest.mark.parametrize("example", ["text", 3, {1: t(0)}, {}, (), ({},)])
def test_what_is_no_example(example: Any) -> None:
    with pytest.raises(CompresscError) as caught:
        load_model(Batch(), example=example)
    assert caught.value.code == "CC204"


def test_an_object_that_torch_cannot_open_is_named() -> None:
    class Takes(Net):
        def forward(self, point: Unregistered) -> Tensor:
            return self.fc(point.x)

    with pytest.raises(CompresscError) as caught:
        load_model(Takes(), example=(Unregistered(t(0)),))
    assert caught.value.code == "CC204"
    assert "Unregistered" in str(caught.value)
    assert "dict" in caught.value.hint


def test_a_graph_takes_a_dict_by_name() -> None:
    graph = load_model(Keyword(), example={"x": t(0), "mask": t(1)}).graph
    loaded = load_model(graph, example={"mask": t(1, 5), "x": t(0, 5)})
    assert loaded.example is not None
    assert torch.equal(loaded.example[0], t(0, 5))
    with pytest.raises(CompresscError, match="called x, mask"):
        load_model(graph, example={"x": t(0)})
