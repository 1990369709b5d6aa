"""What a Hugging Face model is fed where the user does not say: told from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend.formats.huggingface import read_json
from compressc.frontend.inputs.specs import InputSpec, parse_input
from compressc.ir import TensorType

_PROCESSOR = "preprocessor_config.json"
_IMAGE, _SECOND = 224, 16000


def default_inputs(model: nn.Module, folder: Path) -> tuple[InputSpec, ...]:
    """The inputs of a model by name: batch `b` and sequences `s`, `t` open, image sizes fixed.

    Raises:
        CompresscError: CC203 for a kind of input that a configuration does not describe.
    """
    config: Any = model.config
    parameters = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", "input_ids"))
    texts = {"input_ids": "i64[b,s]", "attention_mask": "i64[b,s]"}
    two_towers = "pixel_values" in parameters and "input_ids" in parameters
    found: dict[str, str] = {}
    if two_towers and hasattr(model, "logit_scale"):
        found = {**texts, "pixel_values": _image(config, folder)}
    elif main == "input_ids" and not two_towers:
        found = texts
    elif main == "pixel_values" and not two_towers:
        found = {main: _image(config, folder)}
    elif main in ("input_features", "input_values"):
        found = {main: _sound(config, main)}
    if not all(found.values()) or not found:
        example = "i64[b,s]" if main.endswith("ids") else "f32[b,...]"
        raise CompresscError(
            "CC203",
            "the configuration does not say what the model takes",
            got=f"{type(model).__name__}.forward({', '.join(list(parameters)[:6])}, ...)",
            where=str(folder),
            hint=f'give --input "{main}: {example}", one for each input',
        )
    # heads on a whole sequence make the decoder's tokens of the encoder's themselves
    whole = type(model).__name__.endswith(("ForSequenceClassification", "ForQuestionAnswering"))
    decodes = getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters
    if decodes and not whole:
        found["decoder_input_ids"] = "i64[b,t]"
    specs = [parse_input(f"{n}: {text}") for n, text in found.items() if n in parameters]
    return tuple(_as_stored(spec, model) for spec in specs if isinstance(spec, InputSpec))


def _as_stored(spec: InputSpec, model: nn.Module) -> InputSpec:
    """Numbers go in with the precision of the weights."""
    if not spec.type.dtype.is_floating_point:
        return spec
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return InputSpec(spec.name, TensorType(dtype, spec.type.shape))


def default_tensors(
    specs: tuple[InputSpec, ...], tensors: tuple[torch.Tensor, ...], model: nn.Module
) -> tuple[torch.Tensor, ...]:
    """The example with tokens of the whole vocabulary and an end, none of them masked."""
    size = next((int(n) for n in _all(model.config, "vocab_size") if isinstance(n, int)), 2)
    end = next((int(n) for n in _all(model.config, "eos_token_id") if isinstance(n, int)), None)
    generator = torch.Generator().manual_seed(0)
    changed = []
    for spec, tensor in zip(specs, tensors, strict=True):
        if spec.name == "attention_mask":
            changed.append(torch.ones_like(tensor))
        elif spec.name.endswith("input_ids"):
            ids = torch.randint(0, size, tensor.shape, generator=generator)
            if end is not None and end < size:
                ids = torch.where(ids == end, (end + 1) % size, ids)
                ids[..., -1] = end
            changed.append(ids)
        else:
            changed.append(tensor)
    return tuple(changed)


def named(specs: tuple[InputSpec, ...], tensors: tuple[torch.Tensor, ...]) -> tuple[InputSpec, ...]:
    """The first inputs, where tensors of a data set are these by dtype and rank; else none."""
    chosen = specs[: len(tensors)]
    fits = len(chosen) == len(tensors) and all(
        tensor.dim() == len(spec.type.shape)
        and tensor.dtype.is_floating_point == spec.type.dtype.is_floating_point
        for spec, tensor in zip(chosen, tensors, strict=True)
    )
    return chosen if fits else ()


def _all(config: Any, name: str) -> Iterator[Any]:
    """The values of a key in a configuration and the configurations in it."""
    if (value := getattr(config, name, None)) is not None:
        yield value
    for part in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, part, None)) is not None:
            yield from _all(inner, name)


def _image(config: Any, folder: Path) -> str:
    channels = next(_all(config, "num_channels"), 3)
    sizes = next(_all(config, "image_size"), None) or _processed_size(folder)
    height, width = sizes if isinstance(sizes, list | tuple) else (sizes, sizes)
    frames = next(_all(config, "num_frames"), None)
    video = f"{frames}," if isinstance(frames, int) else ""
    return f"f32[b,{video}{channels},{height},{width}]"


def _processed_size(folder: Path) -> Any:
    """What the folder's image processor makes of any image."""
    path = folder / _PROCESSOR
    processor = read_json(path) if path.is_file() else {}
    for key in ("crop_size", "size"):
        size = processor.get(key)
        if isinstance(size, Mapping):
            if isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
                return size["height"], size["width"]
            size = size.get("shortest_edge")
        if isinstance(size, int):
            return size
    return _IMAGE


def _sound(config: Any, main: str) -> str:
    """A spectrogram where the configuration has its sizes; else one second of samples."""
    bins = next(_all(config, "num_mel_bins"), None)
    if main == "input_features":
        frames = next(_all(config, "max_source_positions"), None)
        return f"f32[b,{bins},{2 * frames}]" if bins and frames else ""
    length = next(_all(config, "max_length"), None)
    return f"f32[b,{length},{bins}]" if bins and length else f"f32[b,{_SECOND}]"
