"""Compiles the Triton kernels for GPUs that need not be here, and reads the machine code.

Started by test_triton.py in a process of its own. Prints one line per kernel and architecture:
registers, stack (spills), shared memory, and whether memory is read 128 bits at a time.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from compressc.kernels.triton import lowrank_linear, scale_rows, softmax_kl, topk_kl

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
OPTIONS = {"num_warps": softmax_kl.WARPS, "maxnreg": softmax_kl.REGISTERS}
#: Ranks up to what `lowrank.gpu.MOST_RANK` allows.
RANKS = {"*fp32": (16, 64, 128), "*bf16": (16, 64, 256), "*fp16": (16, 64, 256)}
KINDS = {
    "forward": {"DIRECTION": 0, "LABELS": False},
    "reverse": {"DIRECTION": 1, "LABELS": False},
    "jensen_shannon": {"DIRECTION": 2, "LABELS": False},
    "labels": {"DIRECTION": 0, "LABELS": True},
}


class Variant(NamedTuple):
    """A kernel, its arguments' types, and its constants."""

    kernel: object
    types: dict[str, str]  # of everything but the constants
    constants: dict[str, object]
    options: dict[str, int]


def loss(dtype: str, kind: str, want_grad: bool) -> Variant:
    pointers = {"student": dtype, "teacher": dtype, "weight": "*fp32", "labels": "*i64"}
    pointers |= {"loss": "*fp32", "grad": dtype}
    sizes = {"vocab": "i32", "student_stride": "i32", "teacher_stride": "i32"}
    numbers = dict.fromkeys(("temperature", "scale", "kl_share", "smoothing"), "fp32")
    constants = {"HAS_WEIGHT": True, "WANT_GRAD": want_grad, "BLOCK": softmax_kl.BLOCK}
    constants |= KINDS[kind]
    return Variant(softmax_kl.softmax_kl_rows, pointers | sizes | numbers, constants, OPTIONS)


def topk(dtype: str, want_grad: bool) -> Variant:
    pointers = {"student": dtype, "values": "*fp32", "indices": "*i64", "tail": "*fp32"}
    pointers |= {"weight": "*fp32", "loss": "*fp32", "grad": dtype}
    sizes = {"vocab": "i32", "k": "i32", "student_stride": "i32"}
    numbers = {"temperature": "fp32", "scale": "fp32"}
    constants = {"HAS_WEIGHT": True, "WANT_GRAD": want_grad, "KNOWN": 64, "BLOCK": softmax_kl.BLOCK}
    return Variant(topk_kl.topk_kl_rows, pointers | sizes | numbers, constants, OPTIONS)


def product(dtype: str, rank: int) -> Variant:
    pointers = dict.fromkeys(("x", "v", "u", "bias", "y"), dtype)
    sizes = dict.fromkeys(("rows", "inner", "rank", "out"), "i32")
    constants = {"HAS_BIAS": True, **lowrank_linear.tiles(rank, 4 if dtype == "*fp32" else 2)}
    kernel = lowrank_linear.lowrank_linear_rows
    return Variant(kernel, pointers | sizes, constants, {"num_warps": lowrank_linear.warps(rank)})


def factors(dtype: str) -> Variant:
    types = {"data": dtype, "scale": "*fp32", "columns": "i32", "scale_stride": "i32"}
    constants: dict[str, object] = {"BLOCK": scale_rows.BLOCK}
    return Variant(scale_rows.scale_rows_kernel, types, constants, {"num_warps": 4})


def compile_for(capability: int, variant: Variant):
    """The compiled kernel, with pointers and sizes divisible by 16 as in every real model."""
    signature = {**variant.types, **dict.fromkeys(variant.constants, "constexpr")}
    names = list(signature)
    divisible = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in variant.types.items()
        if kind != "fp32" and name not in ("rows", "k")
    }
    source = ASTSource(variant.kernel, signature, constexprs=variant.constants, attrs=divisible)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=variant.options)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and so on, as the CUDA tools report them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def main() -> None:
    everything = "--all" in sys.argv
    variants: dict[str, Variant] = {}
    for dtype in ("*fp32", "*bf16", "*fp16") if everything else ("*bf16",):
        for want_grad in (True, False) if everything else (True,):
            for kind in KINDS:
                variants[f"{kind} {dtype} grad={want_grad}"] = loss(dtype, kind, want_grad)
            variants[f"topk {dtype} grad={want_grad}"] = topk(dtype, want_grad)
        variants[f"scale_rows {dtype}"] = factors(dtype)
        for rank in RANKS[dtype] if everything else (64,):
            variants[f"lowrank {dtype} rank={rank}"] = product(dtype, rank)
    for capability in (80, 90):
        for name, variant in variants.items():
            compiled = compile_for(capability, variant)
            used = resources(compiled.asm["cubin"])
            wide = r"(ld\.global[^;]*\.v4\.b32|cp\.async[^;]* 0x10)"
            vector = bool(re.search(wide, compiled.asm["ptx"]))
            print(
                f"sm_{capability} {name} registers={used['REG']} stack={used['STACK']} "
                f"local={used['LOCAL']} shared={compiled.metadata.shared} vector={vector}"
            )


if __name__ == "__main__":
    sys.exit(main())
