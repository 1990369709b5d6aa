"""Adds the native kernels to the build: CMake compiles them, setuptools packs them.

`COMPRESSC_NATIVE=0` leaves them out, `COMPRESSC_CUDA=1` adds the CUDA kernels. Where no compiler
or no CMake is at hand the build says so and goes on without them: every kernel has a definition in
plain torch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
NAME = "compressc.kernels._native"
CUDA = os.environ.get("COMPRESSC_CUDA", "0") != "0"
CUDA_LIBRARY = "libcompressc_cuda.so"


class CMakeBuild(build_ext):
    """Builds the one extension with the CMakeLists.txt beside this file."""

    def build_extension(self, ext):
        """Compile into the place where setuptools expects the module, or explain why not."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        work = Path(self.build_temp).resolve() / "native"
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(work), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DCMAKE_BUILD_TYPE=Release", f"-DCOMPRESSC_CUDA={'ON' if CUDA else 'OFF'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
        ]  # fmt: skip
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", str(work), "--target", "_native"], check=True)
            self.build_cuda(work, target.parent)
        except (OSError, subprocess.CalledProcessError) as error:
            print(
                f"compressc: native kernels not built ({error}). They need CMake 3.20, Ninja and a "
                "C++17 compiler. Going on without: every kernel also exists in plain torch, "
                "slower. `compressc doctor` shows which one is in use.",
                file=sys.stderr,
            )
        self.built = target.exists()

    def build_cuda(self, work, folder):
        """The CUDA kernels, if they were asked for; without them, say what that means."""
        if not CUDA:
            return
        build = ["cmake", "--build", str(work), "--target", "compressc_cuda"]
        done = subprocess.run(build, check=False).returncode == 0
        if done:
            self.cuda = folder / CUDA_LIBRARY
        if not done:
            print(
                "compressc: COMPRESSC_CUDA=1, but the CUDA kernels were not built: a CUDA toolkit "
                "with nvcc is needed. Going on without: on a GPU the Triton kernels run.",
                file=sys.stderr,
            )

    def run(self):
        """Build, and forget the extension if it could not be built."""
        self.built = False
        self.cuda = None
        in_place, self.inplace = self.inplace, False
        super().run()
        self.inplace = in_place
        if not self.built:
            self.extensions = []
        elif in_place:
            self.copy_extensions_to_source()
            if self.cuda is not None:
                shutil.copy(self.cuda, ROOT / "compressc" / "kernels")


NATIVE = os.environ.get("COMPRESSC_NATIVE", "1") != "0"
setup(
    ext_modules=[Extension(NAME, sources=[])] if NATIVE else [],
    cmdclass={"build_ext": CMakeBuild},
)
