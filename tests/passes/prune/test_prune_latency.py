"""A share of the time as a target, by made-up tables: exact, and without a clock."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from compressc_prune import Prune
from compressc_prune.allocation import Rounding
from compressc_prune.knapsack import Knapsack, importance_lost
from compressc_prune.latency import Latency
from compressc_prune.meeting import meet_latency
from compressc_prune.targets import Target
from compressc_prune.trials import cut_copy
from torch import nn

from compressc.analysis import couple
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash
from compressc.measure.layer_times import SCHEMA
from compressc.measure.table import read_table
from compressc.pipeline import Context
from compressc.probe import Plan, plan_of
from compressc.spec import make
from compressc.target import Target as Where
from compressc.testing import export_graph

#: Milliseconds per million multiply-accumulates, and of a layer whatever its size.
SLOPE, BASE = 1.0, 0.01


def net(*widths: int, last: int = 3) -> Graph:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip((8, *widths), widths, strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    layers[-2] = nn.Conv2d(widths[-2], widths[-1], last, padding=last // 2)
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 3)).eval()
    return export_graph(module, torch.randn(5, 8, 4, 4))


def macs(layer: object, sizes: tuple[int, ...]) -> float:
    """Of a layer at sizes of its variables: its product is proportional to each of them."""
    share = 1.0
    for size, full in zip(sizes, layer.full, strict=True):
        share *= size / full
    return layer.macs * share / 1e6


def table(graph: Graph, folder: Path, *, batch: int = 1, time=None, **changed: object) -> Path:
    """A `table.json` of another machine, every row by a formula."""
    found = couple(graph)
    movable = {width.axis for width in found.widths() if width.producers}
    plan = plan_of(graph, found, {}, batch, movable)
    return written(plan, folder, batch=batch, time=time, **changed)


def written(plan: Plan, folder: Path, *, batch: int = 1, time=None, **changed: object) -> Path:
    """The table of a plan."""
    time = time or (lambda layer, sizes: BASE + SLOPE * macs(layer, sizes))
    rows = []
    for row in plan.rows:
        if row.layer is None:
            left = plan.parts[row.sizes[0]]
            ms = 0.05 + sum(time(one, one.at(left)) for one in plan.layers.timed)
        else:
            ms = time(row.layer, row.sizes)
        rows.append({"layer": row.signature, "sizes": row.sizes, "batch": batch, "ms": ms})
        rows[-1] |= {"low_ms": ms, "high_ms": ms, "disturbed": 0}
    content = {
        "schema_version": SCHEMA,
        "model": "made up",
        "structure": plan.structure,
        "machine": {"processor": "Imaginary 9000", "architecture": "none", "system": "none"},
        "runtime": "ONNX Runtime",
        "runtime_version": "1.0",
        "threads": 1,
        "rows": rows,
    } | changed
    path = folder / "table.json"
    path.write_text(json.dumps(content))
    return path


def pruned(graph: Graph, data: Dataset | None = None, **options: object) -> tuple[Graph, Context]:
    after = graph.copy()
    context = Context(graph, data, target=Where(backends=("onnx",), batches=(1,)))
    make(Prune, options).run(after, context)
    return after, context


def predicted(graph: Graph) -> float:
    """The formula of the table, from the layers as they are."""
    total = 0.05
    for op in graph:
        if op.role in ("convolution", "linear"):
            out = op.type.shape[1:]
            count = torch.tensor(out).prod() * op.layer.weight[0].numel()
            total += BASE + SLOPE * float(count) / 1e6
    return total


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_the_share_is_met_by_the_table(tmp_path, share):
    graph = net(64, 128, 96)
    after, context = pruned(graph, latency=share, table=str(table(graph, tmp_path)))
    assert predicted(after) / predicted(graph) == pytest.approx(share, rel=0.03)
    record = context.records["latency"]
    assert record["predicted"] == pytest.approx(predicted(after) / predicted(graph), rel=2e-3)
    assert record["measured"] is None
    assert record["before_ms"] == pytest.approx(predicted(graph), rel=1e-6)
    said = next(text for _, text in context.notes if text.startswith(f"latency={share:g}"))
    assert "not measured here" in said
    assert "Imaginary 9000, ONNX Runtime 1.0, 1 thread, batch 1" in said


def test_a_cut_that_saves_no_time_is_not_made(tmp_path):
    """Only the layer that makes the second width takes time."""
    graph = net(64, 128, 64, last=5)

    def time(layer, sizes) -> float:
        return BASE + (SLOPE * macs(layer, sizes) if layer.op == "2" else 0.0)

    path = table(graph, tmp_path, time=time)
    after, context = pruned(graph, latency=0.6, table=str(path))
    assert after["4"].layer.out_channels == 64
    assert after["2"].layer.out_channels < 128
    assert any("no cut of it saves time" in text for op, text in context.notes if op == "4")


def misled() -> Graph:
    """One channel of the first layer outweighs all others, and nothing reads it."""
    graph = net(64, 64, 64)
    first, second = graph["0"].layer, graph["2"].layer
    with torch.no_grad():
        first.weight[0] *= 100
        second.weight[:, 0] = 0
    return graph


def test_where_importance_misleads_one_ratio_is_taken(tmp_path):
    graph = misled()
    path = str(table(graph, tmp_path))
    part = Split((torch.randn(64, 8, 4, 4),))
    data = Dataset("noise", part, part, part)
    blind, context = pruned(graph, latency=0.6, table=path)
    assert blind["0"].layer.out_channels < 20
    assert not any(text.startswith("sizes by") for _, text in context.notes)
    after, context = pruned(graph, data, latency=0.6, table=path)
    assert after["0"].layer.out_channels > 30
    assert any(text.startswith("sizes by one ratio for all widths") for _, text in context.notes)
    assert predicted(after) / predicted(graph) == pytest.approx(0.6, rel=0.03)
    assert context.records["latency"]["predicted"] == pytest.approx(0.6, rel=0.03)
    assert any(text.startswith("latency=0.6") for _, text in context.notes)
    told, context = pruned(graph, data, latency=0.6, table=path, allocation="knapsack")
    assert told["0"].layer.out_channels == blind["0"].layer.out_channels
    assert not any(text.startswith("sizes by") for _, text in context.notes)


def test_where_times_differ_importance_and_time_are_taken(tmp_path):
    """The last width costs next to nothing: to cut it, too, is a loss for no gain."""
    graph = net(64, 64, 64)

    def time(layer, sizes) -> float:
        return BASE + (0.05 if layer.op == "4" else 1.0) * macs(layer, sizes)

    part = Split((torch.randn(64, 8, 4, 4),))
    path = str(table(graph, tmp_path, time=time))
    after, context = pruned(graph, Dataset("noise", part, part, part), latency=0.6, table=path)
    assert any(text.startswith("sizes by importance and time") for _, text in context.notes)
    assert after["4"].layer.out_channels > after["0"].layer.out_channels


def test_a_stair_gives_the_step_and_sizes_stand_on_it(tmp_path):
    graph = net(64, 128, 64)

    def stair(layer, sizes) -> float:
        return macs(layer, tuple(-(-size // 16) * 16 for size in sizes))

    after, context = pruned(graph, latency=0.5, table=str(table(graph, tmp_path, time=stair)))
    assert context.records["latency"]["step"] == 16
    assert all(after[name].layer.out_channels % 16 == 0 for name in "024")
    fine, _ = pruned(graph, latency=0.5, table=str(tmp_path / "table.json"), round_to=8)
    assert any(fine[name].layer.out_channels % 16 for name in "024")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_paths_meet_a_time_too(tmp_path, allocation):
    graph = net(64, 128, 96)
    path = str(table(graph, tmp_path))
    after, _ = pruned(graph, latency=0.5, table=path, allocation=allocation)
    assert predicted(after) / predicted(graph) == pytest.approx(0.5, rel=0.05)
    if allocation == "uniform":
        shares = [after[n].layer.out_channels / graph[n].layer.out_channels for n in "024"]
        assert max(shares) - min(shares) < 0.13


# ---- what does not fit ------------------------------------------------------------------------


def refused(graph: Graph, match: str, **options: object) -> None:
    before = graph_hash(graph)
    with pytest.raises(CompresscError, match=match):
        pruned(graph, latency=0.5, **options)
    assert graph_hash(graph) == before


def test_a_time_that_no_cut_leaves(tmp_path):
    graph = net(64, 64)
    path = table(graph, tmp_path)
    with pytest.raises(CompresscError, match=r"CC102.*no cut leaves 2\.0% of the time.*at least"):
        pruned(graph, latency=0.02, table=str(path))


def test_a_table_of_another_model(tmp_path):
    path = table(net(64, 64), tmp_path)
    match = r"CC304.*the table has the layers of this model.*at .*table\.json; hint: run compressc"
    refused(net(64, 96), match, table=str(path))


def test_a_table_in_which_nothing_takes_time(tmp_path):
    graph = net(64, 64)
    path = table(graph, tmp_path)
    content = json.loads(path.read_text())
    content["rows"] = [row | {"ms": 0.0} for row in content["rows"]]
    path.write_text(json.dumps(content))
    refused(graph, r"CC304.*got 0 ms for the whole model.*at .*table\.json", table=str(path))


def test_a_number_as_a_text_is_damage(tmp_path):
    path = table(net(64, 64), tmp_path)
    read_table(path)
    content = json.loads(path.read_text())
    content["rows"][1]["ms"] = str(content["rows"][1]["ms"])
    path.write_text(json.dumps(content))
    with pytest.raises(CompresscError, match=r"CC304.*rows\.1\.ms.*valid number"):
        read_table(path)


def test_a_table_of_another_batch(tmp_path):
    graph = net(64, 64)
    path = table(graph, tmp_path, batch=4)
    refused(graph, r"CC304.*at batch 1", table=str(path))
    after, _ = pruned(graph, latency=0.5, table=str(path), batch=4)
    assert after["0"].layer.out_channels < 64 or after["2"].layer.out_channels < 64


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"schema_version": SCHEMA + 1}, r"CC304.*has schema"),
        ({"threads": 2}, r"CC304.*got a table of 2 threads, not 1"),
        ({"runtime": "OpenVINO"}, r"CC304.*got a table of OpenVINO"),
        ({"rows": [{"layer": "x"}]}, r"CC304.*rows\.0\.sizes"),
        ({"surprise": 1}, r"CC304.*surprise"),
    ],
    ids=str,
)
def test_a_foreign_table(tmp_path, changed, match):
    graph = net(64, 64)
    refused(graph, match, table=str(table(graph, tmp_path, **changed)))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe\x00", "a file that is no text"),
        (b"{", "no JSON: Expecting property name"),
        (b"", "no JSON: Expecting value"),
        (b"[1, 2]", "JSON of a list"),
    ],
)
def test_what_is_no_table_is_said_in_words(tmp_path, content, got):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompresscError) as error:
        read_table(path)
    assert error.value.code == "CC304"
    assert error.value.got.startswith(got)
    assert error.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"rows": NaN}'])
def test_a_damaged_table_is_refused_before_any_work(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(CompresscError, match="CC304"):
        make(Prune, {"latency": 0.5, "table": str(path)})
    with pytest.raises(CompresscError, match="CC304"):
        make(Prune, {"latency": 0.5, "table": str(tmp_path / "absent.json")})


@pytest.mark.parametrize(
    "options",
    [
        {"latency": 0.5, "macs": 0.5},
        {"latency": 1.0},
        {"batch": 4},
        {"allocation": "knapsack"},
        {"latency": 0.5, "batch": 0},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(CompresscError, match="CC102"):
        make(Prune, options)


def test_another_table_is_another_result(tmp_path):
    graph = net(64, 64)
    path = table(graph, tmp_path)
    one = Prune(latency=0.5, table=str(path)).cache_key()
    table(graph, tmp_path, time=lambda layer, sizes: 1.0 + macs(layer, sizes))
    assert Prune(latency=0.5, table=str(path)).cache_key() != one
    assert Prune(latency=0.5).cache_key() != Prune(latency=0.5, allocation="uniform").cache_key()
    assert Prune(latency=0.5).cache_key() != Prune(latency=0.5, round_to=8).cache_key()
    assert Prune(latency=0.5).target_parts == {"batches", "threads"}
    assert Prune(macs=0.5).target_parts == frozenset()


def test_coverage_measures_nothing():
    graph = net(64, 64)
    said = Prune(latency=0.5).coverage(graph, Context(graph))
    assert said["0"].outcome == "unknown"
    assert "measured times" in said["0"].text


# ---- the knapsack by itself -------------------------------------------------------------------


class Width:
    """A width, for what the knapsack reads of one."""

    def __init__(self, size: int) -> None:
        self.size, self.axis = size, self
        self.role = ""


class Products:
    """Times of a chain: each layer takes the product of what it reads and makes."""

    def __init__(self, widths: list[Width], weights: list[float]) -> None:
        self.widths, self.weights = widths, weights
        self.whole = self.at({})

    def at(self, left) -> float:
        shares = [1.0, *(left.get(w, w.size) / w.size for w in self.widths), 1.0]
        return sum(w * a * b for w, a, b in zip(self.weights, shares, shares[1:], strict=False))

    layers_at = at

    def reading(self, leaves):
        return self


def test_no_other_sizes_at_that_time_lose_much_less():
    """Against every combination of sizes of three widths."""
    widths = [Width(16), Width(16), Width(16)]
    kinds = [(width,) for width in widths]
    generator = torch.Generator().manual_seed(3)
    scores = {w: torch.rand(16, generator=generator) * (1 + i) for i, w in enumerate(widths)}
    times = Products(widths, [1.0, 6.0, 2.0, 1.0])
    lost = importance_lost(kinds, scores, comparable=True)
    sizes = Knapsack(kinds, Rounding(1), lost, times).cut_to(0.5)
    ours = [sizes.get(kind, 16) for kind in kinds]
    got = times.at(dict(zip(widths, ours, strict=True))) / times.whole
    assert got == pytest.approx(0.5, rel=0.02)
    best = min(
        sum(lost(kind, size) for kind, size in zip(kinds, every, strict=True))
        for every in product(range(1, 17), repeat=3)
        if times.at(dict(zip(widths, every, strict=True))) / times.whole <= got + 1e-9
    )
    assert sum(lost(k, n) for k, n in zip(kinds, ours, strict=True)) <= best * 1.15


def test_noise_has_no_scale_and_no_bound():
    width = Width(4)
    kinds = [(width,)]
    scores = torch.tensor([4.0, 1.0, 2.0, 3.0])
    lost = importance_lost(kinds, {width: scores}, comparable=False)
    assert [lost(kinds[0], n) for n in (4, 3, 2, 1)] == pytest.approx([0, 1 / 9, 3 / 7, 6 / 4])
    scaled = importance_lost(kinds, {width: scores * 1e6}, comparable=False)
    assert scaled(kinds[0], 2) == pytest.approx(3 / 7)
    plain = importance_lost(kinds, {width: scores}, comparable=True)
    assert [plain(kinds[0], n) for n in (4, 3, 2, 1)] == pytest.approx([0, 1, 3, 6])


class Measured:
    """A machine on which everything takes a tenth of the whole longer than predicted."""

    is_here = True

    def left(self, sizes) -> float:
        return sizes["share"]

    def measured(self, sizes) -> float:
        return 0.1 + 0.9 * sizes["share"]


def test_what_is_measured_puts_the_prediction_right():
    met = meet_latency(Target("latency", 0.5), Measured(), lambda share: {"share": share})
    assert met.measured == pytest.approx(0.5, rel=0.01)
    assert met.predicted == pytest.approx(4 / 9, rel=0.02)


def without(path: Path, kinds: tuple[str, ...]) -> str:
    """The table as a runtime leaves it that refuses layers of some kinds."""
    content = json.loads(path.read_text())
    gone = [row["layer"] for row in content["rows"] if row["layer"].startswith(kinds)]
    content["rows"] = [row for row in content["rows"] if row["layer"] not in gone]
    content["refused"] = dict.fromkeys(gone, "no kernel for it")
    path.write_text(json.dumps(content))
    return str(path)


def test_a_layer_that_the_runtime_refused_counts_as_fixed(tmp_path):
    graph = net(64, 128, 96)
    path = without(table(graph, tmp_path), ("linear",))
    _, context = pruned(graph, latency=0.6, table=path)
    assert context.records["latency"]["predicted"] == pytest.approx(0.6, rel=0.03)
    notes = dict(context.notes)
    (head,) = [op.name for op in graph if op.kind == "linear"]
    assert any(
        op == head and "its time counts as fixed" in text and "no kernel for it" in text
        for op, text in context.notes
    )
    assert any("the time of 1 ops counts as fixed" in text for text in notes.values())


def test_where_all_layers_are_refused_it_is_an_error(tmp_path):
    graph = net(64, 128, 96)
    path = without(table(graph, tmp_path), ("linear", "conv2d"))
    with pytest.raises(CompresscError) as caught:
        pruned(graph, latency=0.6, table=path)
    assert caught.value.code == "CC102"
    assert caught.value.got == "no kernel for it"


def test_of_steps_each_share_is_of_the_uncut_model(tmp_path, monkeypatch):
    """Each step times the layers as they are by then; measuring is by the formula, too."""
    graph = net(64, 128, 96)
    shares: list[float] = []

    def here(plan, whole, threads, kept=None, done=None):
        return read_table(written(plan, tmp_path)), len(plan.rows)

    def measured(self: Latency, kept):
        with cut_copy(self.graph, self.found, kept) as copy:
            shares.append(predicted(copy) / predicted(self.of))
        return shares[-1]

    monkeypatch.setattr("compressc_prune.latency.here", here)
    monkeypatch.setattr(Latency, "_measured", measured)
    part = Split((torch.randn(80, 8, 4, 4),))
    after = graph.copy()
    where = Where(backends=("onnx",), batches=(1,))
    context = Context(graph, Dataset("made", part, part, part), target=where)
    make(Prune, {"latency": 0.4, "steps": 2, "epochs_between": 1}).run(after, context)
    assert shares == [pytest.approx(0.4**0.5, rel=0.03)]  # what the second step begins with
    assert predicted(after) / predicted(graph) == pytest.approx(0.4, rel=0.03)
    record = context.records["latency"]
    assert record["predicted"] == pytest.approx(0.4, rel=0.03)
    assert record["before_ms"] == pytest.approx(predicted(graph), rel=0.03)
    assert any(text.startswith("latency=0.4: ") for _, text in context.notes)
