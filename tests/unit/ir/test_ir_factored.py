"""Factored pairs of a lowered graph run as one call; everything else is left as it is."""

from __future__ import annotations

import torch
from torch import nn

import compressc
from compressc.frontend import load_model
from compressc.ir import fuse_factored, lower
from compressc.kernels import lowrank_linear


class Factored(nn.Module):
    """One factored pair, and four pairs that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(24, 4, bias=False), nn.Linear(4, 16)
        self.wide, self.last = nn.Linear(16, 32, bias=False), nn.Linear(32, 20)  # not thin
        self.biased, self.after = nn.Linear(20, 4), nn.Linear(4, 20)
        self.read, self.twice = nn.Linear(20, 4, bias=False), nn.Linear(4, 20)
        self.bent, self.end = nn.Linear(20, 4, bias=False), nn.Linear(4, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.after(self.biased(self.last(self.wide(self.u(self.v(x))))))
        thin = self.read(x)
        x = self.twice(thin) + thin.sum(-1, keepdim=True)
        return self.end(self.bent(x).relu())


def loaded() -> tuple[nn.Module, torch.fx.GraphModule]:
    torch.manual_seed(0)
    net = Factored().eval()
    return net, lower(load_model(net, example=(torch.randn(3, 24),)).graph)


def test_a_thin_pair_is_one_call_and_nothing_else_is() -> None:
    net, module = loaded()
    names = list(module.state_dict())
    fuse_factored(module)
    calls = [n for n in module.graph.nodes if n.target is lowrank_linear]
    assert [[str(a) for a in call.args[1:]] for call in calls] == [
        ["v_weight", "u_weight", "u_bias"]
    ]
    left = {str(n.target) for n in module.graph.nodes if n.op == "call_module"}
    assert left >= {"wide", "last", "biased", "after", "read", "twice", "bent", "end"}
    assert list(module.state_dict()) == names
    x = torch.randn(7, 24)
    with torch.no_grad():
        torch.testing.assert_close(module(x), net(x))


def test_it_trains_and_exports_as_two_layers() -> None:
    net, module = loaded()
    fuse_factored(module)
    x = torch.randn(5, 24)
    module(x).square().sum().backward()
    net(x).square().sum().backward()
    for name in ("v", "u"):
        got, want = (m.get_submodule(name).weight.grad for m in (module, net))
        torch.testing.assert_close(got, want)
    program = torch.export.export(module, (x,))
    assert not any("lowrank" in str(node.target) for node in program.graph.nodes)


def test_a_layer_with_a_hook_is_left_alone() -> None:
    _, module = loaded()
    seen: list[int] = []
    module.get_submodule("v").register_forward_hook(lambda *_: seen.append(1))
    fuse_factored(module)(torch.randn(2, 24))
    assert seen == [1]


def test_what_lowrank_factored_is_fused_in_the_module_that_users_get() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    compiled = compressc.compile(net, "lowrank(rank=8)", inputs=["f32[b,64]"], cache=None)
    module = compiled.module()
    assert isinstance(module, torch.fx.GraphModule)
    assert sum(node.target is lowrank_linear for node in module.graph.nodes) == 2
    x = torch.randn(9, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), lower(compiled.graph)(x))


def test_the_module_that_users_get_is_theirs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    compiled = compressc.compile(net, "simplify", inputs=["f32[b,8]"], cache=None)
    module, before = compiled.module(), next(iter(compiled.graph.tensors().values())).clone()
    view = next(module.parameters()).detach().numpy()
    copy = compiled.graph.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    assert (view == 7.0).all()  # still the same bytes
    for graph in (compiled.graph, copy):
        torch.testing.assert_close(next(iter(graph.tensors().values())), before)
