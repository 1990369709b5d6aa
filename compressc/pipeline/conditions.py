"""What decides, beside code and inputs, how sums round: part of every cache key, and on record.

Another number of threads splits sums elsewhere, another processor runs other kernels: the same seed
then gives other weights.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

from compressc import processes
from compressc.target import instruction_set

#: Settings of the libraries that compute, and of our own kernels, by which they choose their code.
SETTINGS = (
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
)


def conditions(device: torch.device) -> dict[str, str]:
    """The conditions of this process at this moment, by name."""
    from compressc.kernels.forced import FORCED

    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "instruction_set": instruction_set(),
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": _device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
        "onednn": str(torch.backends.mkldnn.enabled).lower(),
        "kernels": ",".join(FORCED),
        "processes": str(processes.world()) if processes.world() > 1 else "",
    }
    found |= {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return {name: value for name, value in found.items() if value}


@cache
def processor() -> str:
    """The model of the processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine() or "unknown"


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
