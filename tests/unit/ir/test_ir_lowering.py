"""A lowered graph computes, bit for bit, what the module it came from computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compressc.frontend import export_module, import_program
from compressc.ir import Graph, layer_tensors, lower, module_names
from tests.models import ZOO


def _resized(example: tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat([tensor, tensor.flip(0)])[:batch].contiguous() for tensor in example)


def test_outputs_are_bit_equal_at_every_batch_size(graph: Graph) -> None:
    module, example = ZOO[graph.name]()
    lowered = lower(graph)
    torch.backends.mha.set_fastpath_enabled(False)  # the fused path rounds differently
    try:
        for batch in (4, 1, 7):
            inputs = _resized(example, batch)
            with torch.no_grad():
                wanted, got = tree_leaves(module(*inputs)), tree_leaves(lowered(*inputs))
            assert len(wanted) == len(got)
            for a, b in zip(wanted, got, strict=True):
                assert torch.equal(a, b), f"batch {batch}: {(a - b).abs().max()}"
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_it_runs_where_it_is_moved_to(graph: Graph) -> None:
    # `meta` stands for a GPU: a tensor that an op made on the CPU cannot be used beside its tensors
    _, example = ZOO[graph.name]()
    moved = copy.deepcopy(lower(graph)).to("meta")
    outputs = tree_leaves(moved(*(x.to("meta") for x in example)))
    assert {x.device.type for x in outputs} == {"meta"}


class Positions(nn.Module):
    """Makes tensors anew: `arange`, `full`, and a mask; f32[b,s,4] -> f32[b,s,4]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        mask = (steps[:, None] >= steps).to(x.dtype)
        return mask @ x + torch.full((x.shape[1], 1), 0.5, device=x.device)


def test_what_ops_make_anew_is_made_where_the_inputs_are() -> None:
    example = (torch.randn(2, 5, 4),)
    graph = import_program(export_module(Positions(), example))
    assert "device.cpu" in str(graph)
    lowered = lower(graph)
    assert torch.equal(lowered(*example), Positions()(*example))
    assert lowered(example[0].to("meta")).device.type == "meta"


def test_the_output_structure_is_kept() -> None:
    module, example = ZOO["two_inputs"]()
    graph = import_program(export_module(module, example))
    out = lower(graph)(*example)
    assert set(out) == {"logits", "features"}
    assert isinstance(out["features"], tuple)


def test_every_parameter_gets_a_gradient_in_train_mode(graph: Graph) -> None:
    _, example = ZOO[graph.name]()
    lowered = lower(graph).train()
    leaves = tree_leaves(lowered(*example))
    sum(leaf.square().sum() for leaf in leaves).backward()
    missing = [name for name, p in lowered.named_parameters() if p.grad is None]
    assert not missing
    assert any(module.training for module in lowered.modules() if module is not lowered)


def test_a_lowered_module_shares_the_graphs_layers(digits: Graph) -> None:
    lowered = lower(digits)
    held = {id(t) for op in digits if op.layer for _, t in layer_tensors(op.layer)}
    assert {id(p) for p in lowered.parameters()} <= held
    assert set(module_names(lowered).values()) == {op.name for op in digits if op.layer is not None}


def test_values_inside_can_be_returned_too(digits: Graph) -> None:
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        out, (hidden,) = lower(digits, also=["pointwise"])(x)
        assert torch.equal(out, lower(digits)(x))
    assert hidden.shape == (3, 32, 4, 4)


@pytest.mark.parametrize("name", ["vit", "two_inputs", "in_place", "tied_weights"])
def test_a_lowered_module_exports_again(name: str) -> None:
    module, example = ZOO[name]()
    lowered = lower(import_program(export_module(module, example)))
    dims = tuple({0: torch.export.Dim.AUTO} for _ in example)
    program = torch.export.export(lowered, example, dynamic_shapes=dims, strict=False)
    inputs = _resized(example, 6)
    with torch.no_grad():
        for a, b in zip(
            tree_leaves(program.module()(*inputs)), tree_leaves(lowered(*inputs)), strict=True
        ):
            assert torch.allclose(a, b)


def test_a_width_symbol_becomes_its_number(vit: Graph) -> None:
    from compressc.ir import symbol

    vit.widths = {"w0": 4}
    op = vit["blocks.0.attn.reshape"]
    vit.set_inputs(op.name, (op.args[0], (symbol("b"), 17, 3, symbol("w0"), 8)))
    module, example = ZOO["vit"]()
    with torch.no_grad():
        assert torch.equal(lower(vit)(*example), module(*example))
