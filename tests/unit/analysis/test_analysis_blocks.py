"""Repeated blocks: as many as were put in, whatever the ops are called."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressc.analysis.block_names import block_name
from compressc.analysis.blocks import find_blocks
from compressc.analysis.cost import formula_text, total_cost
from compressc.analysis.repeats import find_runs
from compressc.frontend import load_model
from compressc.ir import Graph, Op, Ref, Tensor, TensorType, symbol
from compressc.testing import export_graph

WIDTH = 4


def _type(width: int) -> TensorType:
    return TensorType(torch.float32, (symbol("b"), width))


class Builder:
    """Puts ops at the end of a graph."""

    def __init__(self) -> None:
        self.graph = Graph("g")
        self.graph.append(Op("x", "input", type=_type(WIDTH)))
        self.last = "x"

    def add(self, kind: str, *sources: str, name: str = "op", width: int = WIDTH) -> str:
        layer: nn.Module | None = None
        if kind == "linear":
            layer = nn.Linear(self.graph.type_of(sources[0]).shape[1], width)
        refs = tuple(map(Ref, sources))
        op = Op(self.graph.fresh_name(name), kind, refs, layer=layer, type=_type(width))
        self.last = self.graph.append(op).name
        self.graph.outputs = Ref(self.last)
        return self.last


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[str, int]]:
    """A random block: kinds and how far back the second operand is; one op comes only once."""
    kinds = st.sampled_from(
        ["linear", "aten.relu", "aten.gelu", "aten.add.Tensor", "aten.mul.Tensor"]
    )
    plan = draw(st.lists(st.tuples(kinds, st.integers(0, 5)), min_size=3, max_size=9))
    return [("linear", 0), *plan, ("aten.tanh", 0)]


def copies(plan: list[tuple[str, int]], count: int, ends: int = 1) -> Graph:
    """A stem of other widths, `count` copies of the block, a head."""
    builder = Builder()
    for width in (6, 7, 8)[:ends]:
        builder.add("linear", builder.last, width=width)
    builder.add("linear", builder.last, width=WIDTH)
    for _ in range(count):
        inside = [builder.last]
        for kind, back in plan:
            operands = [inside[-1]]
            if kind.endswith("Tensor"):
                operands.append(inside[-1 - min(back, len(inside) - 1)])
            inside.append(builder.add(kind, *operands))
    builder.add("linear", builder.last, width=5)
    return builder.graph


def shapes(graph: Graph) -> list[tuple[int, int, int, str]]:
    """What is found apart from names."""
    found = find_blocks(graph)
    place = {block.name: i for i, block in enumerate(found)} | {"": -1}
    return [(b.count, len(b.members[0]), place[b.parent], formula_text(b.macs)) for b in found]


def renamed(graph: Graph, seed: int) -> Graph:
    """The same graph with names that mean nothing."""
    names = [op.name for op in graph]
    fresh = [f"n{i}" for i in range(len(names))]
    random.Random(seed).shuffle(fresh)
    new = dict(zip(names, fresh, strict=True))
    twin = Graph("g")
    for op in graph:
        args = tuple(Ref(new[arg.name]) for arg in op.args)
        twin.append(Op(new[op.name], op.kind, args, layer=op.layer, type=op.type))
    twin.outputs = Ref(new[graph.output_names[0]])
    return twin


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(2, 7), st.integers(1, 3))
def test_exactly_the_copies_are_found(plan, count, ends):
    graph = copies(plan, count, ends)
    outer = [
        block
        for block in find_blocks(graph)
        if not block.parent and "tanh" in str([graph[name].kind for name in block.members[0]])
    ]
    (block,) = outer
    assert block.count == count == len(block.members)
    assert {len(member) for member in block.members} == {len(plan)}
    linear = sum(kind == "linear" for kind, _ in plan)
    assert block.parameters == count * linear * (WIDTH + 1) * WIDTH
    kinds = [[graph[name].kind for name in member] for member in block.members]
    assert all(row == kinds[0] for row in kinds)
    flat = [name for member in block.members for name in member]
    assert len(flat) == len(set(flat))


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(2, 5), st.integers(0, 1000))
def test_names_do_not_matter(plan, count, seed):
    graph = copies(plan, count)
    assert shapes(renamed(graph, seed)) == shapes(graph)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["aten.relu", "aten.gelu", "aten.tanh"]), min_size=1, max_size=12))
def test_widths_that_all_differ_make_no_blocks(kinds):
    builder = Builder()
    for i, kind in enumerate(kinds):
        builder.add("linear", builder.last, width=10 + i)
        builder.add(kind, builder.last, width=10 + i)
    assert find_blocks(builder.graph) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_runs_are_those_of_a_plain_search(labels):
    """Every maximal run whose period no shorter one explains."""
    got = {(run.start, run.end, run.period) for run in find_runs(np.array(labels, dtype=np.int64))}
    n, want = len(labels), set()
    for period in range(1, n // 2 + 1):
        start = 0
        while start + period < n:
            end = start
            while end + period < n and labels[end] == labels[end + period]:
                end += 1
            if end - start >= period:
                want.add((start, end + period, period))
            start = max(end, start) + 1
    primitive = {
        (s, e, p)
        for s, e, p in want
        if not any(p % q == 0 and q < p and s2 <= s and e <= e2 for s2, e2, q in want)
    }
    assert primitive <= got <= want


class Block(nn.Module):
    def __init__(self, width: int, experts: int = 0) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(experts)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.relu(self.mix(self.norm(x)))
        for expert in self.experts:
            x = x + expert(x)
        return x


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem, self.layers, self.head = (
            nn.Linear(4, width),
            nn.ModuleList(blocks),
            nn.Linear(width, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def found(*blocks: nn.Module) -> dict[str, int]:
    graph = export_graph(Net(*blocks), torch.randn(3, 4))
    return {block.name: block.count for block in find_blocks(graph)}


def test_blocks_within_blocks():
    blocks = find_blocks(export_graph(Net(*(Block(8, 3) for _ in range(4))), torch.randn(3, 4)))
    outer, inner = blocks
    assert (outer.name, outer.count, outer.parent) == ("layers.{0..3}", 4, "")
    assert inner.name == "layers.{0..3}.experts.{0..2}"
    assert (inner.count, inner.parent) == (12, outer.name)
    assert outer.members[2][0] == "layers.2.norm"
    assert inner.members[4][0] == "layers.1.experts.1.0"
    # norm 16, mix 72, three experts of 144 + 136
    assert outer.parameters == 4 * (16 + 72 + 3 * 280)
    assert inner.parameters == 12 * 280
    assert formula_text(inner.macs) == f"{12 * 2 * 8 * 16:,}*b"


def test_names_that_lie():
    """Same names, other structure: no block; two of three alike: those."""
    assert found(Block(8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())) == {}
    other = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    assert found(Block(8), Block(8), other, Block(8)) == {"layers.{0..1}": 2}


def test_wiring_counts():
    """The same ops in the same order; every other block skips its residual."""

    class Odd(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.mix(self.norm(x)))
            return y + y

    assert found(Block(8), Odd(8)) == {}
    assert found(Block(8), Odd(8), Block(8), Odd(8)) == {"layers.{0-1,2-3}": 2}


def test_a_module_used_twice_is_one_set_of_weights():
    class Reused(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for _ in range(3):
                x = self.layers[0](x)
            return self.head(x)

    graph = export_graph(Reused(Block(8, 1)), torch.randn(3, 4))
    (found_block,) = find_blocks(graph)
    assert (found_block.count, found_block.name) == (3, "layers.0")
    assert found_block.parameters == 16 + 72 + 280
    assert found_block.parameters < total_cost(graph).parameters


def test_a_shared_tensor_belongs_to_no_block_and_an_own_one_does():
    class Scaled(Block):
        def __init__(self, shared: nn.Parameter) -> None:
            super().__init__(8)
            self.shared, self.own = shared, nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * self.shared * self.own)

    shared = nn.Parameter(torch.ones(8))
    graph = export_graph(Net(*(Scaled(shared) for _ in range(3))), torch.randn(3, 4))
    (block,) = find_blocks(graph)
    assert block.count == 3
    leaves = [[n for n in m if graph[n].kind == "parameter"] for m in block.members]
    assert leaves == [["layers.0.own"], ["layers.1.own"], ["layers.2.own"]]


def test_a_graph_of_held_tensors_alone():
    graph = Graph("g")
    graph.append(Op("p", "parameter", layer=Tensor(nn.Parameter(torch.ones(2))), type=_type(2)))
    graph.outputs = Ref("p")
    assert find_blocks(graph) == []


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([["h.0.a", "h.0.b"], ["h.1.a", "h.1.b"]], "h.{0..1}"),
        ([["h.0.a"], ["h.1.a"], ["h.3.a"]], "h.{0,1,3}"),
        ([["f.0", "f.1"], ["f.2", "f.3"], ["f.4", "f.5"]], "f.{0-1..4-5}"),
        ([["stage1.conv", "stage1.add"], ["stage2.conv", "stage2.add"]], "stage{1..2}"),
        (
            [["s.query", "s.view"], ["s.key", "s.view_1"], ["s.value", "s.view_2"]],
            "s.{query,key,value}",
        ),
        ([["m.a", "m.b"], ["m.a_1", "m.b_1"]], "m"),
        ([["a", "b"], ["a_1", "b_1"]], "a"),
    ],
)
def test_names(members, name):
    assert block_name(members).text == name


LAYERS = 3


def _pretrained(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]:
    hf = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
    }  # fmt: skip
    ids, text = (torch.randint(0, 50, (3, 7)),), ("input_ids: i64[b,s]",)
    image, pixels = (torch.randn(3, 3, 32, 32),), ("pixel_values: f32[b,3,32,32]",)
    match name:
        case "bert":
            return hf.BertModel(hf.BertConfig(**sizes)), ids, text
        case "gpt2":
            config = hf.GPT2Config(
                vocab_size=50, n_embd=16, n_layer=LAYERS, n_head=2, n_positions=32, use_cache=False
            )
            return hf.GPT2Model(config), ids, text
        case "llama":
            config = hf.LlamaConfig(**sizes, num_key_value_heads=1, use_cache=False)
            return hf.LlamaModel(config), ids, text
        case "vit":
            return hf.ViTModel(hf.ViTConfig(**sizes, image_size=32, patch_size=8)), image, pixels
        case "swin":
            config = hf.SwinConfig(
                image_size=32,
                patch_size=2,
                embed_dim=8,
                depths=[4, 2],
                num_heads=[2, 2],
                window_size=4,
            )
            return hf.SwinModel(config), image, pixels
        case _:
            config = hf.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[3, 3], layer_type="basic"
            )
            return hf.ResNetModel(config), image, pixels


@pytest.mark.parametrize(
    ("name", "want"),
    [
        (
            "bert",
            {
                "encoder.layer.{0..2}": 3,
                "encoder.layer.{0..2}.attention.self.{query,key,value}": 9,
            },
        ),
        pytest.param("gpt2", {"h.{0..2}": 3}, marks=pytest.mark.slow),
        pytest.param("llama", {"layers.{0..2}": 3}, marks=pytest.mark.slow),
        ("vit", {"layers.{0..2}": 3, "layers.{0..2}.attention.{q_proj,k_proj,v_proj}": 9}),
        pytest.param("swin", {"encoder.layers.0.blocks.{0-1,2-3}": 2}, marks=pytest.mark.slow),
        ("resnet", {"encoder.stages.0.layers.{0..2}": 3, "encoder.stages.1.layers.{1..2}": 2}),
    ],
)  # fmt: skip
def test_architectures(name, want):
    module, example, spec = _pretrained(name)
    graph = load_model(module.eval(), example=example, input_spec=spec).graph
    got = {block.name: block.count for block in find_blocks(graph)}
    assert want.items() <= got.items()
    if name in ("bert", "gpt2", "llama", "vit"):
        (outer,) = [block for block in find_blocks(graph) if not block.parent]
        layers = [p for n, p in module.named_parameters() if _layer(n) == "1"]
        assert outer.parameters == LAYERS * sum(p.numel() for p in layers)


def _layer(name: str) -> str:
    """The number of the layer that a parameter belongs to."""
    return next((part for part in name.split(".") if part.isdigit()), "")
