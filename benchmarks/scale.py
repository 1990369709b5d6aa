"""How the core grows with the model: python benchmarks/scale.py

`growth`: graphs of 1k, 10k and 50k ops on the meta device (residual convolutions, transformer
blocks, wide random parts; seeded), each step timed on its own, with the exponent n^x fitted through
the logarithms. `raise` is timed on programs that torch.export really made, which takes it minutes
for more than a few thousand ops. `front`: raising and checking against torch.export itself on
larger models of transformers, in turns in one process. `llama`: a language model of 1.1 billion
parameters on the meta device. `bundle`: peak memory of loading 1 GB of weights.
`--only growth,raise,front,llama,bundle`, `--quick` for smaller sizes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

from compressc.analysis import couple, symbolize_widths
from compressc.frontend import export_module, import_program, load_model
from compressc.frontend.inputs import make_example, parse_input
from compressc.ir import (
    Graph,
    Op,
    Ref,
    TensorType,
    check_finite,
    graph_hash,
    parse_graph,
    save_bundle,
    symbol,
    verify,
)

WIDTH = 64
B, S = symbol("b"), symbol("s")
MB = 1 << 20


def seconds(work: Callable[[], Any], repeat: int = 1) -> float:
    """Least processor time of a few runs: other processes disturb it least."""
    best = math.inf
    for _ in range(repeat):
        gc.collect()
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of a straight line through (log n, log seconds)."""
    xs, ys = [math.log(n) for n, _ in points], [math.log(t) for _, t in points]
    return statistics.linear_regression(xs, ys).slope


# ---- graphs built op by op ----------------------------------------------------------------


class Builder:
    """Appends typed ops to a graph."""

    def __init__(self, seed: int) -> None:
        self.graph, self.random = Graph("deep"), random.Random(seed)

    def op(self, stem: str, kind: str, args: tuple[Any, ...], shape: tuple[Any, ...],
           layer: nn.Module | None = None) -> Ref:  # fmt: skip
        """One op, with a fresh name."""
        name = self.graph.fresh_name(stem)
        type_ = TensorType(torch.float32, shape)
        self.graph.append(Op(name, kind, args, layer=layer, type=type_, lineage=(name,)))
        return Ref(name)

    def layer(self, stem: str, kind: str, layer: nn.Module, x: Ref, shape: tuple[Any, ...]) -> Ref:
        """A layer op on one value."""
        return self.op(stem, kind, (x,), shape, layer.eval())

    def convolutions(self, x: Ref, path: str) -> Ref:
        """A residual block on [b, 64, 14, 14]."""
        shape, y = (B, WIDTH, 14, 14), x
        for i in range(self.random.randint(1, 3)):
            conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
            y = self.layer(f"{path}.conv{i}", "conv2d", conv, y, shape)
            y = self.layer(f"{path}.bn{i}", "batch_norm2d", nn.BatchNorm2d(WIDTH), y, shape)
            y = self.layer(f"{path}.relu", "relu", nn.ReLU(), y, shape)
        return self.op(f"{path}.add", "aten.add.Tensor", (x, y), shape)

    def transformer(self, x: Ref, path: str) -> Ref:
        """Attention of 4 heads and an MLP on [b, s, 64]."""
        shape, heads = (B, S, WIDTH), (B, S, 4, 16)
        y = self.layer(f"{path}.norm1", "layer_norm", nn.LayerNorm(WIDTH), x, shape)
        parts = []
        for name in "qkv":
            p = self.layer(f"{path}.{name}", "linear", nn.Linear(WIDTH, WIDTH), y, shape)
            p = self.op(f"{path}.view", "aten.reshape", (p, heads), heads)
            parts.append(self.op(f"{path}.t", "aten.transpose.int", (p, 1, 2), (B, 4, S, 16)))
        y = self.op(
            f"{path}.sdpa", "aten.scaled_dot_product_attention", tuple(parts), (B, 4, S, 16)
        )
        y = self.op(f"{path}.t", "aten.transpose.int", (y, 1, 2), heads)
        y = self.op(f"{path}.view", "aten.reshape", (y, shape), shape)
        y = self.layer(f"{path}.o", "linear", nn.Linear(WIDTH, WIDTH), y, shape)
        x = self.op(f"{path}.add", "aten.add.Tensor", (x, y), shape)
        y = self.layer(f"{path}.norm2", "layer_norm", nn.LayerNorm(WIDTH), x, shape)
        hidden = self.random.choice([128, 192, 256])
        wide = (B, S, hidden)
        y = self.layer(f"{path}.up", "linear", nn.Linear(WIDTH, hidden), y, wide)
        y = self.layer(f"{path}.gelu", "gelu", nn.GELU(), y, wide)
        y = self.layer(f"{path}.down", "linear", nn.Linear(hidden, WIDTH), y, shape)
        return self.op(f"{path}.add", "aten.add.Tensor", (x, y), shape)

    def tangle(self, x: Ref, path: str) -> Ref:
        """A random DAG of some values on [b, s, 64]; every value is read."""
        shape, values, unread = (B, S, WIDTH), [x], []
        for _ in range(self.random.randint(4, 24)):
            a, b = self.random.choice(values), self.random.choice(values)
            match self.random.choice(["add", "mul", "relu", "linear", "cat"]):
                case "add" | "mul" as kind:
                    made = self.op("node", f"aten.{kind}.Tensor", (a, b), shape)
                case "relu":
                    made = self.op("node", "aten.relu", (a,), shape)
                case "linear":
                    layer = nn.Linear(WIDTH, WIDTH)
                    made = self.layer(f"{path}.fc", "linear", layer, a, shape)
                case _:
                    both = self.op("cat", "aten.cat", ((a, b), -1), (B, S, 2 * WIDTH))
                    layer = nn.Linear(2 * WIDTH, WIDTH)
                    made = self.layer(f"{path}.fc", "linear", layer, both, shape)
            unread.append(made)
            values.append(made)
        for value in unread:
            if not self.graph.users(value.name):
                x = self.op("sum", "aten.add.Tensor", (x, value), shape)
        return x


def deep_graph(ops: int, seed: int = 0) -> Graph:
    """About that many ops, on the meta device."""
    with torch.device("meta"):
        built = Builder(seed)
        shapes = {"image": (B, WIDTH, 14, 14), "sequence": (B, S, WIDTH)}
        for name, shape in shapes.items():
            built.graph.append(Op(name, "input", type=TensorType(torch.float32, shape)))
        image, sequence, number = Ref("image"), Ref("sequence"), 0
        while len(built.graph) < ops:
            number += 1
            match built.random.choice(["convolutions", "transformer", "tangle"]):
                case "convolutions":
                    image = built.convolutions(image, f"stage.{number}")
                case "transformer":
                    sequence = built.transformer(sequence, f"layer.{number}")
                case _:
                    sequence = built.tangle(sequence, f"part.{number}")
        built.graph.outputs = (image, sequence)
    built.graph.edits.clear()
    return built.graph


Rows = dict[str, list[tuple[int, float]]]


def growth(sizes: list[int]) -> None:
    verify(deep_graph(300))  # what is loaded or compiled once
    rows: Rows = {}
    for size in sizes:
        grow(size, rows)
    show("growth on the meta device", rows)


def grow(size: int, rows: Rows) -> None:
    made: list[Graph] = []
    build = seconds(lambda: made.append(deep_graph(size)))
    graph = made[0]
    text, tensors = str(graph), graph.tensors()
    steps: dict[str, Callable[[], Any]] = {
        "print": lambda: str(graph),
        "parse": lambda: parse_graph(text, tensors),
        "verify": lambda: verify(graph),
        "hash": lambda: graph_hash(graph),
        "coupling": lambda: couple(graph),
        "widths of coupling": couple(graph).widths,
        "symbolize (on a copy)": lambda: symbolize_widths(graph.copy()),
        "copy": graph.copy,
        "finite": lambda: check_finite(graph),
        **optional_steps(graph),
    }
    rows.setdefault("build", []).append((len(graph), build))
    for name, step in steps.items():
        repeat = 3 if size <= 10_000 else 1
        rows.setdefault(name, []).append((len(graph), seconds(step, repeat)))


def optional_steps(graph: Graph) -> dict[str, Callable[[], Any]]:
    """Analyses by name; a version of the package may not have all."""
    from compressc import analysis

    found = {"blocks": "find_blocks", "cost": "op_costs"}
    functions = {step: getattr(analysis, name, None) for step, name in found.items()}
    sizes = {"b": 1, "s": 8}
    calls = {"blocks": lambda f: f(graph), "cost": lambda f: f(graph, **sizes)}
    return {step: (lambda f=f, call=calls[step]: call(f)) for step, f in functions.items() if f}


def show(title: str, rows: Rows) -> None:
    sizes = [n for n, _ in next(iter(rows.values()))]
    print(f"\n{title}\n{'seconds at ops':24}" + "".join(f"{n:>10,}" for n in sizes) + "   exponent")
    for name, points in rows.items():
        slope = exponent(points) if len(points) > 1 else math.nan
        bar = "" if not slope > 1.1 else "  > 1.1"
        print(f"{name:24}" + "".join(f"{t:10.3f}" for _, t in points) + f"   {slope:5.2f}{bar}")


# ---- programs that torch.export made ------------------------------------------------------


class Deep(nn.Module):
    """Residual blocks of linear, norm, activation, reshape."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 64] -> [n, 64]."""
        for block, norm in zip(self.blocks, self.norms, strict=True):
            y = torch.relu(block(norm(x))).reshape(-1, 4, WIDTH // 4).transpose(1, 2)
            x = x + y.transpose(1, 2).reshape(-1, WIDTH)
        return x


def raising(sizes: list[int]) -> None:
    rows: Rows = {}
    for size in sizes:
        raise_deep(size, rows)
    show("exported programs", rows)


def raise_deep(size: int, rows: Rows) -> None:
    with torch.device("meta"):
        module, example = Deep(size // 8).eval(), (torch.randn(4, WIDTH),)
    programs: list[Any] = []
    export = seconds(lambda: programs.append(export_module(module, example)))
    graphs: list[Graph] = []
    made = seconds(lambda: graphs.append(import_program(programs[0])))
    checked = seconds(lambda: (check_finite(graphs[0]), verify(graphs[0])))
    for name, value in (("torch.export", export), ("raise", made), ("verify", checked)):
        rows.setdefault(name, []).append((len(graphs[0]), value))


# ---- transformers -------------------------------------------------------------------------


def _language(name: str, **options: Any) -> tuple[nn.Module, tuple[str, ...]]:
    import transformers

    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}Model")(config), ("input_ids: i64[b,s]",)


def _vision(name: str, size: int = 224, **options: Any) -> tuple[nn.Module, tuple[str, ...]]:
    import transformers

    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}Model")(config), (f"pixel_values: f32[b,3,{size},{size}]",)


#: Configurations as published (sizes of the usual checkpoints), with random weights.
FRONT: dict[str, Callable[[], tuple[nn.Module, tuple[str, ...]]]] = {
    "BERT, 12 layers": lambda: _language("Bert"),
    "GPT-2, 12 layers": lambda: _language("GPT2", use_cache=False),
    "ViT, 12 layers": lambda: _vision("ViT"),
    "Swin-T": lambda: _vision("Swin"),
    "ConvNeXt-T": lambda: _vision("ConvNext"),
}


def front(rounds: int, names: list[str]) -> None:
    print("\nfront end against torch.export (processor time, in turns; median, least..most)")
    print(f"{'model':20}{'ops':>6}{'export s':>10}{'raise s':>10}{'check s':>10}   ratio")
    for name in names:
        torch.manual_seed(0)
        module, texts = FRONT[name]()
        rows = [front_round(module.eval(), texts) for _ in range(rounds)]
        export, made, check, ops = map(statistics.median, zip(*rows, strict=True))
        ratios = [(row[1] + row[2]) / row[0] for row in rows]
        print(f"{name:20}{ops:6.0f}{export:10.2f}{made:10.2f}{check:10.2f}   "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
              flush=True)  # fmt: skip


def front_round(module: nn.Module, texts: tuple[str, ...]) -> tuple[float, float, float, int]:
    """Seconds of torch.export, of raising, of checking; and the number of ops."""
    specs = [parse_input(text) for text in texts]
    example, kept = make_example(specs), []
    export = seconds(lambda: kept.append(export_module(module, example, specs=specs)))
    made = seconds(lambda: kept.append(import_program(kept[0])))
    check = seconds(lambda: (check_finite(kept[1]), verify(kept[1])))
    return export, made, check, len(kept[1])


# ---- memory, each in a process of its own -------------------------------------------------


def resident(field: str) -> int:
    """Bytes that Linux says are resident: now (`VmRSS`), or most since the last reset (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def in_process(function: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", function, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def llama_child(layers: str) -> dict[str, Any]:
    """Load and inspect a Llama of 1.1 billion parameters (22 layers) on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from compressc.analysis import op_costs, total_cost

    config = LlamaConfig(
        num_hidden_layers=int(layers), hidden_size=2048, intermediate_size=5632,
        num_attention_heads=32, num_key_value_heads=4, vocab_size=32000, use_cache=False,
    )  # fmt: skip
    before = resident("VmHWM")
    with torch.device("meta"):
        module = LlamaForCausalLM(config).eval()
    start = time.perf_counter()
    # traced here: `export_module` tries a module out first, which needs weights that have data
    open_dims = {"input_ids": dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)}
    ids = {"input_ids": torch.ones(5, 11, dtype=torch.long, device="meta")}
    program = torch.export.export(module, (), ids, dynamic_shapes=open_dims, strict=False)
    loaded = load_model(program)
    load = time.perf_counter() - start
    names = [str(size) for size in loaded.graph.type_of(loaded.graph.inputs[0].name).shape]
    sizes = dict.fromkeys(names, 8)
    text, costs = str(loaded.graph), op_costs(loaded.graph, **sizes).values()
    counted = sum(cost.parameters > 0 or cost.macs > 0 for cost in costs)
    total = total_cost(loaded.graph, **sizes)
    coupled = couple(loaded.graph).widths()
    return {"ops": len(loaded.graph), "counted": counted, "characters": len(text),
            "parameters": total.parameters, "widths": len(coupled), "load": load,
            "all": time.perf_counter() - start, "before": before,
            "peak": resident("VmHWM")}  # fmt: skip


def llama(layers: int) -> None:
    found = in_process("llama", str(layers))
    print(f"\nLlama of {found['parameters']:,} parameters on the meta device: {found['ops']} ops, "
          f"load_model {found['load']:.1f} s, with text, cost and coupling {found['all']:.1f} s; "
          f"peak {found['peak'] / MB:,.0f} MB ({found['before'] / MB:,.0f} MB before)")  # fmt: skip


def wide_graph(megabytes: int) -> Graph:
    """Linear layers of 4 MB."""
    graph = Graph("wide")
    type_ = TensorType(torch.float32, (B, 1024))
    last = graph.append(Op("x", "input", type=type_)).name
    for i in range(megabytes // 4):
        layer = nn.Linear(1024, 1024, bias=False).eval()
        last = graph.append(Op(f"fc{i}", "linear", (Ref(last),), layer=layer, type=type_)).name
    graph.outputs = Ref(last)
    return graph


def growth_of_memory(work: Callable[[], Any]) -> int:
    """Most bytes that became resident while something ran."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def bundle_child(folder: str) -> dict[str, Any]:
    """Load; then check, hash and run, which touch every weight; then all that load_model does."""
    from compressc.ir import load_bundle, lower

    small = wide_graph(8)
    verify(small)
    lower(small)(torch.randn(1, 1024))
    made: list[Any] = []

    def touch() -> None:
        made.append(load_bundle(Path(folder)))
        verify(made[0])
        check_finite(made[0])
        graph_hash(made[0])
        with torch.no_grad():
            lower(made[0])(torch.randn(1, 1024))

    start = time.perf_counter()
    mapped = growth_of_memory(lambda: made.append(load_bundle(Path(folder))))
    load = time.perf_counter() - start
    verified = growth_of_memory(lambda: verify(made[0]))
    made.clear()
    touched = growth_of_memory(touch)
    made.clear()
    loaded = growth_of_memory(lambda: made.append(load_model(Path(folder))))
    made.clear()
    copied = growth_of_memory(lambda: made.append(load_model(Path(folder)).graph.copy()))
    return {"load": load, "mapped": mapped, "verified": verified, "touched": touched,
            "load_model": loaded, "and a copy": copied}  # fmt: skip


def bundle(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(wide_graph(megabytes), Path(folder))
        found = in_process("bundle", folder)
    size = megabytes * MB
    parts = ", ".join(f"{name} {found[name] / size:.3f}" for name in
                      ("mapped", "verified", "touched", "load_model", "and a copy"))  # fmt: skip
    print(f"\nbundle of {megabytes} MB: load_bundle {found['load']:.2f} s; "
          f"peak memory over the weights' size: {parts}")  # fmt: skip


CHILDREN: dict[str, Callable[[str], dict[str, Any]]] = {
    "llama": llama_child,
    "bundle": bundle_child,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="growth,raise,front,llama,bundle")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", default="", help="parts of the names of `front`, by comma")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # torch forks
    if options.child:
        name, argument = options.child
        print(json.dumps(CHILDREN[name](argument)))
        return
    only, quick = options.only.split(","), options.quick
    if "growth" in only:
        growth([300, 1000, 3000] if quick else [1000, 10_000, 50_000])
    if "raise" in only:
        raising([100, 400] if quick else [500, 1500, 5000])
    if "front" in only:
        names = [name for name in FRONT if any(part in name for part in options.models.split(","))]
        front(1 if quick else 5, names)
    if "llama" in only:
        llama(2 if quick else 22)
    if "bundle" in only:
        bundle(128 if quick else 1024)


if __name__ == "__main__":
    main()
