"""What an ONNX file says about itself, read without unpacking it.

compressc does not read ONNX (docs/decisions/0006-model-files.md); it says what the file is.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

#: Fields of ONNX's ModelProto, and wire types of protobuf.
_IR, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET = 1, 2, 3, 7, 8
_VARINT, _BYTES = 0, 2
_MAX_FIELDS, _MAX_TEXT = 10_000, 200


def describe_onnx(path: Path) -> str | None:
    """`opset 18, written by pytorch 2.13.0`; None where the file is no ONNX model.

    Only the outermost fields are walked: the graph and its weights are skipped.
    """
    size = path.stat().st_size
    texts: dict[int, str] = {}
    opsets: list[int] = []
    graph = False
    with path.open("rb") as file:
        for _ in range(_MAX_FIELDS):
            if file.tell() == size:
                break
            key = _varint(file)
            if key is None or key & 7 not in (_VARINT, _BYTES) or key >> 3 == 0:
                return None
            field, length = key >> 3, _varint(file)
            if length is None:
                return None
            if key & 7 == _VARINT:
                continue
            if length > size - file.tell():
                return None
            graph |= field == _GRAPH
            if field in (_PRODUCER, _PRODUCER_VERSION, _OPSET) and length <= _MAX_TEXT:
                data = file.read(length)
                texts[field] = _printable(data)
                opsets += [_version(data)] if field == _OPSET else []
            else:
                file.seek(length, 1)
    if not graph:
        return None
    writer = f"{texts.get(_PRODUCER, '')} {texts.get(_PRODUCER_VERSION, '')}".strip()
    return f"opset {max(opsets, default=0) or '?'}, written by {writer or 'an unknown program'}"


def _varint(file: IO[bytes]) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _version(data: bytes) -> int:
    """The version of the default operator set; 0 for others, which have a domain (field 1)."""
    if data[:1] != b"\x10":
        if data[:2] != b"\x0a\x00" or data[2:3] != b"\x10":
            return 0
        data = data[2:]
    value = 0
    for position, byte in enumerate(data[1:6]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            break
    return value


def _printable(data: bytes) -> str:
    return "".join(c for c in data.decode("utf-8", "replace") if c.isprintable())[:40]
