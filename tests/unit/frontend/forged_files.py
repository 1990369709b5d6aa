"""Forged files: archives with members changed, headers and folders written by hand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from compressc.errors import CompresscError
from compressc.frontend import load_model

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"


class Evil:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


def rewrite(
    source: Path,
    target: Path,
    change: dict[str, Callable[[Any], Any]] | None = None,
    extra: dict[str, bytes] | None = None,
    **options: Any,
) -> Path:
    """A copy of an archive with members changed (JSON members as objects) and added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            local, data = name.removeprefix(f"{root}/"), old.read(name)
            if change and local in change and local.endswith(".json"):
                data = json.dumps(change[local](json.loads(data))).encode()
            elif change and local in change:
                data = change[local](data)
            new.writestr(name, data)
        for local, data in (extra or {}).items():
            new.writestr(f"{root}/{local}", data)
    return target


def refusal(path: Path, canary: Path) -> CompresscError:
    """How a file is refused, with proof that nothing ran."""
    with pytest.raises(CompresscError) as caught:
        load_model(path)
    assert not canary.exists()
    return caught.value


def meta(**fields: Any) -> Callable[[Any], Any]:
    def change(config: Any) -> Any:
        config["config"]["fc.weight"]["tensor_meta"].update(fields)
        return config

    return change


def ints(*values: Any) -> list[dict[str, Any]]:
    return [{"as_int": value} for value in values]


def hugging_face(path: Path, **config: Any) -> Path:
    path.mkdir()
    kind = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4}
    (path / "config.json").write_text(json.dumps(kind | {"num_attention_heads": 2} | config))
    safetensors.torch.save_file({"pooler.dense.bias": torch.ones(4)}, path / "model.safetensors")
    return path


def safetensors_file(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + body)
    return path


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def bundle(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "graph.txt").write_text(text)
    safetensors.torch.save_file({"w": torch.ones(2)}, path / "weights.safetensors")
    return path
