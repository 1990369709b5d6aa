"""What a measurement ran on: enough to compare two records, nothing that identifies a machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "nncf", "torch-pruning", "onnx", "onnxruntime", "openvino", "numpy")


def describe_machine() -> dict[str, str | int]:
    """Processor model, cores this process may use, torch's threads, system and architecture."""
    import torch

    from compressc.pipeline.conditions import processor

    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an optional runtime that is not there measured nothing
    return found
