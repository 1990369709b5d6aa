"""Memory: what torch holds while a call runs, and whether the batches that are asked for fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.profiler import ProfilerActivity, profile

from compressc.analysis import peak_memory
from compressc.data.npz import available_memory
from compressc.errors import CompresscError
from compressc.ir import Graph

#: The batch that memory is derived at; it grows in proportion.
_PROBE = 8


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator held at once during one call, beyond those before.

    What the call returns counts; what libraries allocate by themselves does not.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        result = run()
    del result
    live = high = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            high = max(high, live)
    return high


def require_memory(graph: Graph, batches: Sequence[int]) -> None:
    """See that the model can be run at these batch sizes, before hours are spent on it.

    Raises:
        CompresscError: CC100 where the activations of the largest exceed the memory that is free.
    """
    free, batch = available_memory(), max(batches, default=0)
    if free is None or not batch or not graph.inputs:
        return
    symbol = str(graph.type_of(graph.inputs[0].name).shape[0])
    probe = graph.within_limits(symbol, _PROBE)
    wanted = peak_memory(graph, **{symbol: probe}).bytes * batch // probe
    if wanted > free:
        raise CompresscError(
            "CC100",
            f"a batch of {batch:,} fits in memory",
            got=f"{wanted // 10**6:,} MB of activations, where {free // 10**6:,} MB are free",
            hint="give smaller --batches",
        )
