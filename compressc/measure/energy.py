"""Energy of a call: by the processor's own meter where it may be read, else an estimate.

Intel's and AMD's processors count what each package takes (RAPL), and Linux hands that on below
`/sys/class/powercap`, to root alone since 2020 and hardly ever inside a virtual machine. It counts
all that the package does meanwhile, neighbours too: on a busy machine the figure says nothing. The
estimate counts the processor time of this process alone, and leaves out memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compressc.measure.layer_times import Clock, system_clock

#: Where Linux shows the meters.
POWERCAP = Path("/sys/class/powercap")
#: Of a busy core, in the estimate: servers' processors are sold for 4 to 6 W for each core.
WATTS_PER_CORE = 5.0
#: Turns of each callable, and the seconds of them together.
TURNS, SECONDS = 5, 0.5


class Energy(BaseModel):
    """What one call takes.

    Attributes:
        joules: of one call.
        how: `measured` of the processor's packages with all that they did; `estimated` by the
            processor time of the call at `WATTS_PER_CORE`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    joules: float
    how: Literal["measured", "estimated"]


def measure_energy(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    clock: Clock = system_clock,
    meters: Path = POWERCAP,
) -> dict[str, Energy]:
    """Energy of callables that take turns, each at least once in a turn.

    Args:
        runs: name to callable, which computes on the CPU and has run before.
        seconds: that each callable runs.
        seed: of the order within a turn.
        clock: tells wall and CPU time.
        meters: folder of the meters.
    """
    packages = _packages(meters)
    taken = dict.fromkeys(runs, 0.0)
    calls = dict.fromkeys(runs, 0)
    order, shuffle = list(runs), random.Random(seed).shuffle
    for _ in range(TURNS):
        shuffle(order)
        for name in order:
            before = [package.read() for package in packages]
            start, busy = clock()
            while True:
                runs[name]()
                calls[name] += 1
                now, cpu = clock()
                if now - start >= seconds / TURNS * 1e9:
                    break
            if packages:
                taken[name] += sum(p.since(b) for p, b in zip(packages, before, strict=True))
            else:
                taken[name] += (cpu - busy) * 1e-9 * WATTS_PER_CORE
    how: Literal["measured", "estimated"] = "measured" if packages else "estimated"
    return {name: Energy(joules=taken[name] / calls[name], how=how) for name in runs}


class _Package:
    """The meter of one processor; it counts millionths of a joule, and begins anew at its end."""

    def __init__(self, folder: Path) -> None:
        self._now = folder / "energy_uj"
        self._end = int((folder / "max_energy_range_uj").read_text()) + 1
        self.read()

    def read(self) -> int:
        """Where it stands."""
        return int(self._now.read_text())

    def since(self, before: int) -> float:
        """Joules since it stood there."""
        return (self.read() - before) % self._end * 1e-6


def _packages(folder: Path) -> Sequence[_Package]:
    """Those of the whole processors, if all of them can be read."""
    found = []
    with suppress(OSError, ValueError):
        for place in sorted(folder.glob("*:*")):
            if (place / "name").read_text().startswith("package"):
                found.append(_Package(place))
        return found
    return ()
