"""Times of small models: which calls count, what profiles say, and the script by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressc.measure import layer_times
from compressc.measure.layer_times import (
    Sample,
    Timed,
    _timed,
    kernel_seconds,
    time_models,
    time_ratio,
)
from compressc.probe.sketch import Sketch


def event(name: str, microseconds: int, kind: str = "Conv") -> dict:
    node = name.endswith("_time")
    return {
        "cat": "Node" if node else "Session",
        "name": name,
        "dur": microseconds,
        "args": {"op_name": kind} if node else {},
    }


def test_kernels_of_each_run_without_layouts():
    events = [
        event("session_initialization", 900),
        event("in_kernel_time", 7, "ReorderInput"),
        event("a_kernel_time", 20),
        event("a_fence_before", 3),
        event("b_kernel_time", 5, "Relu"),
        event("model_run", 50),
        event("a_kernel_time", 30),
        event("out_kernel_time", 9, "ReorderOutput"),
        event("model_run", 60),
    ]
    assert kernel_seconds(events) == pytest.approx([25e-6, 30e-6])


def test_the_slower_half_and_the_very_fastest_do_not_count():
    values = [1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 50.0, 60.0, 70.0, 80.0, 90.0]
    calls = [Sample(value / 1e3, 1.0) for value in values]
    assert _timed(calls, 2) == pytest.approx(Timed((2 + 2 + 2 + 3 + 3) / 5, 2.0, 80.0, 2))
    assert _timed(calls[:1], 0).ms == pytest.approx(1.0)


def test_calls_that_waited_do_not_count_where_others_did_not():
    calm = [Sample(0.004, 0.95)] * 5
    waited = [Sample(0.0004, 0.1)] * 20  # a wait outside of the kernel makes it look short
    assert _timed([*waited, *calm], 0).ms == pytest.approx(4.0)
    few = [Sample(0.004, 0.8)] * 3
    assert _timed([*waited, *few], 0).high_ms == pytest.approx(4.0)


def test_a_call_that_waited_counts_for_what_it_had():
    model = layer_times._Model.__new__(layer_times._Model)
    model.whole = True
    model.calls = [layer_times.Sample(2.0, 0.5), layer_times.Sample(1.0, 1.0)]
    assert [call.wall for call in model.seconds(1)] == pytest.approx([1.0, 1.0])
    model.calls = [layer_times.Sample(1.0, 2.0), layer_times.Sample(2.0, 1.0)]  # of two threads
    assert [call.wall for call in model.seconds(2)] == pytest.approx([1.0, 1.0])


def product(width: int) -> dict:
    sketch = Sketch()
    x = sketch.read(layer_times_dtype(), (64, width))
    made = sketch.node("MatMul", x, sketch.weight(width, width))
    return {"source": sketch.model(made), "inputs": sketch.inputs, "whole": False}


def layer_times_dtype():
    import torch

    return torch.float32


def test_models_in_the_runtime_take_longer_the_more_they_do():
    rows = [product(256), product(32), {**product(256), "whole": True}]
    found = time_models(rows, lambda row: row["source"], 1)
    assert found[0].ms > 5 * found[1].ms > 0
    assert found[2].ms > 0.5 * found[0].ms
    ratio = time_ratio(rows[0], rows[1], lambda r: r["source"], 1, rounds=5, seconds=1.0)
    assert 0 < ratio < 0.3


def test_the_script_runs_by_itself_and_says_what_is_missing(tmp_path):
    script = tmp_path / "measure.py"
    script.write_bytes(Path(layer_times.__file__).read_bytes())
    ran = subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "no plan.json" in ran.stderr
    (tmp_path / "plan.json").write_text(json.dumps({"schema_version": 99}))
    ran = subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "one version" in ran.stderr
    text = script.read_text()
    imported = {
        line.split()[1].partition(".")[0]
        for line in map(str.strip, text.splitlines())
        if line.startswith(("import ", "from "))
    }
    assert imported - set(sys.stdlib_module_names) == {"onnxruntime", "numpy"}
