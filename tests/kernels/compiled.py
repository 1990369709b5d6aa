"""Compiles the Triton kernels for GPUs that need not be here, and reads the machine code.

Started by test_triton.py in a process of its own. Prints one line per kernel and architecture:
registers, stack (spills), shared memory, and whether logits are loaded 128 bits at a time.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from compressc.kernels.triton import softmax_kl

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compile_for(capability: int, dtype: str, want_grad: bool):
    """The compiled kernel, with vocabulary and strides divisible by 16 as in every real model."""
    kernel = softmax_kl.softmax_kl_rows
    pointers = {
        "student": dtype,
        "teacher": dtype,
        "weight": "*fp32",
        "loss": "*fp32",
        "grad": dtype,
    }
    sizes = {"vocab": "i32", "student_stride": "i32", "teacher_stride": "i32"}
    numbers = {"temperature": "fp32", "scale": "fp32"}
    constants = {"HAS_WEIGHT": True, "WANT_GRAD": want_grad, "BLOCK": softmax_kl.BLOCK}
    signature = {**pointers, **sizes, **numbers, **dict.fromkeys(constants, "constexpr")}
    names = list(signature)
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *sizes)}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=divisible)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": softmax_kl.WARPS})


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and so on, as the CUDA tools report them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def main() -> None:
    for capability in (80, 90):
        for dtype in ("*fp32", "*bf16", "*fp16") if "--all" in sys.argv else ("*fp32",):
            for want_grad in (True, False) if "--all" in sys.argv else (True,):
                compiled = compile_for(capability, dtype, want_grad)
                used = resources(compiled.asm["cubin"])
                vector = bool(re.search(r"ld\.global[^;]*\.v4\.b32", compiled.asm["ptx"]))
                shared = compiled.metadata.shared
                print(
                    f"sm_{capability} {dtype} grad={want_grad} registers={used['REG']} "
                    f"stack={used['STACK']} local={used['LOCAL']} shared={shared} vector={vector}"
                )


if __name__ == "__main__":
    sys.exit(main())
