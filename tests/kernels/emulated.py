"""The CUDA kernels, compiled for this machine's processor, under the name of a GPU's.

csrc/cuda/emulation.h plays the GPU; CMakeLists.txt says what is compiled. Built once, rebuilt where
a source has changed.
"""

import ctypes
import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from compressc.kernels import cuda, dispatch

ROOT = Path(__file__).parents[2]
SHARED = 100 << 10  # bytes a block may ask for, somewhat less than a real GPU has


@cache
def build(flags: str = "") -> Path:
    """The emulated library, with these compiler flags as well; skips where there is no compiler."""
    folder = ROOT / "build" / "emulated" / (flags.strip("-").replace(";", "_") or "plain")
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DCOMPRESSC_EMULATED_CUDA=ON"]
    configure += ["-G", "Ninja", f"-DCOMPRESSC_EMULATED_FLAGS={flags}"]
    with (folder / ".lock").open("w") as lock:  # several processes may run tests
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "build.ninja").exists():
            try:
                subprocess.run(configure, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("no CMake, Ninja or C++ compiler to emulate the CUDA kernels with")
        made = subprocess.run(
            ["cmake", "--build", str(folder)], check=False, capture_output=True, text=True
        )
    assert made.returncode == 0, made.stdout
    return folder / "libcompressc_cuda_emulated.so"


def library(flags: str = "") -> ctypes.CDLL:
    """The emulated library, loaded as the real one would be."""
    loaded, reason = cuda.load(build(flags))
    assert loaded is not None, reason
    loaded.compressc_cuda_emulate.argtypes = [ctypes.c_uint, ctypes.c_int64]
    return loaded


@contextmanager
def on_a_gpu(order: int = 2, flags: str = "", shared: int = SHARED) -> Iterator[None]:
    """CPU tensors go to the emulated kernels, as a GPU's would go to the real ones.

    `order` is that of a block's threads: 0 ascending, 1 descending, above: a random one's seed.
    """
    loaded = library(flags)
    loaded.compressc_cuda_emulate(order, shared)
    before, choose = cuda.LIBRARY, dispatch._choose
    cuda.LIBRARY = loaded
    choose.cache_clear()
    dispatch._choose = lambda operator, _, dtypes, forced: choose(operator, "cuda", dtypes, forced)
    try:
        yield
    finally:
        cuda.LIBRARY, dispatch._choose = before, choose
        choose.cache_clear()
