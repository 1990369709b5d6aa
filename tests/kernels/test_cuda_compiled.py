"""The CUDA kernels as nvcc compiles them for GPUs that are not here: what the machine code needs.

Built by CMakeLists.txt as an installation with COMPRESSC_CUDA=1 builds them; the build is kept, so
that only the first run takes time.
"""

import fcntl
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("sm_80", "sm_90")
KERNELS = {
    "softmax_kl_rows": 12,
    "topk_kl_rows": 3,
    "lowrank_linear_rows": 9,
    "scale_rows_kernel": 3,
}
#: Two blocks of 512 threads on one multiprocessor, which has 65,536 registers.
REGISTERS = 64
SHARED = 2048  # bytes: reductions, and the 1 KiB that sm_90 has for itself; rows come on top


class Used(NamedTuple):
    """What one kernel needs on one architecture."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    local: int
    shared: int


def cuobjdump(*arguments: str) -> str:
    triton = pytest.importorskip("triton", reason="triton's wheel has cuobjdump")
    at_hand = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    tool = str(at_hand) if at_hand.exists() else shutil.which("cuobjdump")
    if tool is None:
        pytest.skip("no cuobjdump to read machine code with")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


@cache
def build() -> Path:
    """libcompressc_cuda.so."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc: the CUDA kernels were not compiled for GPUs")
    folder = ROOT / "build" / "cuda-gate"
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCOMPRESSC_CUDA=ON"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "build.ninja").exists():
            try:
                subprocess.run(configure, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("no CMake, Ninja or C++ compiler")
        made = subprocess.run(
            ["cmake", "--build", str(folder), "--target", "compressc_cuda"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    assert made.returncode == 0, made.stdout
    return folder / "libcompressc_cuda.so"


def read(dump: str) -> list[Used]:
    """What `cuobjdump --dump-resource-usage` says, one entry for each kernel and architecture."""
    found = []
    for part in re.split(r"arch = ", dump)[1:]:
        for name, numbers in re.findall(r"Function (\S+):\n(.*)", part):
            kernel = next((kernel for kernel in KERNELS if kernel in name), name)
            of = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", numbers)}
            found.append(
                Used(part.split()[0], kernel, *map(of.get, ("REG", "STACK", "LOCAL", "SHARED")))
            )
    return found


def gate(kernels: list[Used]) -> None:
    for used in kernels:
        assert used.stack == used.local == 0, f"registers spill: {used}"
        assert used.registers <= REGISTERS, used
        assert used.shared <= SHARED, used


def test_every_kernel_for_every_architecture_without_spills():
    kernels = read(cuobjdump("--dump-resource-usage", str(build())))
    gate(kernels)
    for architecture in ARCHITECTURES:
        names = [used.kernel for used in kernels if used.architecture == architecture]
        assert {name: names.count(name) for name in names} == KERNELS
    for kernel in KERNELS:
        of = [used for used in kernels if used.kernel == kernel]
        print(
            kernel, max(u.registers for u in of), "registers,", max(u.shared for u in of), "bytes"
        )


def test_rows_are_read_128_bits_at_a_time():
    text = cuobjdump("--dump-ptx", str(build()))
    entries = re.split(r"\.entry ", text)[1:]
    assert len(entries) == sum(KERNELS.values())
    for entry in entries:
        assert re.search(r"ld(\.global)?\.v4\.[a-z]32", entry), entry[:200]
        if "lowrank" not in entry[:200]:
            assert re.search(r"st(\.global)?\.v4\.[a-z]32", entry), entry[:200]


def test_cmake_names_every_source():
    listed = set(re.findall(r"csrc/cuda/\w+\.cu", (ROOT / "CMakeLists.txt").read_text()))
    assert listed == {f"csrc/cuda/{path.name}" for path in (ROOT / "csrc/cuda").glob("*.cu")}


def test_the_gate_closes():
    good = Used("sm_80", "softmax_kl_rows", 60, 0, 0, 448)
    gate([good])
    for bad in ({"stack": 8}, {"local": 4}, {"registers": 65}, {"shared": 4096}):
        with pytest.raises(AssertionError):
            gate([good, good._replace(**bad)])
    line = "arch = sm_90\n Function _Z15topk_kl_rowsX:\n  REG:40 STACK:16 SHARED:128 LOCAL:0\n"
    assert read(line) == [Used("sm_90", "topk_kl_rows", 40, 16, 0, 128)]
