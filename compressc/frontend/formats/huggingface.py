"""A Hugging Face folder (`config.json` and weights) as a module, read without running its code.

transformers builds the network, but it is given neither the folder nor the file: it gets a
configuration whose every key that could fetch, import or replace code is left out, and tensors that
were read here. Nothing is looked up on the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

from compressc.errors import CompresscError, first_line
from compressc.frontend.formats.archive import load_safetensors, load_tensors
from compressc.frontend.formats.recognise import CONFIG, PICKLED, SAFE
from compressc.quiet import quiet

_WRITE_AGAIN = f"write it again with model.save_pretrained(folder), which gives {SAFE}"
_MAX_JSON = 16 << 20
#: Keys that say where code or kernels come from, or how weights are packed or spread.
_DROPPED = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "fusion_config", "kernel_config", "distributed_config", "transformers_weights",
    "_name_or_path", "name_or_path", "_commit_hash", "torchscript", "use_cache", "return_dict",
    "output_attentions", "output_hidden_states", "custom_pipelines", "gradient_checkpointing",
}  # fmt: skip
_DTYPES = {"float32", "float16", "bfloat16", "float64"}
#: A number that is a count or a width is no larger than this; positions and ids may be.
_MOST, _UNBOUNDED = 1 << 20, re.compile(r"position|length|theta|_ids?$|window|seed|rate|freq|token")
_LARGEST = 1 << 28


def read_folder(folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a folder that `save_pretrained` wrote, in eval mode, with the task head it has.

    Returns:
        The model, and what the user should know about how it was read.

    Raises:
        CompresscError: CC201 where the model is code in the folder, or its weights a pickle of more
            than tensors; CC200 where transformers is missing or the folder is damaged.
    """
    config = read_json(folder / CONFIG)
    _check_config(config, folder)
    weights = read_weights(folder)
    with _offline():
        transformers = _import_transformers(folder)
        with _bounded(weights, folder), quiet():
            model, info = _build(transformers, config, weights, folder)
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        wrong = missing or [str(key) for key in info["mismatched_keys"]]
        raise _damaged(folder, f"{len(wrong)} missing: {', '.join(wrong[:3])}")
    return model.eval(), tuple(_notes(model, sorted(info["unexpected_keys"])))


def _notes(model: nn.Module, unused: Sequence[str]) -> Iterator[str]:
    if unused:
        yield f"{len(unused)} tensors of the file are not used: {', '.join(unused[:3])}"
    if any("Experts" in type(part).__name__ for part in model.modules()):
        yield "experts are computed by transformers' batched_mm, which rounds differently"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CompresscError: CC200 where it is no regular file, too large, or something else.
    """
    try:
        if not path.is_file():  # a pipe or a device would block, or never end
            raise ValueError("no regular file")
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"larger than {_MAX_JSON >> 20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{path.name}: {first_line(error)}") from error
    return value


# ---- the configuration -------------------------------------------------------------------------


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    for path, value in _walk(config):
        key = path[-1]
        if key in ("auto_map", "custom_generate") and value:
            raise CompresscError(
                "CC201",
                "the model is code in its folder, which would run when loaded",
                got=f"{'.'.join(path)} in {CONFIG}",
                where=str(folder),
                hint="build it yourself and pass the module to compressc.compile; or delete "
                "auto_map, if the class of that name in transformers computes the same",
            )
        if key == "quantization_config" and value:
            method = value.get("quant_method", "") if isinstance(value, dict) else ""
            raise CompresscError(
                "CC200",
                "a model to compress has float weights",
                got=f"weights that are quantized already ({method or 'quantization_config'})",
                where=str(folder),
                hint="compress the model it was quantized from",
            )
        if isinstance(value, int) and abs(value) > _limit_of(key):
            raise _damaged(folder, f"{'.'.join(path)} = {value}")


def _limit_of(key: str) -> int:
    return _LARGEST if _UNBOUNDED.search(key) else _MOST


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with its keys; items of a list have the key of the list."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, path)


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _cleaned(item) for key, item in value.items() if key not in _DROPPED}
    for key in ("dtype", "torch_dtype"):
        if kept.get(key) not in _DTYPES:
            kept.pop(key, None)
    return kept


def _build(
    transformers: Any, config: dict[str, Any], weights: dict[str, torch.Tensor], folder: Path
) -> tuple[nn.Module, dict[str, Any]]:
    kind = config.get("model_type")
    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if not isinstance(kind, str) or kind not in mapping:
        raise CompresscError(
            "CC200",
            f"transformers {transformers.__version__} must know the model type",
            got=repr(kind)[:80],
            where=str(folder / CONFIG),
            hint="a newer transformers may know it; or pass the module to compressc.compile",
        )
    try:
        built = mapping[kind].from_dict(_cleaned(config))
        _make_traceable(built)
        class_ = _model_class(transformers, built, config.get("architectures"), folder)
        with torch.random.fork_rng(devices=[]):  # weights that are not in the file are refused
            model, info = class_.from_pretrained(
                None,
                config=built,
                state_dict=weights,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (CompresscError, _TooLargeError):
        raise
    except Exception as error:  # transformers meets a stranger's configuration: any error says so
        raise _damaged(folder, first_line(error)) from error
    return model, info


def _make_traceable(config: Any) -> None:
    """No cache: a trace takes a whole sequence and gives every position. Experts in plain ATen."""
    config.use_cache = False
    config._experts_implementation = "batched_mm"
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, dict):
            _make_traceable(part)


def _model_class(transformers: Any, config: Any, architectures: Any, folder: Path) -> Any:
    """The class the model was saved as, which has its task head; else the one without a head."""
    names = architectures if isinstance(architectures, list) else []
    if not names:
        return transformers.AutoModel._model_mapping[type(config)]
    name = names[0]
    public = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
    class_ = getattr(transformers, name, None) if public else None
    known = isinstance(class_, type) and issubclass(class_, transformers.PreTrainedModel)
    if not known or not isinstance(config, class_.config_class or ()):  # type: ignore[union-attr]
        raise CompresscError(
            "CC200",
            f"transformers {transformers.__version__} must have the model's class",
            got=str(name)[:80],
            where=str(folder / CONFIG),
            hint="code that is not part of transformers is not run: pass the module itself",
        )
    return class_


# ---- the weights -------------------------------------------------------------------------------


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder: safetensors where it has them, else a pickle of tensors alone.

    Raises:
        CompresscError: CC201 for a pickle of more than tensors, CC200 where it is damaged.
    """
    for name in (SAFE, PICKLED):
        index = folder / f"{name}.index.json"
        if index.exists() or index.is_symlink():
            return _read_shards(folder, index)
        if (folder / name).exists() or (folder / name).is_symlink():
            return _read_file(folder / name)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in _FOREIGN)
    raise CompresscError(
        "CC200",
        f"a Hugging Face folder holds {SAFE} or {PICKLED}",
        got=", ".join(others[:3]) or "no weights",
        where=str(folder),
        hint=_WRITE_AGAIN,
    )


_FOREIGN = {".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".safetensors"}


def _read_shards(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise _damaged(index, "no weight_map")
    weights: dict[str, torch.Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        if not re.fullmatch(r"[\w-][\w.-]*", name):  # a plain name: no other folder
            raise _damaged(index, f"a file named {name[:80]!r}")
        for key, tensor in _read_file(folder / name).items():
            if key in weights:
                raise _damaged(index, f"{key} twice")
            weights[key] = tensor
    lost = sorted(places.keys() - weights)
    if lost:
        raise _damaged(index, f"{len(lost)} tensors are in no file: {', '.join(lost[:3])}")
    return weights


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise _damaged(path, "no regular file")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    try:
        value = load_tensors(path, str(path))
    except CompresscError as error:
        raise error.hinted(_WRITE_AGAIN) from error
    tensors = isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in value.items()
    )
    if not tensors:
        raise _damaged(path, f"a {type(value).__name__}, not tensors by name")
    return dict(value)


# ---- transformers, kept in bounds --------------------------------------------------------------


def _import_transformers(folder: Path) -> Any:
    try:
        with quiet():
            import transformers
            import transformers.models.auto.configuration_auto
    except ImportError as error:
        raise CompresscError(
            "CC200",
            "a Hugging Face folder is read with transformers",
            got=first_line(error),
            where=str(folder),
            hint="pip install 'compressc[transformers]'",
        ) from error
    return transformers


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched, whatever the configuration names."""
    name = "HF_HUB_OFFLINE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        try:
            from huggingface_hub import constants
        except ImportError:
            yield  # no transformers either: the import that follows says so
            return
        was, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = was
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _TooLargeError(Exception):
    """A configuration that wants much more than the weights hold."""


@contextlib.contextmanager
def _bounded(weights: Mapping[str, torch.Tensor], folder: Path) -> Iterator[None]:
    """Stop a small file with a huge configuration while its modules are still without memory."""
    left = {
        "values": 4 * sum(tensor.numel() for tensor in weights.values()) + (64 << 20),
        "tensors": 8 * len(weights) + 1000,
        "modules": 40 * len(weights) + 5000,
    }

    def spend(what: str, amount: int) -> None:
        left[what] -= amount
        if left[what] < 0:
            raise _TooLargeError(f"{what} for {len(weights)} tensors")

    def tensor(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
        spend("tensors", 1)
        spend("values", 0 if value is None else value.numel())

    def child(module: nn.Module, name: str, value: nn.Module | None) -> None:
        spend("modules", 1)

    hooks = [
        registration.register_module_parameter_registration_hook(tensor),
        registration.register_module_buffer_registration_hook(tensor),
        registration.register_module_module_registration_hook(child),
    ]
    try:
        yield
    except _TooLargeError as error:
        raise _damaged(folder, f"{CONFIG} describes a model with many more {error}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _damaged(where: Path, got: str) -> CompresscError:
    return CompresscError(
        "CC200",
        "the Hugging Face folder is damaged, or its weights belong to another model",
        got=got,
        where=str(where),
        hint="write it again with model.save_pretrained(folder)",
    )
