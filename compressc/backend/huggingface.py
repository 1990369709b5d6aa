"""A folder that `from_pretrained` reads: `config.json` and `model.safetensors`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import PrivateAttr
from torch import nn

from compressc.backend.backend import Backend, Runner
from compressc.backend.configuring import blank_model, find_config
from compressc.backend.exporting import unwritable
from compressc.backend.onnx import refused
from compressc.backend.threads import torch_threads
from compressc.errors import CompresscError
from compressc.frontend import Origin
from compressc.frontend.inputs.arguments import Arguments, tensors_of
from compressc.frontend.inputs.huggingface import default_inputs
from compressc.ir import Graph
from compressc.quiet import quiet
from compressc.transplant import fitted

#: What else a folder of a model holds that a cut does not change: tokenizer, processor, remarks.
_BESIDE = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "*processor_config.json", "generation_config.json", "chat_template*", "spiece.model",
)  # fmt: skip


class HuggingFace(Backend):
    """`huggingface/config.json` and `model.safetensors`, for `AutoModel.from_pretrained`.

    For models of transformers whose cut a configuration can say: one width for all blocks, fewer
    blocks, fewer heads where the family has a key for it. The tokenizer of the folder that the
    model was read from goes with it.
    """

    name: ClassVar[str] = "huggingface"
    runtime: ClassVar[str] = "transformers"
    suffix: ClassVar[str] = "huggingface"

    _teacher: Graph | None = PrivateAttr(default=None)
    _origin: Origin | None = PrivateAttr(default=None)

    def of(self, teacher: Graph, origin: Origin | None) -> Self:
        """For graphs made of this teacher.

        Raises:
            CompresscError: CC503 where it was no model of transformers.
        """
        if origin is None or origin.config is None:
            raise CompresscError(
                "CC503",
                "the format huggingface is for models of transformers",
                got=origin.class_.__name__ if origin else "a graph or an exported program",
                where=teacher.name,
                hint="give the folder that save_pretrained wrote, or the module; "
                "compiled.apply_to(module) is for any module",
            )
        made = self.model_copy()
        made._teacher, made._origin = teacher, origin
        return made

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write the folder `huggingface`.

        Raises:
            CompresscError: CC503 where no configuration says the cut, or the graph is quantized.
        """
        teacher, origin = self._told()
        _check_floats(graph)
        path = folder / self.suffix
        with quiet():
            model = self._model(graph, teacher, origin)
        path.mkdir(parents=True, exist_ok=True)
        try:
            with quiet():
                model.save_pretrained(path)
        except OSError:
            raise
        except Exception as error:  # transformers and safetensors have types of their own
            raise unwritable("save_pretrained", error) from error
        for file in path.glob("*.safetensors"):  # written for their owner's eyes alone
            file.chmod((path / "config.json").stat().st_mode)
        if origin.folder is not None:
            _copy_beside(origin.folder, path)
        return path

    def _told(self) -> tuple[Graph, Origin]:
        if self._teacher is None or self._origin is None:
            raise CompresscError(
                "CC503", "the format huggingface needs the model that was read", got="a graph alone"
            )
        return self._teacher, self._origin

    def _model(self, graph: Graph, teacher: Graph, origin: Origin) -> Any:
        """A model of the origin's class with the weights of the graph, as its new configuration
        builds it."""
        class_: Any = origin.class_
        made = _first_fit(graph, teacher, blank_model(class_, origin.config, "cpu"))
        config = find_config(class_, made.config, made)
        weights = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
        dtype = next(p.dtype for p in made.parameters() if p.is_floating_point())
        model, info = class_.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
        wrong = [*info["missing_keys"], *info["mismatched_keys"]]
        if wrong:
            raise CompresscError(
                "CC503", "every weight must have a place", got=str(wrong[0]), where=class_.__name__
            )
        return model

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The folder as a function, read by the class that its configuration names.

        Inputs go where those of the model went that was read; by the names that the family takes
        where nobody told.

        Raises:
            CompresscError: CC504 where transformers refuses it.
        """
        try:
            with quiet():
                import transformers

                config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
                class_ = getattr(transformers, config.architectures[0])
                model = class_.from_pretrained(path, local_files_only=True).eval()
        except Exception as error:  # transformers raises whatever its parts do
            raise refused(self.runtime, path, error) from error
        _without_cache(model.config)
        told = None if self._origin is None else self._origin.call
        names = [] if told is not None else [spec.name for spec in default_inputs(model, path)]

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            named = Arguments((), dict(zip(names, inputs, strict=False)))
            full = named if told is None else told.filled(inputs)
            with torch_threads(threads), torch.no_grad():
                return tensors_of(model(*full.args, **full.kwargs))

        return run


def _first_fit(graph: Graph, teacher: Graph, blank: nn.Module) -> Any:
    """The model with the layers of the graph.

    Raises:
        CompresscError: CC503 for a layer that has no place in it.
    """
    try:
        made, _ = next(iter(fitted(graph, teacher, blank)))
    except CompresscError as error:
        raise CompresscError(
            "CC503", error.wanted, got=error.got, where=error.where, hint=error.hint
        ) from error
    return made


def _check_floats(graph: Graph) -> None:
    stored = next((op for op in graph if op.weight_form is not None), None)
    if stored is not None:
        raise CompresscError(
            "CC503",
            "the format huggingface holds float weights",
            got=f"{stored.weight_form}",
            where=f"%{stored.name}",
            hint="leave quant out, and let a runtime of transformers quantize what it loads",
        )


def _without_cache(config: Any) -> None:
    """A whole sequence is computed at once, as it was when the model was traced."""
    config.use_cache = False
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, dict):
            _without_cache(part)


def _copy_beside(source: Path, folder: Path) -> None:
    for pattern in _BESIDE:
        for file in source.glob(pattern):
            if file.is_file() and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
