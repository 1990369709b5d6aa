"""Whatever a user has -> a raised graph. The format is told by content, never by a file's name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressc.beside import importable
from compressc.errors import CompresscError, first_line
from compressc.frontend.export import rebatched
from compressc.frontend.folding import fold_weights
from compressc.frontend.formats.checkpoint import choose_fit, fill, find_weights
from compressc.frontend.formats.factory import run_factory
from compressc.frontend.formats.huggingface import read_json, read_weights
from compressc.frontend.formats.pickled import Pickled, read_pickle
from compressc.frontend.formats.program import read_program
from compressc.frontend.formats.recognise import CONFIG, Format, recognise
from compressc.frontend.formats.soundness import is_sound
from compressc.frontend.importer import import_program
from compressc.frontend.inputs.arguments import (
    Arguments,
    Example,
    arguments_of,
    check_names,
    graph_inputs,
    tensors_of,
)
from compressc.frontend.inputs.specs import (
    ConstantSpec,
    InputSpec,
    check_inputs,
    check_specs,
    make_example,
    parse_input,
    place_inputs,
)
from compressc.frontend.origin import Origin
from compressc.frontend.precision import cast_example, cast_inputs, check_choice, set_precision
from compressc.frontend.tracing import fixed_dimensions, trace_graph
from compressc.ir import Graph, check_finite, dimension_symbols, load_bundle, symbol, verify

Source = str | Path | nn.Module | torch.export.ExportedProgram | Graph


@dataclass(frozen=True)
class Loaded:
    """A model that was read.

    Attributes:
        graph: raised, verified, with finite weights; no tensor is shared with the source.
        example: inputs in the graph's order, where the source or the caller had some.
        source: where it came from: a path, or the class of a Python object.
        format: `exported program`, `bundle`, `pickled module`, `state dict`, `TorchScript archive`,
            `Hugging Face folder`, `module` or `graph`.
        notes: what the user should know about how it was read.
        origin: the module that was traced; None where the source was traced before.
    """

    graph: Graph
    example: tuple[torch.Tensor, ...] | None
    source: str
    format: str
    notes: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def fixed_batch(self) -> int | None:
        """The one batch size the model takes, where it was exported without an open one."""
        shape = self.graph.type_of(self.graph.inputs[0].name).shape if self.graph.inputs else ()
        return shape[0] if shape and isinstance(shape[0], int) else None


def require_open_batch(loaded: Loaded) -> None:
    """See that a model takes any batch, in front: passes, measurements and files all need several.

    Raises:
        CompresscError: CC204 where it was exported for one batch size, or has the batch elsewhere.
    """
    types = {op.name: loaded.graph.type_of(op.name) for op in loaded.graph.inputs}
    if loaded.fixed_batch is not None and not dimension_symbols(loaded.graph):
        raise CompresscError(
            "CC204",
            "the first dimension of the inputs must be open",
            got=f"a model exported for batch {loaded.fixed_batch} only",
            where=loaded.source,
            hint="export it with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)",
        )
    if not _has_batch_in_front(loaded.graph):
        raise CompresscError(
            "CC204",
            "the first dimension of every input is the batch, open and the same",
            got=", ".join(f"{name}: {type_}" for name, type_ in types.items()),
            where=loaded.source,
            hint="give a module whose forward takes the batch in front and moves it inside, "
            "self.model(x.transpose(0, 1)); what has no batch becomes a buffer, or is repeated",
        )


def _has_batch_in_front(graph: Graph) -> bool:
    shapes = [graph.type_of(op.name).shape for op in graph.inputs]
    firsts = {str(shape[0]) if shape and not isinstance(shape[0], int) else "" for shape in shapes}
    return len(firsts) <= 1 and "" not in firsts


#: Formats that were traced before: they have inputs of their own.
_TRACED = ("exported program", "bundle", "graph")


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_model` that the formats need."""

    example: Example | None
    specs: tuple[InputSpec | ConstantSpec, ...]
    trust_pickle: bool
    factory: str | None
    state_key: str | None
    ignore_extra: bool
    dtype: str


def load_model(  # noqa: PLR0913  (each option is one the user may give)
    source: Source,
    *,
    example: Example | None = None,
    input_spec: Sequence[str] = (),
    trust_pickle: bool = False,
    factory: str | None = None,
    state_key: str | None = None,
    ignore_extra: bool = False,
    dtype: str = "float32",
) -> Loaded:
    """Read a model in any form.

    Args:
        source: a file or folder (exported program, IR bundle, Hugging Face folder, TorchScript
            archive, pickled module, state dict), or a module, exported program or graph in memory.
        example: inputs [n, ...] to trace a module with: a tuple of positional arguments or a dict
            of keyword arguments, nested as `forward` takes them; what is no tensor is a constant.
        input_spec: inputs in words: `x: f32[b,1,8,8]`, `batch.ids: i64[b,s]`, `flag: True`. Beside
            an example they say where its tensors go.
        trust_pickle: allow a pickled module or a TorchScript archive, which runs code from the
            file.
        factory: `pkg.mod:function` or `file.py:function` that builds the module of a state dict.
        state_key: where in a checkpoint the weights are (`ema`, `state_dict.student`), where
            several fit.
        ignore_extra: leave out tensors of the file that the factory's module does not have.
        dtype: `float32` converts a model in float16, bfloat16 or float64, with a note; `keep`
            leaves it. Graphs and bundles stay as they are.

    Raises:
        CompresscError: CC200 (no model), CC201 (would run code), CC202 (cannot be traced), CC203
            (no example inputs), CC204 (inputs do not fit), CC205 (weights not finite), CC403
            (damaged bundle).
    """
    specs = tuple(map(parse_input, input_spec))
    check_choice(dtype)
    request = _Request(example, specs, trust_pickle, factory, state_key, ignore_extra, dtype)
    if not isinstance(source, str | Path):
        return _checked(_load_object(source, request), request)
    if not str(source).strip():  # else it would be the current folder
        raise CompresscError("CC200", "a model is a file or folder", got="an empty name")
    path = Path(source)
    try:
        return _checked(_READERS[recognise(path)](path, request), request)
    except (OSError, MemoryError) as error:  # other exceptions are mistakes of ours, and say so
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CompresscError:
    return CompresscError(
        "CC200", "the file cannot be read as a model", got=first_line(error), where=str(path)
    )


def _checked(loaded: Loaded, request: _Request) -> Loaded:
    """The model in the floats that were asked for, with finite weights and inputs that fit."""
    if request.factory is not None and loaded.format != "state dict":
        raise CompresscError(
            "CC100",
            "--factory builds the module of a state dict",
            got=f"{loaded.format}",
            where=loaded.source,
            hint="leave it out",
        )
    if request.specs and loaded.format in _TRACED:
        check_specs(loaded.graph, request.specs)
    check_finite(loaded.graph)
    if loaded.format not in ("graph", "bundle"):
        loaded = replace(loaded, notes=(*loaded.notes, *set_precision(loaded.graph, request.dtype)))
    if dimension_symbols(loaded.graph) and not _has_batch_in_front(loaded.graph):
        note = "not every input has the batch in front: the model can be inspected, not compressed"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    if loaded.example is None:
        return loaded
    loaded = replace(loaded, example=cast_inputs(loaded.graph, loaded.example))
    if request.example is not None and loaded.example is not None:
        check_inputs(loaded.graph, loaded.example)
    return loaded


def _load_object(
    source: nn.Module | torch.export.ExportedProgram | Graph, request: _Request
) -> Loaded:
    match source:
        case Graph():
            return _from_graph(source.copy(), request, source.name, "graph")
        case torch.export.ExportedProgram():
            return _from_program(
                source, request, "an exported program", "exported program", "model"
            )
        case torch.jit.ScriptModule():
            name = source.original_name
            script = copy.deepcopy(source).cpu().eval()
            return _from_script(script, request, name, "TorchScript module", name)
        case nn.Module():
            name = type(source).__name__
            return _from_module(source, request, name, "module", name)
    raise CompresscError(
        "CC200",
        "a model is a file, a folder, an nn.Module, an ExportedProgram or a Graph",
        got=type(source).__name__,
    )


def _load_program(path: Path, request: _Request) -> Loaded:
    program = read_program(path)
    try:
        return _from_program(program, request, str(path), "exported program", path.stem)
    except CompresscError:
        raise
    except Exception as error:
        if is_sound(program):
            raise  # a mistake of ours: not the file's
        raise _unreadable(path, error) from error


def _load_bundle(path: Path, request: _Request) -> Loaded:
    return _from_graph(load_bundle(path), request, str(path), "bundle")


def _load_pickle(path: Path, request: _Request) -> Loaded:
    """A pickle of torch.save, or weights and the factory of their module.

    The user's code may import what lies beside it, or in the current folder, until the model is
    traced; the console script alone would not find it.
    """
    places = [Path.cwd()]
    if request.trust_pickle:
        places.append(path.parent)
    if request.factory is not None and request.factory.rpartition(":")[0].endswith(".py"):
        places.append(Path(request.factory).parent)
    with ExitStack() as stack:
        for place in places if request.trust_pickle or request.factory else []:
            stack.enter_context(importable(place))
        return _load_weights(path, request)


def _load_weights(path: Path, request: _Request) -> Loaded:
    if path.is_dir():
        found = Pickled(None, tuple(find_weights(read_weights(path))))
    else:
        found = read_pickle(path, trust=request.trust_pickle, state_key=request.state_key)
    if isinstance(found.model, nn.Module) and not (request.factory and found.weights):
        return _from_module(found.model, request, str(path), "pickled module", path.stem)
    if isinstance(found.model, torch.export.ExportedProgram):
        return _from_program(found.model, request, str(path), "exported program", path.stem)
    if request.factory is None:
        tensors = max((weights.tensors for weights in found.weights), key=len)
        raise CompresscError(
            "CC200",
            "a model is wanted, and this file holds weights only",
            got=f"{len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...)",
            where=str(path),
            hint="give --factory file.py:function that builds the module, or torch.export.save it",
        )
    module = run_factory(request.factory)
    fit = choose_fit(
        module,
        found.weights,
        state_key=request.state_key,
        ignore_extra=request.ignore_extra,
        where=str(path),
    )
    notes = list(fill(module, fit, str(path)))
    if found.left_out:
        notes.append(f"objects of the file that were not read: {', '.join(found.left_out[:5])}")
    loaded = _from_module(module, request, str(path), "state dict", path.stem)
    return replace(loaded, notes=(*notes, *loaded.notes))


def _load_torchscript(path: Path, request: _Request) -> Loaded:
    """A TorchScript archive, where the user trusts it."""
    from compressc.frontend.formats.torchscript import read_torchscript

    script = read_torchscript(path, trust=request.trust_pickle)
    return _from_script(script, request, str(path), "TorchScript archive", path.stem)


def _from_script(
    script: torch.jit.ScriptModule, request: _Request, source: str, format_: str, name: str
) -> Loaded:
    from compressc.frontend.formats.torchscript import by_position, check_same, convert

    arguments = _call_of(request, source)
    tensors = by_position(script, arguments)
    shapes = [spec.type.shape for spec in request.specs if isinstance(spec, InputSpec)]
    if not shapes:
        tensors = rebatched(tensors)
        shapes = [(symbol("b"), *tensor.shape[1:]) if tensor.dim() else () for tensor in tensors]
    program = convert(script, tensors, shapes, source)
    graph = import_program(program, _graph_name(name), shapes)
    notes = (*fold_weights(graph), *fixed_dimensions(graph, shapes))
    check_same(script, graph, tensors, source)
    verify(graph)
    return Loaded(graph, arguments.tensors, source, format_, notes)


def _load_folder(path: Path, request: _Request) -> Loaded:
    """A Hugging Face folder, with inputs from its configuration where the user gives none."""
    from compressc.frontend.formats.huggingface import read_folder
    from compressc.frontend.inputs.huggingface import default_inputs, default_tensors, named

    module, notes = read_folder(path)
    if not request.specs and not isinstance(request.example, Mapping):
        specs = default_inputs(module, path)
        if request.example is None:
            tensors = default_tensors(specs, make_example(specs), module)
            request = replace(request, specs=specs, example=tensors)
        else:
            chosen = named(specs, arguments_of(request.example).tensors)
            request = replace(request, specs=chosen)
    names = [spec.name.partition(".")[0] for spec in request.specs if spec.name]
    if isinstance(request.example, Mapping):
        names += list(request.example)
    check_names(module, names, listed=True)  # transformers ignores arguments it does not know
    loaded = _from_module(module, request, str(path), "Hugging Face folder", path.resolve().name)
    origin = loaded.origin and replace(loaded.origin, folder=path)
    if origin is not None and origin.config is not None:  # it was switched off for the trace
        origin.config.use_cache = read_json(path / CONFIG).get("use_cache", True)
    return replace(loaded, notes=(*notes, *loaded.notes), origin=origin)


_READERS: dict[Format, Callable[[Path, _Request], Loaded]] = {
    Format.PROGRAM: _load_program,
    Format.BUNDLE: _load_bundle,
    Format.PICKLE: _load_pickle,
    Format.SAFETENSORS: _load_pickle,
    Format.WEIGHTS: _load_pickle,
    Format.TORCHSCRIPT: _load_torchscript,
    Format.HUGGING_FACE: _load_folder,
}


def _from_module(
    module: nn.Module, request: _Request, source: str, format_: str, name: str
) -> Loaded:
    example = _call_of(request, source).tensors if request.specs else request.example
    if example is None:
        raise _no_inputs(source)
    name = _graph_name(name)
    try:
        graph, notes = trace_graph(module, example, request.specs, name)
    except CompresscError as error:
        if error.code != "CC204":
            raise
        cast = cast_example(module, example)
        if _dtypes(cast) == _dtypes(example):
            raise
        graph, notes = trace_graph(module, cast, request.specs, name)
        example = cast
    tensors = arguments_of(example).tensors
    origin = Origin(_call_of(request, source).filled(tensors), type(module), _config(module))
    return Loaded(graph, tensors, source, format_, notes, origin)


def _config(module: nn.Module) -> Any:
    """The configuration of a model of transformers, as it was when the model was traced."""
    config = getattr(module, "config", None)
    known = hasattr(module, "save_pretrained") and hasattr(config, "to_diff_dict")
    return copy.deepcopy(config) if known else None


def _dtypes(example: Example) -> list[torch.dtype]:
    return [tensor.dtype for tensor in arguments_of(example).tensors]


def _call_of(request: _Request, source: str) -> Arguments:
    """What `forward` is called with: the example, or what `--input` describes.

    Raises:
        CompresscError: CC203 where there is neither.
    """
    if request.specs:
        example = request.example
        tensors = make_example(request.specs) if example is None else _in_order(example, request)
        return place_inputs(request.specs, tensors)
    if request.example is None:
        raise _no_inputs(source)
    return arguments_of(request.example)


def _in_order(example: Example, request: _Request) -> tuple[torch.Tensor, ...]:
    """The tensors of an example as the descriptions have them: by name, where it has all names."""
    names = [spec.name for spec in request.specs if isinstance(spec, InputSpec)]
    if isinstance(example, Mapping) and set(names) == set(example):
        return tensors_of([example[name] for name in names])
    return arguments_of(example).tensors


def _no_inputs(source: str) -> CompresscError:
    return CompresscError(
        "CC203",
        "a module is traced with example inputs",
        got="none",
        where=source,
        hint='give --data, or --input "x: f32[b,3,32,32]"',
    )


def _from_program(
    program: torch.export.ExportedProgram, request: _Request, source: str, format_: str, name: str
) -> Loaded:
    graph = import_program(program, _graph_name(name))
    notes = fold_weights(graph)
    loaded = replace(_from_graph(graph, request, source, format_), notes=notes)
    if loaded.example is None:
        return replace(loaded, example=_own_example(program))
    return loaded


def _from_graph(graph: Graph, request: _Request, source: str, format_: str) -> Loaded:
    verify(graph)
    example = None if request.example is None else graph_inputs(graph, request.example)
    return Loaded(graph, example, source, format_)


def _own_example(program: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...] | None:
    """The inputs it was exported with, flattened as the graph takes them."""
    if program.example_inputs is None:
        return None
    return tensors_of(program.example_inputs) or None


def _graph_name(text: str) -> str:
    return Graph().fresh_name(text)
