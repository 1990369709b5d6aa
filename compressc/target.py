"""Where a model will run: known before the passes run, and carried in `Context.target`.

A pass may read it: int8 weights, for instance, need half their range on x86 without VNNI.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from compressc.errors import CompresscError

#: What instruction sets are called, the most able first, with the flags of /proc/cpuinfo that tell
#: them: every one of a row must be there.
FLAGS: dict[str, tuple[str, ...]] = {
    "amx": ("amx_int8", "avx512_vnni"),
    "avx512_vnni": ("avx512f", "avx512bw", "avx512_vnni"),
    "avx_vnni": ("avx2", "avx_vnni"),
    "avx512": ("avx512f", "avx512bw"),
    "avx2": ("avx2", "fma"),
    "neon_i8mm": ("asimd", "i8mm"),
    "neon_dotprod": ("asimd", "asimddp"),
    "neon": ("asimd",),
}
#: x86 without any of the above.
SSE = "sse"
#: Products of u8 and s8 are added in pairs in 16 bits there (`pmaddubsw`), and saturate.
SATURATING = frozenset({"avx512", "avx2", SSE})
#: What a user writes.
INSTRUCTION_SETS = (*FLAGS, SSE)


#: Threads that a runtime may be given.
MOST_THREADS = 1024


@dataclass(frozen=True)
class Target:
    """What a compilation is for.

    Attributes:
        backends: names of the formats to write.
        batches: batch sizes that count; latency is measured at them.
        threads: threads that a runtime may use where latency is measured.
        device: where passes train: `cpu`, `cuda`, `cuda:1`.
        instruction_set: of the processor that the files will run on, one of `INSTRUCTION_SETS`.
        int8: which layers a file computes in integers: `all` that passes rounded; `gains`: where
            its runtime is measurably faster with them, over all batch sizes, each counting alike.
            The second is a matter of the machine: another run may decide otherwise.
    """

    backends: tuple[str, ...] = ("pt2", "onnx", "openvino")
    batches: tuple[int, ...] = (1, 64, 256)
    threads: int = 1
    device: str = "cpu"
    instruction_set: str = ""
    int8: Literal["all", "gains"] = "all"

    def __post_init__(self) -> None:
        """Fill in this machine's instruction set, and refuse what cannot be.

        Raises:
            CompresscError: CC100 for a batch or thread count below 1, or an unknown instruction
                set; CC603 for a device that is not there.
        """
        if not self.instruction_set:
            object.__setattr__(self, "instruction_set", instruction_set())
        if self.instruction_set not in (*INSTRUCTION_SETS, instruction_set()):
            raise CompresscError(
                "CC100",
                f"an instruction set is one of {', '.join(INSTRUCTION_SETS)}",
                got=self.instruction_set,
            )
        if any(size < 1 for size in (self.threads, *self.batches)):
            raise CompresscError(
                "CC100",
                "batch sizes and threads are positive integers",
                got=f"batches {list(self.batches)}, threads {self.threads}",
            )
        if self.int8 == "gains" and not self.batches:
            raise CompresscError(
                "CC100", "--int8 gains needs a batch size to measure at", hint="--batches 1"
            )
        if self.threads > MOST_THREADS:  # where the system gives no more, OpenMP ends the process
            raise CompresscError(
                "CC100",
                f"at most {MOST_THREADS} threads",
                got=f"{self.threads:,}",
                hint=f"this machine has {os.cpu_count()} processors",
            )
        _check_device(self.device)

    @property
    def saturates_int8(self) -> bool:
        """Whether int8 products overflow there unless the weights take half their range."""
        return self.instruction_set in SATURATING


def instruction_set() -> str:
    """The most able instruction set of this machine's processor, one of `INSTRUCTION_SETS`.

    Where `ATEN_CPU_CAPABILITY` holds torch back, no more than it allows counts: what is computed
    then is what such a processor would compute. A processor of another kind is called by its
    architecture.
    """
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    return name_of(_flags(), platform.machine(), limit)


def name_of(flags: Collection[str], architecture: str, limit: str = "") -> str:
    """The name of the most able instruction set among the flags of a processor.

    Args:
        flags: as /proc/cpuinfo spells them.
        architecture: what to fall back on, as `platform.machine` spells it.
        limit: `default` or `avx2` where no more than that may be used.
    """
    x86 = architecture.lower() in ("x86_64", "amd64", "i386", "i686")
    if x86 and limit == "default":
        return SSE
    if x86 and limit == "avx2":
        flags = [flag for flag in flags if flag in FLAGS["avx2"]]
    for name, needed in FLAGS.items():
        if all(flag in flags for flag in needed):
            return name
    return SSE if x86 else architecture.lower() or "unknown"


@cache
def _flags() -> frozenset[str]:
    """The processor's flags; where there is no /proc/cpuinfo, what torch found out."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return _flags_from_torch()
    # x86 says "flags", ARM "Features"; all cores are alike
    lines = [line.partition(":") for line in text.splitlines()]
    found = (value for key, _, value in lines if key.strip() in ("flags", "Features"))
    return frozenset(next(found, "").split())


def _flags_from_torch() -> frozenset[str]:
    import torch

    if platform.machine() == "arm64":  # every Apple processor has them
        return frozenset(("asimd", "asimddp"))
    capability = torch.backends.cpu.get_cpu_capability()
    names: Sequence[str] = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}.get(capability, ())
    return frozenset(flag for name in names for flag in FLAGS[name])


def _check_device(name: str) -> None:
    """Raise CC603 unless torch can compute there."""
    if name == "cpu":
        return
    import torch

    try:
        torch.ones(1, device=torch.device(name)).add(1).cpu()
    except Exception as error:  # torch raises AssertionError, RuntimeError, NotImplementedError
        raise CompresscError(
            "CC603",
            f"device '{name}' must be there",
            got=next(iter(str(error).splitlines()), type(error).__name__)[:200],
            hint="--device cpu",
        ) from error
