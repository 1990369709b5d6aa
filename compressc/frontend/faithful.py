"""Does the graph compute what the module computes? Tracing alone does not promise it.

Libraries ask whether they are being traced and then take another branch; a bug there makes a model
that computes something else, without a word. So every traced module is run once beside its graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from compressc.errors import CompresscError
from compressc.frontend.inputs.arguments import tensors_of
from compressc.ir import Graph
from compressc.ir.running import largest_error, run_graph
from compressc.pipeline.exactness import EXACT_TOLERANCE
from compressc.quiet import quiet


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and afterwards each part in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def has_numbers(module: nn.Module, inputs: Iterable[torch.Tensor]) -> bool:
    """Whether module and inputs can be run: nothing of them is on the meta device."""
    return not any(t.is_meta for t in (*inputs, *module.parameters(), *module.buffers()))


def check_faithful(
    module: nn.Module, program: torch.export.ExportedProgram, graph: Graph
) -> tuple[str, ...]:
    """Run module and graph on the inputs of the trace and compare.

    Returns:
        Notes on what is not equal bit by bit; nothing where there are no numbers to compare
        (weights on the meta device).

    Raises:
        CompresscError: CC206 where an output is off by more than rounding.
    """
    assert program.example_inputs is not None
    call = program.example_inputs
    if not has_numbers(module, tensors_of(call)):
        return ()

    def run() -> list[torch.Tensor]:
        args, kwargs = _fresh(call)
        with quiet(), torch.no_grad():
            return [leaf.clone() for leaf in tensors_of(module(*args, **kwargs))]

    with eval_mode(module):
        wanted, got = run(), run_graph(graph, tensors_of(_fresh(call)))
        error = _error(got, wanted)
        if error > 0 and _error(run(), wanted) > 0:
            return ("the model gives other numbers at every run, so the graph was not compared",)
    if not error <= EXACT_TOLERANCE:
        raise CompresscError(
            "CC206",
            "the traced model must compute what the module computes",
            got=f"outputs that differ by {error:.2g} of their root mean square",
            where=type(module).__name__,
            hint="its code takes another branch when it is traced; with transformers, try "
            'attn_implementation="eager"',
        )
    if error:
        return (
            f"rounds differently than the module, by {error:.1g}: it is traced on another path",
        )
    return ()


def _fresh(call: Any) -> Any:
    """The arguments again, as they were: a model may write into its inputs."""
    return tree_map_only(torch.Tensor, torch.clone, call)


def _error(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest relative difference; infinite for other shapes, 0 only for equal bits."""
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return float("inf")
    pairs = zip(got, wanted, strict=True)
    differing = [(g, w) for g, w in pairs if not torch.equal(g, w)]
    return largest_error(*zip(*differing, strict=True)) if differing else 0.0
