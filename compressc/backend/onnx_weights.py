"""ONNX models whose weights lie beside the message: they go into a file one after the other.

A protobuf message holds its bytes, its text is as large again, and so is what a parser makes of it:
three times the model, where a file needs one tensor at a time. In a `Beside` the large weights of
the message have no bytes but a mark (`external_data`), and their tensors are in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from compressc.ir.sharing import bytes_of

#: Of fields in onnx.proto that are written around: ModelProto.graph, GraphProto.initializer,
#: TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
#: Wire type of a field with a length in front (protobuf, "Message Structure").
_LENGTH_DELIMITED = 2
#: Smaller weights stay in the message.
_SMALL = 1024
#: Where each weight begins in a file of weights.
_ALIGNMENT = 64


@dataclass
class Beside:
    """A model and the weights that are not in its message.

    Attributes:
        model: an `onnx.ModelProto`; change what is small in it freely.
        weights: what the location of an external tensor says -> its values, f[...].
    """

    model: Any
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Any) -> Beside:
        """Take a `torch.onnx.ONNXProgram` apart; it is not to be used afterwards.

        Matrices and filters in floats go into the table. Vectors and integers are small, or are
        read and changed by what cleans the message.
        """
        import onnx_ir

        weights: dict[str, torch.Tensor] = {}
        for name, value in program.model.graph.initializers.items():
            tensor = getattr(value.const_value, "raw", None)
            if isinstance(tensor, torch.Tensor) and _is_large(tensor):
                weights[name] = tensor.detach()
                held = value.const_value
                value.const_value = onnx_ir.ExternalTensor(
                    name, None, None, held.dtype, shape=held.shape, name=held.name
                )
        return cls(program.model_proto, weights)

    @property
    def bytes(self) -> int:
        """Of message and weights together."""
        read = (self._tensor(stored) for stored in self.model.graph.initializer)
        size: int = self.model.ByteSize()
        return size + sum(tensor.nbytes for tensor in read if tensor is not None)

    def save(self, path: Path) -> None:
        """Write one file with all weights inside: byte for byte what `onnx.save` would write.

        Raises:
            OSError: where the disk refuses.
        """
        graph = self.model.graph
        sizes = [self._size(stored) for stored in graph.initializer]
        inside = sum(len(_head(_INITIALIZER, size)) + size for size in sizes)
        before, after = _around(graph, _INITIALIZER)
        first, last = _around(self.model, _GRAPH)
        with path.open("wb") as file:
            file.write(first + _head(_GRAPH, len(before) + inside + len(after)) + before)
            for stored, size in zip(graph.initializer, sizes, strict=True):
                file.write(_head(_INITIALIZER, size) + _inline(stored))
                tensor = self._tensor(stored)
                if tensor is not None:
                    file.write(_head(_RAW_DATA, tensor.nbytes))
                    file.writelines(bytes_of(tensor.contiguous()))
            file.write(after + last)

    def save_apart(self, path: Path) -> None:
        """Write the message, and beside it the weights, which readers may map.

        Raises:
            OSError: where the disk refuses.
        """
        import onnx

        place = path.with_suffix(".weights")
        with place.open("wb") as file:
            for stored in self.model.graph.initializer:
                tensor = self._tensor(stored)
                if tensor is not None:
                    del stored.external_data[:]
                    facts = (("location", place.name), *_placed(tensor, file))
                    for key, value in facts:
                        stored.external_data.add(key=key, value=str(value))
        self.weights.clear()  # the message speaks of the file now
        onnx.save(self.model, path)

    def _size(self, stored: Any) -> int:
        """Of a `TensorProto` with its bytes inside."""
        tensor = self._tensor(stored)
        if tensor is None:
            size: int = stored.ByteSize()
            return size
        return len(_inline(stored)) + len(_head(_RAW_DATA, tensor.nbytes)) + tensor.nbytes

    def _tensor(self, stored: Any) -> torch.Tensor | None:
        """What a `TensorProto` stands for; None where it holds its bytes."""
        found = [entry.value for entry in stored.external_data if entry.key == "location"]
        return self.weights[found[0]] if found else None


def _is_large(tensor: torch.Tensor) -> bool:
    matrix = tensor.dim() > 1 and tensor.is_floating_point()
    return matrix and tensor.nbytes > _SMALL and tensor.device.type == "cpu"


def _placed(tensor: torch.Tensor, file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Write a tensor at the next good place and say where that is."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    yield "offset", file.tell()
    yield "length", tensor.nbytes
    file.writelines(bytes_of(tensor.contiguous()))


def _inline(stored: Any) -> bytes:
    """A `TensorProto` as it is written; where its bytes are elsewhere, up to them."""
    if stored.external_data:
        stored = type(stored)(dims=stored.dims, data_type=stored.data_type, name=stored.name)
    text: bytes = stored.SerializeToString()
    return text


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The fields before and behind one, as they are written: in the order of their numbers."""
    sides = type(message)(), type(message)()
    for descriptor, value in message.ListFields():
        side = sides[descriptor.number > number]
        if descriptor.number == number:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(side, descriptor.name).MergeFrom(value)
        else:
            setattr(side, descriptor.name, value)
    before, after = (side.SerializeToString() for side in sides)
    return before, after


def _head(number: int, size: int) -> bytes:
    """What stands in front of a field with a length (protobuf, "Encoding")."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    """Seven bits in a byte, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
