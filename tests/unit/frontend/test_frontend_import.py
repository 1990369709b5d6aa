"""Raising: every rule of the table, names, in-place writes, regions, and what must stay ATen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from raising_nets import X1, X2, X3, Call, V, kinds, raised
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import export_module, import_program
from compressc.ir import Graph, Ref, lower, verify
from tests.models import ZOO, UsedTwice


def trained(norm: nn.Module) -> nn.Module:
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


LAYERS = {
    "linear": (nn.Linear(6, 3), V),
    "linear without bias": (nn.Linear(9, 3, bias=False), X1),
    "conv1d": (nn.Conv1d(6, 4, 3, stride=2, padding=1, dilation=2), X1),
    "conv2d": (nn.Conv2d(6, 4, (3, 1), (2, 1), (1, 0)), X2),
    "conv2d grouped": (nn.Conv2d(6, 12, 3, groups=3, bias=False), X2),
    "conv2d padded by name": (nn.Conv2d(6, 4, 3, padding="same"), X2),
    "conv3d": (nn.Conv3d(6, 4, 3), X3),
    "conv_transpose1d": (nn.ConvTranspose1d(6, 4, 3, 2, 1, 1), X1),
    "conv_transpose2d": (nn.ConvTranspose2d(6, 4, 3, 2, groups=2), X2),
    "conv_transpose3d": (nn.ConvTranspose3d(6, 4, 2), X3),
    "batch_norm1d": (trained(nn.BatchNorm1d(6)), V),
    "batch_norm1d over time": (trained(nn.BatchNorm1d(6)), X1),
    "batch_norm2d": (trained(nn.BatchNorm2d(6, eps=1e-3)), X2),
    "batch_norm2d bare": (trained(nn.BatchNorm2d(6, affine=False)), X2),
    "batch_norm3d": (trained(nn.BatchNorm3d(6)), X3),
    "layer_norm": (trained(nn.LayerNorm(9)), X1),
    "layer_norm over two": (trained(nn.LayerNorm((6, 9))), X1),
    "layer_norm bare": (nn.LayerNorm(9, elementwise_affine=False), X1),
    "layer_norm without bias": (trained(nn.LayerNorm(9, bias=False)), X1),
    "rms_norm": (trained(nn.RMSNorm(9, eps=1e-6)), X1),
    "group_norm": (trained(nn.GroupNorm(3, 6)), X2),
    "embedding": (nn.Embedding(9, 5, padding_idx=0), torch.randint(0, 9, (4, 7))),
    "dropout": (nn.Dropout(0.3), V),
    "relu": (nn.ReLU(), V),
    "relu6": (nn.ReLU6(), V),
    "gelu": (nn.GELU(), V),
    "gelu by tanh": (nn.GELU("tanh"), V),
    "silu": (nn.SiLU(), V),
    "sigmoid": (nn.Sigmoid(), V),
    "tanh": (nn.Tanh(), V),
    "hardswish": (nn.Hardswish(), V),
    "hardsigmoid": (nn.Hardsigmoid(), V),
    "leaky_relu": (nn.LeakyReLU(0.2), V),
    "elu": (nn.ELU(0.7), V),
    "softplus": (nn.Softplus(), V),
    "mish": (nn.Mish(), V),
    "max_pool2d": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), X2),
    "avg_pool2d": (nn.AvgPool2d((2, 3), count_include_pad=False), X2),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d((1, 3)), X2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_rule_raises_one_layer(name: str) -> None:
    layer, example = LAYERS[name]
    graph = raised(nn.Sequential(layer), example)
    assert kinds(graph) == [name.split(" ", maxsplit=1)[0]]
    assert [op.name for op in graph][-1] == "0"


FUNCTIONS = {
    "elu scaled": (lambda m, x: F.selu(x), "aten.selu"),
    "softplus sharp": (lambda m, x: F.softplus(x, beta=2.0), "aten.softplus"),
    "group_norm bare": (lambda m, x: F.group_norm(x[:, :, None], 3), "aten.group_norm"),
    "product of values": (lambda m, x: x @ x.t(), "aten.matmul"),
    "linear with a computed weight": (lambda m, x: F.linear(x, m.w * 2), "aten.linear"),
    "addmm with beta": (lambda m, x: torch.addmm(m.b, x, m.w.t(), beta=0.5), "aten.addmm"),
    "addmm of values": (lambda m, x: torch.addmm(x, x, m.square), "aten.addmm"),
    "vector times matrix": (lambda m, x: m.b @ m.w + x.sum(), "aten.matmul"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_layer_stays_aten(name: str) -> None:
    function, kind = FUNCTIONS[name]
    held = {"w": (3, 6), "b": (3,), "square": (6, 6)}
    module = Call(function, **{n: nn.Parameter(torch.randn(shape)) for n, shape in held.items()})
    assert kind in kinds(raised(module, V[:, :6] if name != "product of values" else V))


PRODUCTS: dict[str, Callable[..., Any]] = {
    "x @ w": lambda m, x: x @ m.w,
    "mm": lambda m, x: torch.mm(x, m.w),
    "addmm": lambda m, x: torch.addmm(m.b, x, m.w),
    "x @ v.t()": lambda m, x: x @ m.v.t(),
    "x @ v.T": lambda m, x: x @ m.v.T,
    "x @ v.mT": lambda m, x: x @ m.v.mT,
    "transpose": lambda m, x: torch.matmul(x, m.v.transpose(0, 1)),
    "addmm with v.t()": lambda m, x: torch.addmm(m.b, x, m.v.t()),
    "F.linear": lambda m, x: F.linear(x, m.v, m.b),
    "twice": lambda m, x: x @ m.w + (x * 2) @ m.w,
    "rank 3": lambda m, x: x[:, None, :] @ m.w,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_held_matrices_become_linear_layers(name: str) -> None:
    held = {"w": (6, 5), "v": (5, 6), "b": (5,)}
    module = Call(PRODUCTS[name], **{n: nn.Parameter(torch.randn(s)) for n, s in held.items()})
    graph = raised(module, V)
    assert "linear" in kinds(graph)
    assert not {"aten.matmul", "aten.mm", "aten.addmm", "aten.t", "parameter"} & set(kinds(graph))
    assert any(op.name in ("w", "v") for op in graph)


def test_a_product_shares_its_weight_with_an_embedding() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.embedding(ids) @ self.embedding.weight.t()

    graph = raised(Tied(), torch.randint(0, 9, (4, 5)))
    assert kinds(graph) == ["embedding", "linear"]
    assert len(graph.tensors()) == 1


# ---- names -------------------------------------------------------------------------------------


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph if op.kind != "input"]


def test_layers_are_named_after_their_modules() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(6, 6, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.conv(x)) + x
            return F.relu(x).transpose(2, 3)

    graph = raised(nn.Sequential(Block(), Block()), X2)
    parts = ["conv", "act", "add", "relu", "transpose"]
    assert names(graph) == [f"{block}.{part}" for block in (0, 1) for part in parts]


def test_a_module_used_twice_shares_weights_and_counts_names() -> None:
    graph = raised(UsedTwice(), torch.randn(4, 8))
    assert names(graph) == ["fc", "act", "fc_1", "act_1", "head"]
    assert graph["fc"].layer.weight is graph["fc_1"].layer.weight
    assert len(graph.tensors()) == 4


def test_bare_parameters_and_buffers_keep_their_names() -> None:
    module = ZOO["vit"]()[0]
    graph = raised(module, torch.randn(4, 1, 8, 8))
    assert {"cls", "pos"} <= {op.name for op in graph if op.kind == "parameter"}


def test_attention_of_torch_comes_out_in_parts() -> None:
    graph = import_program(export_module(*ZOO["transformer_encoder"]()))
    text = " ".join(kinds(graph))
    assert text.count("aten.scaled_dot_product_attention") == 2
    assert "_transformer" not in text
    assert "layers.0.self_attn.in_proj" in graph
    assert "layers.0.self_attn.out_proj" in graph
    assert "layers.1.linear1" in graph
    assert torch.backends.mha.get_fastpath_enabled()  # left as it was


class Decoder(nn.Module):
    """A mask is given, and torch itself looks whether it is the causal one."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerDecoder(layer, 1)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.layers(x, memory, tgt_mask=self.mask)


@pytest.mark.parametrize("which", ["causal", "banded"])
def test_a_decoder_with_a_mask_applies_the_mask(which: str) -> None:
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    if which == "banded":
        mask[3, 0] = mask[5, 1] = -torch.inf
    module = Decoder(mask).eval()
    x, memory = torch.randn(3, 6, 8), torch.randn(3, 4, 8)
    look = torch.nn.modules.transformer._detect_is_causal_mask
    graph = import_program(export_module(module, (x, memory)))
    assert torch.nn.modules.transformer._detect_is_causal_mask is look
    with torch.no_grad():
        torch.testing.assert_close(lower(graph)(x, memory), module(x, memory))


@dataclass
class Answer:
    scores: torch.Tensor
    hidden: list[torch.Tensor]
    attention: torch.Tensor | None = None


class Answers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Answer:
        hidden = self.inner(x).relu()
        return Answer(self.head(hidden), [hidden])


class Strange(Answers):
    def forward(self, x: torch.Tensor) -> object:
        return type("Answer", (), {"scores": self.head(self.inner(x))})()


def test_a_data_class_that_is_returned_becomes_a_dict_of_its_fields() -> None:
    module, x = Answers().eval(), torch.randn(5, 4)
    graph = import_program(export_module(module, (x,)))
    assert graph.outputs == {"scores": Ref("head"), "hidden": (Ref("relu"),)}
    with torch.no_grad():
        torch.testing.assert_close(lower(graph)(x)["scores"], module(x).scores)


def test_an_object_that_is_returned_is_refused_with_what_may_be() -> None:
    with pytest.raises(CompresscError, match=r"CC202.*return tensors in tuples, lists, dicts"):
        export_module(Strange().eval(), (torch.randn(5, 4),))


def test_packed_attention_weights_are_split_into_layers() -> None:
    graph = import_program(export_module(*ZOO["cross_attention"]()))
    assert [op.name for op in graph if op.kind == "linear"] == [
        "attn.in_proj_0", "attn.in_proj_1", "attn.out_proj",
    ]  # fmt: skip
    assert graph["attn.in_proj_1"].layer.weight.shape == (32, 16)


def test_a_packed_weight_that_is_also_read_whole_is_not_split() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        first, second = m.w.split([2, 4])
        return F.linear(x, first) @ second[:2] + m.w.sum()

    graph = raised(Call(function, w=nn.Parameter(torch.randn(6, 6))), V)
    assert "parameter" in kinds(graph)
    assert len(graph.tensors()) == 1


# ---- writes in place ---------------------------------------------------------------------------


def _alias(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = y.contiguous()  # the same tensor
    z.add_(1)
    return y + z


def _view(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[:, 1].fill_(3.0)
    y.view(-1)[0] = 5.0
    return y + 1


def _dropped(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    F.dropout(y, 0.5, training=m.training).relu_()  # in eval mode dropout returns y itself
    return y


def _copied(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y.clone().add_(1)
    return y


def _whole(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    y.copy_(x * 3)
    y[:, :2] = x[:, 2:4]
    return y.clamp_(min=0)


def _chained(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    z = y.mul_(2).sub_(1).relu_()
    return y * 10 + z


def _masked(m: Any, x: torch.Tensor) -> torch.Tensor:
    return (x * 1).masked_fill_(x > 0, -1.0)


def _input(m: Any, x: torch.Tensor) -> torch.Tensor:
    x.add_(1)
    return x * 2


@pytest.mark.parametrize(
    "function", [_alias, _view, _dropped, _copied, _whole, _chained, _masked, _input]
)
def test_writes_in_place_mean_the_same(function: Callable[..., Any]) -> None:
    graph = raised(Call(function), V)
    for op in graph:
        packet = op.kind.split(".")[1] if op.kind.startswith("aten.") else ""
        assert not packet.endswith("_"), op.kind


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count


def test_a_buffer_that_changes_is_refused() -> None:
    with pytest.raises(CompresscError, match="CC202") as caught:
        import_program(export_module(Counter(), (V,)))
    assert "count" in str(caught.value)
    program = export_module(Counter(), (V,)).run_decompositions({})
    with pytest.raises(CompresscError, match="count"):
        import_program(program)


# ---- structure, regions, refusals --------------------------------------------------------------


def test_a_region_without_gradients_is_inlined() -> None:
    module, example = ZOO["many_inputs"]()
    dims = tuple({0: torch.export.Dim.AUTO} for _ in example)
    program = torch.export.export(module, example, dynamic_shapes=(dims,), strict=False)
    assert "wrap_with_set_grad_enabled" in str(program.graph)
    graph = import_program(program)
    verify(graph)
    with torch.no_grad():
        pairs = zip(module(*example), lower(graph)(*example), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_outputs_may_be_none_nested_or_numbers() -> None:
    def function(m: Any, x: torch.Tensor) -> Any:
        return {"a": [x + 1, (x * 2,)], "b": None, "n": 3}

    graph = import_program(export_module(Call(function), (V,)))
    out = lower(graph)(V)
    assert torch.equal(out["a"][1][0], V * 2)
    assert out["n"] == 3
    assert "b" not in out


def test_unused_inputs_stay() -> None:
    graph = raised(Call(lambda m, x, y: x + 1), V, V)
    assert len(graph.inputs) == 2


def test_sizes_follow_the_batch() -> None:
    graph = raised(Call(lambda m, x: x.reshape(x.shape[0] * 2, 3).sum(1)), V)
    assert str(graph["reshape"].type) == "f32[2*b,3]"


def test_pieces_of_a_list_are_picked() -> None:
    graph = raised(Call(lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1) + x.topk(6)[0]), V)
    assert kinds(graph).count("getitem") == 4


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: x[x.sum(1) > 0], "sizes must follow"),
        (lambda m, x: x.nonzero(), "sizes must follow"),
        (lambda m, x: x if x.sum() > 0 else -x, "cannot be traced"),
    ],
)
def test_what_depends_on_values_is_refused(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(CompresscError, match=words) as caught:
        import_program(export_module(Call(function), (V,)))
    assert caught.value.code == "CC202"
    assert caught.value.hint


def test_control_flow_is_refused() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    with pytest.raises(CompresscError, match="cond") as caught:
        import_program(export_module(Call(function), (V,)))
    assert caught.value.code == "CC202"


def test_attention_scale_is_written_down() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    graph = raised(Call(function), X1)
    attention = next(op for op in graph if "attention" in op.kind)
    assert attention.kwargs["scale"] == pytest.approx(1 / 3)


def test_the_trace_restores_modes_even_on_failure() -> None:
    module = nn.Sequential(nn.Linear(6, 3), nn.Dropout()).train()
    module[1].eval()
    with pytest.raises(CompresscError):
        export_module(module, (torch.randn(4, 5),))
    assert [part.training for part in module.modules()] == [True, True, False]


def test_a_deep_network_is_no_deeper_recursion() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return functools.reduce(lambda y, _: torch.relu(y + 1), range(150), x)

    graph = raised(Call(function), V)
    assert len(graph) == 301
    assert len(str(graph.copy()).splitlines()) == 303


class MovesItsBuffer(nn.Module):
    """`self.table = self.table.to(x.device)`, as old position embeddings do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(6))
        self.fc, self.factor = nn.Linear(6, 3), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table = self.table.to(x.device) * self.factor if self.factor != 1 else self.table.to(x)
        return self.fc(x + self.table)


def test_a_buffer_written_with_itself_is_not_changed() -> None:
    graph = raised(MovesItsBuffer(1), V)
    assert kinds(graph) == ["constant", "aten.add.Tensor", "linear"]
    functional = export_module(MovesItsBuffer(1), (V,)).run_decompositions({})
    assert kinds(import_program(functional)) == ["constant", "aten.add.Tensor", "linear"]


class CastWeight(nn.Module):
    """A weight that is cast to its own dtype, as routers of transformers do it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.float(), self.weight.float())


def test_a_weight_cast_to_its_own_dtype_is_the_weight() -> None:
    module = CastWeight()
    assert [op.kind for op in raised(module, torch.randn(2, 3))] == ["input", "linear"]
    other = raised(module.double(), torch.randn(2, 3))
    assert "linear" not in [op.kind for op in other]  # rounded to float32 in each run


def test_a_buffer_written_with_other_numbers_is_refused() -> None:
    with pytest.raises(CompresscError, match="must not change its own buffers"):
        import_program(export_module(MovesItsBuffer(0.5), (V,)))
