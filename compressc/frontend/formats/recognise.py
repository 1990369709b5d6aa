"""What a file is, told by its content; what compressc cannot read gets a message of its own."""

from __future__ import annotations

import zipfile
from enum import Enum
from pathlib import Path

from compressc.errors import CompresscError, first_line
from compressc.frontend.formats.onnx import describe_onnx
from compressc.ir.bundle import TEXT, WEIGHTS

CONFIG, SAFE, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
_EXPORT = 'torch.export.save(torch.export.export(model, inputs), "model.pt2")'
_AGAIN = "it was not written to the end: write or copy it again"


class Format(Enum):
    """The formats `load_model` can read."""

    PROGRAM = "exported program"
    BUNDLE = "bundle"
    PICKLE = "pickle"
    SAFETENSORS = "safetensors"
    WEIGHTS = "folder of weights"
    TORCHSCRIPT = "TorchScript archive"
    HUGGING_FACE = "Hugging Face folder"


def recognise(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        CompresscError: CC200 where it is none that can be read, with what to do instead.
    """
    try:
        if path.is_dir():
            return _recognise_folder(path)
        if path.exists() and not path.is_file():
            raise _no_model("a pipe or a device", path, "give a regular file")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise _no_model("there is no such file", path, "check the path") from None
    except (OSError, ValueError) as error:
        raise _no_model(f"{first_line(error)}", path, "check the path") from error
    return _recognise_file(path, head)


def _recognise_folder(path: Path) -> Format:
    present = {file.name for file in path.iterdir()}
    if present & {TEXT, WEIGHTS}:
        return Format.BUNDLE
    if CONFIG in present:
        return Format.HUGGING_FACE
    if "adapter_config.json" in present:
        hint = "merge it into its model (peft: model.merge_and_unload()) and save that"
        raise _no_model("an adapter without its model", path, hint)
    if present & {SAFE, PICKLED, f"{SAFE}.index.json", f"{PICKLED}.index.json"}:
        return Format.WEIGHTS
    if ".metadata" in present:
        hint = (
            "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
        raise _no_model("a distributed checkpoint", path, hint)
    hint = f"a bundle is a folder with {TEXT} and {WEIGHTS}, a Hugging Face model one with {CONFIG}"
    inner = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))
    if inner:
        hint = f"give the folder in it: {path / inner[0]}"
    raise _no_model("a folder without a model", path, hint)


def _recognise_file(path: Path, head: bytes) -> Format:
    if not head:
        raise _no_model("an empty file", path, _AGAIN)
    if head.startswith(b"PK\x03\x04"):
        return _recognise_zip(path)
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return Format.PICKLE  # torch.save before torch 1.6, or a plain pickle
    if int.from_bytes(head[:8], "little") < path.stat().st_size and head[8:9] == b"{":
        return Format.SAFETENSORS
    if head.startswith(b"GGUF"):
        hint = "compress the model it was made of; GGUF weights are quantized already"
        raise _no_model("a GGUF file", path, hint)
    if head[0] == 0x08 and (described := describe_onnx(path)) is not None:
        hint = (
            f"compress the PyTorch model it came from: {_EXPORT}; or make an nn.Module of it "
            "(onnx2torch does of many) and give that to compressc.compile"
        )
        raise _no_model(f"an ONNX file ({described})", path, hint)
    if head.startswith(b"graph "):
        hint = f"give the folder that holds {TEXT} and {WEIGHTS}"
        raise _no_model("graph text without its weights", path, hint)
    if _is_text(head):
        raise _no_model("a text file", path, f"a model file is written by {_EXPORT}")
    raise _no_model("a file of unknown format", path, f"a model file is written by {_EXPORT}")


def _recognise_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:  # lists names only: nothing is unpacked here
            flat = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _no_model(f"a damaged zip archive: {first_line(error)}", path, _AGAIN) from error
    names = {name.partition("/")[2] for name in flat}
    if any(name.startswith("models/") for name in names):
        return Format.PROGRAM
    if "serialized_exported_program.json" in flat:
        hint = "load it with the torch that wrote it, and save it again with torch 2.8 or later"
        raise _no_model("an exported program in torch's old format", path, hint)
    if "constants.pkl" in names:
        return Format.TORCHSCRIPT
    if "data.pkl" in names:
        return Format.PICKLE
    if any(name.startswith("data/aotinductor/") for name in names):
        hint = f"compiled code cannot be compressed; from the original module write {_EXPORT}"
        raise _no_model("a package of compiled code (AOTInductor)", path, hint)
    if any(name.endswith(".npy") for name in flat):
        raise _no_model("arrays of numpy, which are data", path, "give it as --data")
    raise _no_model("a zip archive without a model", path, f"a model file is written by {_EXPORT}")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the head ends within a character
            return False
        text = head[: error.start].decode("utf-8")
    return all(char.isprintable() or char.isspace() for char in text)


def _no_model(got: str, path: Path, hint: str) -> CompresscError:
    wanted = (
        "a model is an exported program, a bundle, a Hugging Face folder, a TorchScript archive, "
        "a pickled module or a state dict"
    )
    return CompresscError("CC200", wanted, got=got, where=str(path), hint=hint)
