"""`import compressc` is light: no plugin, no technique, and not much more than torch itself."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

HEAVY = [
    "nncf",
    "onnx",
    "onnxruntime",
    "openvino",
    "triton",
    "torch_pruning",
    "sklearn",
    "transformers",
    "rich",
    "jinja2",
    "compressc_prune",
    "compressc_distill",
    "compressc_quant",
    "compressc_lowrank",
    "compressc_simplify",
    "compressc_student",
]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_no_plugin() -> None:
    code = f"import sys, compressc; print([m for m in {HEAVY} if m in sys.modules])"
    assert _python(code) == "[]"


def test_import_costs_little_more_than_torch() -> None:
    """Medians of interleaved runs: a ratio, because the machine is noisy."""
    times: dict[str, list[float]] = {"torch": [], "compressc": []}
    for _ in range(3):
        for name, seconds in times.items():
            start = time.perf_counter()
            _python(f"import {name}")
            seconds.append(time.perf_counter() - start)
    ratio = statistics.median(times["compressc"]) / statistics.median(times["torch"])
    assert ratio < 1.5, times


def test_public_names_are_there() -> None:
    import compressc

    for name in compressc.__all__:
        assert getattr(compressc, name) is not None
    assert callable(compressc.compile)
