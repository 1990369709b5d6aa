"""A safetensors file whose tensors lie as torch's own allocator would put them.

Mapped weights stay where the file has them. A kernel that starts in the middle of a vector sums in
another order, so bits would change with the place; and `safetensors.torch.save_file` takes no wish.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from compressc.errors import CompresscError
from compressc.ir.sharing import bytes_of

#: Bytes, as torch allocates on a CPU (and a cache line).
ALIGNMENT = 64
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def is_aligned(tensor: torch.Tensor) -> bool:
    """Whether the tensor begins where an allocated one would."""
    return tensor.data_ptr() % ALIGNMENT == 0


def write_aligned(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write contiguous tensors; all but small leftovers begin at multiples of `ALIGNMENT`.

    The format has no room between tensors: those of a whole number of blocks come first, the others
    after them, the smallest last.

    Raises:
        CompresscError: CC400 for a dtype that the format does not have (complex128).
    """
    order = sorted(tensors, key=lambda n: (tensors[n].nbytes % ALIGNMENT > 0, -tensors[n].nbytes))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise CompresscError(
                "CC400", "a weight has a dtype that files have", got=str(tensor.dtype), where=name
            )
        end = start + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.writelines(bytes_of(tensors[name]))
