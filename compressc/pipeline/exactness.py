"""Does a pass that calls itself exact keep the outputs?"""

from __future__ import annotations

import torch

from compressc.errors import CompresscError
from compressc.ir import Graph, largest_error, run_graph
from compressc.pipeline.pass_ import Pass

#: An exact pass may change outputs by this share of their root mean square: what reassociating
#: float32 sums costs, not more.
EXACT_TOLERANCE = 1e-4


def check_exact(pass_: Pass, before: Graph, after: Graph, inputs: tuple[torch.Tensor, ...]) -> None:
    """Run both graphs on the inputs and compare.

    Raises:
        CompresscError: CC501 where an output moved by more than `EXACT_TOLERANCE`.
    """
    error = largest_error(run_graph(after, inputs), run_graph(before, inputs))
    if not error <= EXACT_TOLERANCE:
        raise CompresscError(
            "CC501",
            f"pass '{pass_.name}' declares itself exact: outputs must stay within "
            f"{EXACT_TOLERANCE:g} of their root mean square",
            got=f"{error:.3g}",
        )
