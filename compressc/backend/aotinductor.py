"""A compiled package of PyTorch's AOTInductor: machine code for this kind of processor."""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.utils import _pytree as pytree

from compressc.analysis.integers import integer_layers
from compressc.backend.backend import Backend, Runner
from compressc.backend.executed import int8_layers
from compressc.backend.exporting import export_graph, unwritable
from compressc.backend.file_record import Int8Layers
from compressc.backend.onnx import refused
from compressc.backend.threads import torch_runner
from compressc.ir import Graph, Op, lower
from compressc.ir.lowering import module_names
from compressc.quiet import quiet

#: A call of an integer kernel in a package's source: its fourth argument is the packed weight, the
#: fifth the scale of the weight.
_INTEGER_CALL = re.compile(r"aoti_torch_cpu__q(?:conv|linear)\w+\((?:[^,()]+,){4}\s*(\w+),")
#: Numbers of a vector that Inductor makes no constant of.
_INLINED = 8
#: What a constant of the source is called, and in the program that it was compiled from.
_CONSTANT = re.compile(
    r'constants_info_\[(\d+)\]\.name = "(\w+)";.*?'
    r'constants_info_\[\1\]\.original_fqn = "([^"]+)";',
    re.DOTALL,
)


class AotInductor(Backend):
    """`aotinductor/model.pt2`: C++ that torch's Inductor made of the graph, compiled, with weights.

    It runs without Python, too (`AOTIModelPackageLoader`), on processors that have the instructions
    of the one it was compiled on. int8 layers become oneDNN's integer kernels, as
    X86InductorQuantizer's do: the way to be fast in torch. Writing takes a C++ compiler and tens of
    seconds. Load it with `torch._inductor.aoti_load_package`.
    """

    name: ClassVar[str] = "aotinductor"
    runtime: ClassVar[str] = "AOTInductor"
    suffix: ClassVar[str] = "aotinductor/model.pt2"
    overflows: ClassVar[bool] = True

    @classmethod
    def missing(cls) -> str:
        """A compiler."""
        import torch._inductor.config as inductor

        for name in pytree.tree_leaves(inductor.cpp.cxx):
            if name and shutil.which(name):
                return ""
        return "no C++ compiler: install g++ or clang++, or say where one is in $CXX"

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        """Write `aotinductor/model.pt2`; the batch stays open.

        Raises:
            CompresscError: CC503 where there is no compiler, or Inductor cannot compile the graph.
            OSError: where the disk is full.
        """
        if self.missing():
            raise unwritable(self.runtime, RuntimeError(self.missing()))
        from torch._inductor import aoti_compile_and_package
        from torch._inductor.utils import fresh_cache

        program = export_graph(graph, example)
        _give_zero_points(program)
        path = folder / self.suffix
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as inside, tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            inside.enter_context(fresh_cache())
            inside.enter_context(_pixel_by_pixel())
            # weights are packed for the kernels where no gradient can be asked for
            inside.enter_context(torch.no_grad())
            inside.enter_context(quiet())
            written = Path(scratch) / path.name
            try:
                aoti_compile_and_package(
                    program, package_path=str(written), inductor_configs={"freezing": True}
                )
            except OSError:
                raise
            except Exception as error:  # Inductor wraps every exception in its own types
                raise unwritable(self.runtime, error) from error
            written.replace(path)
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The package as a function.

        Raises:
            CompresscError: CC504 where it cannot be loaded, on another kind of processor say.
        """
        from torch._inductor import aoti_load_package

        try:
            with quiet():
                module = aoti_load_package(str(path))
        except Exception as error:  # as in emit
            raise refused(self.runtime, path, error) from error
        return torch_runner(module, threads)

    def int8_layers(self, path: Path, graph: Graph) -> Int8Layers:
        """From the source that was compiled: which weights its integer kernels are called with."""
        with zipfile.ZipFile(path) as package:
            sources = [name for name in package.namelist() if name.endswith(".wrapper.cpp")]
            source = "\n".join(package.read(name).decode() for name in sources)
        constants = {name: program for _, name, program in _CONSTANT.findall(source)}
        called = set(_INTEGER_CALL.findall(source))
        names = module_names(lower(graph))
        modules = {constants.get(name, "").rpartition(".")[0] for name in called}
        ran = {names[module] for module in modules & names.keys()}
        short = {op.name for op in integer_layers(graph) if _has_few(op)}
        if len(short) == len(called - constants.keys()):
            ran |= short
        return int8_layers(graph, ran, self.runtime)


def _has_few(op: Op) -> bool:
    """Whether Inductor writes the scales of a layer into the source: they have no name there."""
    layer: Any = op.layer
    return bool(layer.scale.numel() <= _INLINED)


def _give_zero_points(program: torch.export.ExportedProgram) -> None:
    """Inductor reads a zero point of every weight: zeros, where there are none."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
    graph = program.graph
    for node in [n for n in graph.nodes if n.target is dequantize and n.args[2] is None]:
        scale: Any = node.args[1]
        value = scale.meta["val"]
        options = {"dtype": torch.int64, "device": value.device, "pin_memory": False}
        with graph.inserting_before(node):
            zeros = graph.call_function(
                torch.ops.aten.full.default, (list(value.shape), 0), options
            )
        with value.fake_mode:
            zeros.meta["val"] = torch.full(value.shape, 0, dtype=torch.int64)
        node.args = (*node.args[:2], zeros, *node.args[3:])
    program.graph_module.recompile()


@contextmanager
def _pixel_by_pixel() -> Iterator[None]:
    """What oneDNN's convolutions put out lies in channels last, whatever they are given.

    torch 2.13 takes the result for contiguous where the batch is open and the input is, and reads
    it in the wrong order.
    """
    kernels = importlib.import_module("torch._inductor.mkldnn_ir")
    with mock.patch.object(kernels, "is_contiguous_storage_and_layout", return_value=False):
        yield
