"""What a run holds: counted in bytes of weights, not in pages of the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import compressc
from compressc.backend import load_backend
from compressc.collecting import give_back
from compressc.data import Dataset, Split
from compressc.distillation.answers import AnswerStore
from compressc.events import Event
from compressc.ir import Graph
from compressc.ir.sharing import address
from compressc.measure import peak_bytes
from compressc.pipeline import Pipeline, parse_passes
from compressc.target import Target
from compressc.tasks import settle
from compressc.testing import export_graph
from compressc.training.averaging import Average
from compressc.training.best import BestState
from compressc.training.state import RunState
from tests.unit.ir.mapped_memory import files_of_weights

WIDTH, BLOCKS, CLASSES = 400, 24, 10
#: Of the model's bytes, what a run may hold at its peak: the issue's bound.
MOST = 2.3
#: Of what lasts no longer than training.
TRAINING = (torch.optim.Optimizer, BestState, RunState, Average, AnswerStore)


def net() -> nn.Module:
    """About 4 million parameters in equal layers, and a norm."""
    torch.manual_seed(0)
    blocks = [layer for _ in range(BLOCKS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    stem = [nn.Linear(32, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.Linear(WIDTH, CLASSES)).eval()


def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (96,), generator=draw)
    part = Split((torch.randn(96, 32, generator=draw),), labels)
    return Dataset("random", part, part, part)


def bytes_of_weights(graph: Graph) -> int:
    return sum(tensor.nbytes for tensor in graph.tensors().values())


def held_bytes() -> int:
    """Bytes of all storages on the CPU that tensors of this process lie in, each counted once.

    Those of weights that were set aside are in a file.
    """
    gc.unfreeze()  # frozen objects are not listed
    found: dict[int, int] = {}
    files = files_of_weights()
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.device.type == "cpu":
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.layout is torch.strided:
                    start = address(tensor) - tensor.storage_offset() * tensor.element_size()
                    found[start] = tensor.untyped_storage().nbytes()
    return sum(n for start, n in found.items() if not any(start in file for file in files))


def alive(*types: type) -> int:
    gc.unfreeze()
    return sum(isinstance(thing, types) for thing in gc.get_objects())


@pytest.fixture(scope="module")
def teacher() -> Graph:
    return export_graph(net(), torch.randn(4, 32))


PASSES = ["prune(ratio=0.2)", "lowrank(rank=64)", "simplify"]


@pytest.mark.parametrize("passes", PASSES)
def test_a_pass_holds_the_model_and_what_it_makes(teacher, passes, monkeypatch):
    # 128 MB of moments, for any model that they are a small part of
    monkeypatch.setattr("compressc_lowrank.collecting.TOGETHER", bytes_of_weights(teacher) // 10)
    parts = data()
    run = Pipeline(parse_passes(passes), parts, task=settle(teacher, parts))
    size = bytes_of_weights(teacher)
    peak = peak_bytes(lambda: run.run(teacher))
    assert (size + peak) / size < MOST


def test_the_count_sees_a_copy():
    """What the other tests rely on: weights that share bytes count once, those written twice."""
    graph = export_graph(net(), torch.randn(4, 32))
    start, size = held_bytes(), bytes_of_weights(graph)
    twin = graph.copy()
    assert held_bytes() - start < 0.01 * size
    for tensor in twin.tensors().values():
        tensor.detach().add_(1)
    assert held_bytes() - start > 0.99 * size


def test_what_training_held_is_gone_when_files_are_written(tmp_path):
    module, parts = net(), data()
    give_back()
    start, size, before = (
        held_bytes(),
        4 * sum(p.numel() for p in module.parameters()),
        alive(*TRAINING),
    )
    during: list[float] = []
    then: list[tuple[float, int]] = []

    def look(event: Event) -> None:
        if event.kind == "progress" and event.facts["what"].startswith("writing"):
            then.append(((held_bytes() - start) / size, alive(*TRAINING) - before))
        elif event.kind == "epoch":
            during.append((held_bytes() - start) / size)
            assert alive(*TRAINING) - before >= 4

    compiled = compressc.compile(
        module,
        "prune(ratio=0.2),distill(epochs=2,ema=0.9)",
        data=parts,
        target=Target(backends=("pt2",), batches=()),
        cache=None,
        tell=look,
    )
    compiled.save(tmp_path, tell=look)
    result = bytes_of_weights(compiled.graph) / size
    ((held, objects),) = then
    assert objects == 0
    # the teacher (the user's module is another), the result, samples; nothing of prune's graph
    assert 1 + result <= held + 0.01 < 1 + result + 0.1
    assert max(during) > 1 + 4 * result  # weights, gradients and two moments were there


def peak_of_process(run: Callable[[], object]) -> int:
    """Most resident bytes while it runs, beyond those before (Linux)."""
    give_back()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    run()
    return resident("VmHWM") - before


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("pt2", 0.5), ("onnx", 0.5), ("openvino", 1.6)])
def test_a_file_is_written_without_copies_of_the_model(name, most, tmp_path):
    """OpenVINO maps all of the weights once; the others hold a layer at a time."""
    wide = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(12))).eval()
    graph, example = export_graph(wide, torch.randn(4, 1000)), (torch.randn(4, 1000),)
    backend = load_backend(name)
    backend.emit(graph, tmp_path / "first", example)  # what libraries allocate once
    peak = peak_of_process(lambda: backend.emit(graph, tmp_path / "second", example))
    assert peak / bytes_of_weights(graph) < most
