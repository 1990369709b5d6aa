"""Looking at what the layers of a module are given, while batches run through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressc.ir.lowering import module_names
from compressc.pipeline import Context
from compressc.tasks import task_of

#: Looks at an input of a layer, and at which positions of the batch are no padding.
Look = Callable[[Tensor, Tensor | None], None]


@torch.no_grad()
def look_at_inputs(
    module: fx.GraphModule,
    looks: Mapping[str, Look],
    batches: Iterable[tuple[Tensor, ...]],
    count: int,
    ctx: Context,
) -> None:
    """Run all batches; no hook is left behind.

    Args:
        module: as `lower` gives it.
        looks: op of a layer -> what looks at its input.
        batches: inputs of the model.
        count: how many there are, for progress.
        ctx: of the pass.
    """
    targets = {name: target for target, name in module_names(module).items()}
    task, valid = task_of(ctx), list[Tensor | None]([None])

    def hook(look: Look) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda layer, args: look(args[0], valid[0])

    hooks = [
        module.get_submodule(targets[name]).register_forward_pre_hook(hook(look))
        for name, look in looks.items()
    ]
    try:
        for done, batch in enumerate(batches):
            ctx.progress("looking at inputs of layers", done, count)
            valid[0] = task.valid(batch)
            module(*batch)
    finally:
        for handle in hooks:
            handle.remove()
