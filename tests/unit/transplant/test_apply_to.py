"""`Compiled.apply_to`: the user's own module with the layers of the graph."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import compressc
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from tests.models import DigitsCnn


def compiled(module, example, passes, **options):

    if not isinstance(example, torch.Tensor):
        return compressc.compile(module, passes, inputs=example, cache=None, **options)
    shape = ",".join(map(str, example.shape[1:]))
    return compressc.compile(module, passes, inputs=(f"f32[b,{shape}]",), cache=None, **options)


def settled(module):
    """Running statistics that are not those of a new module."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


@pytest.fixture
def cnn():
    torch.manual_seed(0)
    return settled(DigitsCnn())


IMAGE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_pruned_cnn_is_the_users_class_and_trains_on(cnn):
    before = copy.deepcopy(cnn.state_dict())
    c = compiled(cnn, IMAGE, "prune(ratio=0.5)")
    made = c.apply_to(cnn)
    assert type(made) is DigitsCnn
    assert (made.conv1.in_channels, made.conv1.out_channels) == (8, 8)
    assert made.depthwise.groups == made.depthwise.in_channels == made.bn2.num_features == 8
    assert (made.head.in_features, made.head.out_features) == (16, 10)
    torch.testing.assert_close(made(IMAGE), c.module()(IMAGE))
    made.train()
    step = torch.optim.SGD(made.parameters(), 0.1)
    loss = F.cross_entropy(made(IMAGE), torch.tensor([1, 2, 3, 4]))
    loss.backward()
    step.step()
    assert all(parameter.grad is not None for parameter in made.parameters())
    # neither the module that was given nor the graph has changed
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert not torch.equal(made.eval()(IMAGE), c.module()(IMAGE))


def test_a_folded_norm_is_an_identity(cnn):
    made = compiled(cnn, IMAGE, "prune(ratio=0.5),simplify").apply_to(cnn)
    assert type(made.bn1) is type(made.stem[1]) is nn.Identity
    assert made.conv1.bias.shape == (8,)
    assert isinstance(made.drop, nn.Dropout)  # gone from the graph, of use in training


def test_factors_stand_in_the_place_of_a_layer_with_its_sizes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 96)).eval()
    made = compiled(net, torch.randn(3, 4, 8, 8), "lowrank(rank=4,scheme=channel)").apply_to(net)
    conv, linear = made[0], made[3]
    assert [type(part) for part in conv] == [nn.Conv2d, nn.Conv2d]
    assert (conv.in_channels, conv.out_channels) == (4, 32)
    assert [type(part) for part in linear] == [nn.Linear, nn.Linear]
    assert (linear.in_features, linear.out_features) == (1152, 96)
    made(torch.randn(2, 4, 8, 8)).sum().backward()
    assert linear[0].weight.grad is not None


class Block(nn.Module):
    def __init__(self, width: int, place: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.block_idx = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(x)))


class Stack(nn.Module):
    """Blocks in a list, counted by an attribute; or one behind the other in a `Sequential`."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        blocks = [Block(16, place) for place in range(4)]
        self.num_layers = len(blocks)
        self.blocks = nn.ModuleList(blocks) if listed else nn.Sequential(*blocks)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place in range(self.num_layers):
            x = self.blocks[place](x)
        return self.head(x)


def test_blocks_that_are_gone_leave_their_list():
    torch.manual_seed(0)
    net = Stack(listed=True).eval()
    made = compiled(net, torch.randn(3, 16), "student(keep=[0,3]),prune(ratio=0.5)").apply_to(net)
    assert (len(made.blocks), made.num_layers) == (2, 2)
    assert [block.block_idx for block in made.blocks] == [0, 1]
    assert made.blocks[1].up.out_features == 16


def test_blocks_of_a_sequential_are_passed_by():
    torch.manual_seed(0)
    net = Stack(listed=False).eval()
    made = compiled(net, torch.randn(3, 16), "student(keep=[0,3])").apply_to(net)
    kinds = [type(block).__name__ for block in made.blocks]
    assert kinds == ["Block", "Identity", "Identity", "Block"]
    assert made.num_layers == 4


class Attention(nn.Module):
    """Query heads and head width are attributes; all sizes are computed from them."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner = heads, width // heads, width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = self.head_dim**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (
            part.view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
            for part in self.qkv(x).split(self.inner, dim=-1)
        )
        y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


@pytest.mark.parametrize(("attention", "sizes"), [("heads", (2, 8)), ("head_width", (4, 4))])
def test_counts_of_attention_follow(attention, sizes):
    torch.manual_seed(0)
    net = Attention().eval()
    c = compiled(net, torch.randn(3, 6, 32), f"prune(ratio=0.5,attention={attention})")
    made = c.apply_to(net)
    assert (made.num_heads, made.head_dim, made.inner) == (*sizes, 16)


def test_code_that_computes_a_width_itself_is_refused_by_name():
    from tests.models import FusedAttention

    torch.manual_seed(0)
    net = nn.Sequential(FusedAttention(32, 4), nn.Linear(32, 5)).eval()
    c = compiled(net, torch.randn(3, 6, 32), "prune(ratio=0.5)")
    with pytest.raises(CompresscError, match=r"CC507.*must run.* at 0 \(FusedAttention\)"):
        c.apply_to(net)
    kept = compiled(net, torch.randn(3, 6, 32), "prune(ratio=0.5,attention=keep)").apply_to(net)
    assert kept[0].qkv.out_features == 96


class Scaled(nn.Module):
    """Computes with the number of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x)
        return self.down(y * self.up.out_features**-0.5)


def test_a_number_that_the_graph_does_not_have_is_found_by_its_first_layer():
    torch.manual_seed(0)
    net = Scaled().eval()
    with pytest.raises(CompresscError, match=r"CC507.*differ.* at down, the first layer"):
        compiled(net, torch.randn(3, 8), "prune(ratio=0.5)").apply_to(net)


def test_stored_integers_are_put_in(cnn):
    c = compiled(cnn, IMAGE, "quant(mode=weights)")
    made = c.apply_to(cnn)
    assert made.head.weight.dtype == torch.int8
    torch.testing.assert_close(made(IMAGE), c.module()(IMAGE))


class Plain(nn.Module):
    """Layers that are modules of their own, one of them behind a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.b, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(72, 10)

    def forward(self, x):
        """[n, 10]."""
        x = F.max_pool2d(F.relu(self.b(self.act(self.a(x)))), 2)
        return self.fc(x.flatten(1))


class Adds(nn.Module):
    """What is added is made by layers, or by code."""

    def __init__(self, by_code: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8))
        self.by_code, self.act = by_code, nn.ReLU()

    def forward(self, x):
        """[n, 8, 8, 8]."""
        x = self.a(x)
        x = F.relu(x) if self.by_code else self.act(x)
        return self.c(F.relu(x + self.b(x)))


def data(*, shape=(1, 8, 8), count=64):
    part = Split((torch.randn(count, *shape, generator=torch.Generator().manual_seed(2)),))
    return Dataset("random", part, part, part)


def test_values_are_rounded_around_the_layers_that_read_them():
    torch.manual_seed(0)
    net = Plain().eval()
    c = compiled(net, IMAGE, "quant", data=data())
    made = c.apply_to(net)
    assert type(made) is Plain
    torch.testing.assert_close(made(IMAGE), c.module()(IMAGE))
    rounded = made.b
    assert (rounded.weight.dtype, rounded.out_channels) == (torch.int8, 8)
    (pair,) = [op for op in c.graph if op.kind.startswith(PAIR) and op.inputs == ("act",)]
    scale, zero, least, most, _ = pair.args[1:]
    x = torch.randn(2, 8, 8, 8)
    steps = (x.double() / scale).round().add(zero).clamp(least, most) - zero
    weight = rounded.weight.double() * rounded.scale.double()[:, None, None, None]
    want = F.conv2d(steps * scale, weight, rounded.bias.double())
    torch.testing.assert_close(rounded(x).double(), want, atol=1e-4, rtol=1e-4)
    made.a.bias.requires_grad_()
    made(IMAGE).sum().backward()
    assert made.a.bias.grad is not None  # as if nothing were rounded


PAIR = "quantized_decomposed.quantize"


def test_a_rounded_value_that_code_makes_for_code_is_refused_by_name():
    torch.manual_seed(0)
    net = Adds(by_code=True).eval()
    c = compiled(net, IMAGE, "quant", data=data())
    wanted = r"CC507.*must be what a layer is given, or what one makes.*%relu.*at %add"
    with pytest.raises(CompresscError, match=wanted):
        c.apply_to(net)


def test_what_is_added_is_rounded_around_the_layers_that_make_it():
    torch.manual_seed(0)
    net = Adds(by_code=False).eval()
    c = compiled(net, IMAGE, "quant", data=data())
    made = c.apply_to(net)
    torch.testing.assert_close(made(IMAGE), c.module()(IMAGE))


class Twice(nn.Module):
    """One layer in two places."""

    def __init__(self, far: bool = False) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(8, 16), nn.Linear(16, 16)
        self.far = far

    def forward(self, x):
        """[n, 16]."""
        x = self.again(F.relu(self.first(x)))
        return self.again(F.relu(x) * (100 if self.far else 1))


def test_a_layer_that_is_used_twice_is_put_in_once():
    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(4, 8)
    for passes in ("quant(mode=weights)", "quant(mode=dynamic)", "quant(mode=weights,bits=4)"):
        c = compiled(net, x, passes, data=data(shape=(8,)))
        made = c.apply_to(net)
        assert made.again.weight.dtype in (torch.int8, torch.uint8)
        torch.testing.assert_close(made(x), c.module()(x))


def test_a_layer_that_is_used_twice_has_one_range():
    torch.manual_seed(0)
    net, x = Twice(far=True).eval(), torch.randn(4, 8)
    c = compiled(net, x, "quant", data=data(shape=(8,)))
    with pytest.raises(
        CompresscError, match=r"CC507.*a module rounds in one range.*'again' is used"
    ):
        c.apply_to(net)


@pytest.mark.parametrize("to", ["bf16", "f16"])
def test_a_module_in_16_bits_takes_and_gives_floats(cnn, to):
    c = compiled(cnn, IMAGE, f"quant(mode=cast,to={to})")
    made = c.apply_to(cnn)
    assert type(made) is DigitsCnn
    assert made.head.weight.dtype == {"bf16": torch.bfloat16, "f16": torch.float16}[to]
    assert made(IMAGE).dtype == torch.float32
    torch.testing.assert_close(made(IMAGE), c.module()(IMAGE))
    assert cnn.head.weight.dtype == torch.float32


def test_a_language_model_generates_as_before_the_cache():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
    net = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, use_cache=False)).eval()
    c = compiled(net, ("input_ids: i64[b,s]",), "student(depth=0.5),prune(ratio=0.5)")
    made = c.apply_to(net)
    attention = made.transformer.h[1].attn
    assert (len(made.transformer.h), made.config.n_layer, attention.layer_idx) == (2, 2, 1)
    assert (attention.num_heads, attention.split_size, attention.c_attn.nf) == (2, 16, 48)
    ids = torch.randint(0, 97, (2, 5))
    runs = [made.generate(ids, max_new_tokens=4, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*runs)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def test_a_recurrent_layer_computes_with_its_new_weights():
    torch.manual_seed(0)
    net = Tagger().eval()
    c = compressc.compile(net, "prune(ratio=0.5)", inputs=("f32[b,s,8]",), cache=None)
    for tensor in c.graph.tensors().values():
        tensor.data.mul_(1.5)  # as a training would
    made, x = c.apply_to(net), torch.randn(2, 5, 8)
    assert (made.rnn.hidden_size, made.head.in_features) == (6, 6)
    torch.testing.assert_close(made(x), c.module()(x))
    assert not torch.allclose(made(x), net(x))


def test_a_computed_weight_is_refused():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 32))
    net = nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 4)).eval()
    with pytest.raises(CompresscError, match=r"CC507.*remove_parametrizations"):
        compiled(net, torch.randn(3, 8), "prune(ratio=0.5)").apply_to(net)


class Recurrent(nn.Module):
    """Ids [n, length] -> scores [n, length, 5], with the last states read as torch gives them."""

    def __init__(self, rnn):
        super().__init__()
        self.words, self.rnn, self.out = nn.Embedding(30, 16), rnn, nn.Linear(48, 5)
        self.end = nn.Linear(48, 5)

    def forward(self, ids):
        y, last = self.rnn(self.words(ids))
        last = last[0] + last[1] if isinstance(last, tuple) else last
        return self.out(y) + self.end(torch.cat([last[-2], last[-1]], 1))[:, None]


class Sequences(nn.Module):
    """The sequence of a recurrent layer, [n, length, hidden]."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(
    "rnn",
    [
        nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True),
        nn.GRU(16, 24, batch_first=True, bidirectional=True),
    ],
    ids=["lstm", "gru"],
)
def test_recurrent_layers_are_narrower_or_hold_integers(rnn):
    torch.manual_seed(0)
    net = Recurrent(rnn).eval()
    ids = torch.randint(0, 30, (3, 7))
    pruned = compiled(net, ("i64[b,s]",), "prune(ratio=0.5)")
    made = pruned.apply_to(net)
    assert type(made.rnn) is type(rnn)
    assert (made.rnn.input_size, made.rnn.hidden_size) == (8, 16)
    assert torch.equal(made(ids), pruned.module()(ids))
    made.train()(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    stored = compiled(net, ("i64[b,s]",), "prune(ratio=0.5),quant(mode=dynamic)")
    made = stored.apply_to(net)
    assert made.rnn.hidden_size == 16
    assert torch.equal(made(ids), stored.module()(ids))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_read_thin_inputs(kind, layers):
    """The module is called as before, with states or without, and trains on."""
    torch.manual_seed(0)
    dropout = 0.25 if layers > 1 else 0.0
    net = Recurrent(kind(16, 24, layers, batch_first=True, bidirectional=True, dropout=dropout))
    ids = torch.randint(0, 30, (3, 7))
    thin = compiled(net.eval(), ("i64[b,s]",), "lowrank(rank=3)")
    made = thin.apply_to(net)
    torch.testing.assert_close(made(ids), thin.module()(ids), rtol=0, atol=0)
    assert (made.rnn.input_size, made.rnn.hidden_size, made.rnn.num_layers) == (16, 24, layers)
    assert sum(type(part) is nn.Linear for part in made.rnn.parts) == layers
    assert sum(type(part) is nn.Dropout for part in made.rnn.parts) == layers - 1
    x, states = torch.randn(3, 7, 16), torch.randn(2 * layers, 3, 24)
    given = (states, states) if kind is nn.LSTM else states
    out, last = made.rnn(x, given)
    assert not torch.equal(out, made.rnn(x)[0])
    assert (last[0] if kind is nn.LSTM else last).shape == states.shape
    made.train()(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_recurrent_layers_with_thin_inputs_are_given_the_states_of_each():
    """Without loss they give what torch's own class gives, from states of the user's."""
    torch.manual_seed(0)
    rnn = nn.LSTM(16, 24, 2, batch_first=True)
    for weight in (rnn.weight_ih_l0, rnn.weight_ih_l1):
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        weight.data.copy_((u[:, :3] * s[:3]) @ v[:3])
    net = Sequences(rnn).eval()
    x, states = torch.randn(3, 7, 16), (torch.randn(2, 3, 24), torch.randn(2, 3, 24))
    made = compiled(net, ("f32[b,s,16]",), "lowrank(rank=3)").apply_to(net)
    assert len(made.rnn.parts) == 4
    (ours, our_states), (wanted, last) = made.rnn(x, states), rnn(x, states)
    for one, other in zip((ours, *our_states), (wanted, *last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Mixed(nn.Module):
    """Multiplies by tensors of its own. f32[n,12] -> f32[n,4]."""

    def __init__(self):
        super().__init__()
        self.first, self.mix = nn.Linear(12, 16), nn.Parameter(torch.randn(16, 16) / 4)
        self.out = nn.Parameter(torch.randn(16, 4))

    def forward(self, x):
        return torch.relu(torch.relu(self.first(x)) @ self.mix) @ self.out


def test_tensors_that_the_modules_code_multiplies_by_are_cut_in_place():
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.randn(5, 12)
    pruned = compiled(net, ("f32[b,12]",), "prune(ratio=0.5)")
    made = pruned.apply_to(net)
    assert (made.mix.shape, made.out.shape) == ((8, 8), (8, 4))
    assert isinstance(made.mix, nn.Parameter)
    torch.testing.assert_close(made(x), pruned.module()(x))
