"""Memory of a call: what torch holds while it runs."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


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
