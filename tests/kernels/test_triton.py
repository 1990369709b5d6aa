"""The Triton kernels without a GPU: their logic interpreted, their machine code inspected."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(HERE / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def gate(report: str) -> int:
    """No spills, 128-bit loads; and room for two blocks a multiprocessor.

    The losses use shared memory for reductions only, the product for its tiles.
    """
    lines = report.strip().splitlines()
    for line in lines:
        used = dict(re.findall(r"(\w+)=(\w+)", line))
        product = "lowrank" in line
        assert used["stack"] == used["local"] == "0", line
        assert int(used["registers"]) <= (255 if product else 64), line
        assert int(used["shared"]) <= (80 << 10 if product else 1024), line
        assert used["vector"] == "True", line
    return len(lines)


def test_interpreted_against_float64():
    assert "interpreted: ok" in run("interpreted.py")


def test_compiled_for_gpus_that_are_not_here():
    assert gate(run("compiled.py")) == 14


@pytest.mark.slow
def test_every_shape_interpreted_and_every_variant_compiled():
    assert "interpreted: ok" in run("interpreted.py", "--all")
    report = run("compiled.py", "--all")
    print(report)
    assert gate(report) == 2 * 3 * (2 * 5 + 3 + 1)


def test_the_gate_closes():
    good = "sm_80 *fp32 registers=60 stack=0 local=0 shared=32 vector=True"
    assert gate(good) == 1
    for bad in ("stack=8", "local=4", "registers=255", "shared=65536", "vector=False"):
        name = bad.split("=")[0]
        with pytest.raises(AssertionError):
            gate(re.sub(rf"{name}=\w+", bad, good))
