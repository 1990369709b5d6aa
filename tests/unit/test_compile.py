"""`compressc.compile`: what reaches passes and files, and what is refused before any work."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import compressc
from compressc import Dataset, Pass, Split
from compressc.errors import CompresscError
from compressc.gate import Gate
from compressc.interruption import rest
from compressc.measure import memory
from compressc.report import Record
from compressc.target import Target


class Tell(Pass):
    """Changes nothing, and notes what it is given."""

    name: ClassVar[str] = "tell"
    runs: ClassVar[list[int]] = []

    def run(self, graph, ctx):
        self.runs.append(ctx.seed)
        sizes = [len(part) for part in (ctx.data.train, ctx.data.calibration, ctx.data.test)]
        ctx.note("", f"seed {ctx.seed}, {ctx.target.threads} threads, samples {sizes}")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3)).eval()


@pytest.fixture
def data(model):
    """Parts of 40, 20 and 30 samples, labelled as the model answers."""
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(n, 4, generator=draw) for n in (40, 20, 30)]
    return Dataset("three", *(Split((x,), model(x).argmax(1)) for x in inputs))


@pytest.fixture
def benched(monkeypatch):
    """What files would be measured on: a list of (samples, target); nothing is written."""
    found = []

    def bench(graph, target, teacher, folder, tell):
        found.append((teacher.samples, target))
        return [], []

    monkeypatch.setattr(compressc.backend, "bench", bench)
    return found


def test_progress_is_told_what_is_done_of_how_much(model, data):
    told = []
    passes = "distill(epochs=1,features=0)"
    compressc.compile(model, passes, data=data, cache=None, progress=lambda *a: told.append(a))
    what, done, total = told[-1]
    assert what == "distill epoch 1/1"
    assert done == total > 0


def test_passes_see_all_parts_and_files_the_one_that_no_pass_learns_from(
    model, data, benched, tmp_path
):
    target = Target(("onnx",), (7,), threads=3)
    compiled = compressc.compile(model, [Tell()], data=data, seed=5, target=target, cache=None)
    assert compiled.passes[0].notes == [("", "seed 5, 3 threads, samples [40, 20, 30]")]
    record = compiled.save(tmp_path / "out")
    ((samples, used),) = benched
    assert torch.equal(samples.inputs[0], data.test.inputs[0])
    assert used == target
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"graph", "passes", "manifest.json", "report.html"}
    assert Record.read(tmp_path / "out/manifest.json") == record == compiled.report
    assert (record.seed, record.teacher.accuracy) == (5, 1.0)


def test_formats_and_batches_may_be_others_than_the_targets(model, data, benched, tmp_path):
    compiled = compressc.compile(model, [Tell()], data=data, target=Target(threads=2), cache=None)
    compiled.save(tmp_path / "out", formats=["pt2"], batches=[])
    assert benched[0][1] == Target(("pt2",), (), threads=2)


def test_without_data_files_are_measured_on_random_inputs(model, benched, tmp_path):
    compiled = compressc.compile(model, "simplify", inputs=["f32[b,4]"], cache=None)
    compiled.save(tmp_path / "out")
    (samples, _), first = benched[0], compiled.task
    assert first is None
    assert samples.labels is None
    assert samples.inputs[0].shape == (8, 4)
    assert samples.inputs[0].std() > 0.5


@pytest.mark.parametrize(
    ("passes", "options", "code"),
    [
        ("simplify", {"target": Target(("nope",))}, "CC107"),
        ("quant,simplify,prune", {"data": "digits"}, "CC104"),
        ("quant", {}, "CC105"),
        ("simplify", {"gate": Gate(max_drop=0.1)}, "CC105"),
        ("simplify", {"data": "nope"}, "CC107"),
        ("nope", {}, "CC101"),
        ("", {}, "CC103"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_read(passes, options, code):
    with pytest.raises(CompresscError) as caught:
        compressc.compile("no-such-model.pt", passes, cache=None, **options)
    assert caught.value.code == code


def test_what_the_model_shows_not_to_work_is_refused_before_any_pass(model, data, monkeypatch):
    Tell.runs.clear()
    wrong = Dataset("wrong", *(Split((torch.randn(9, 5),)) for _ in range(3)))
    backwards = Split(data.test.inputs, torch.zeros(30, dtype=torch.int64))
    unknown = Dataset("zeros", *[backwards] * 3)  # labels that say nothing of the answers
    for options in (
        {"data": wrong},
        {"data": data, "judged": "nope"},
        {"data": unknown, "gate": Gate(max_drop=0.1)},
    ):
        with pytest.raises(CompresscError):
            compressc.compile(model, [Tell()], cache=None, **options)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(CompresscError, match="a batch of 256 fits"):
        compressc.compile(model, [Tell()], data=data, cache=None)
    assert not Tell.runs


def test_the_teacher_runs_once_for_its_score_the_passes_and_the_files(
    model, data, monkeypatch, tmp_path
):
    compiled = compressc.compile(model, [Tell()], data=data, cache=None)
    judged = []

    def bench(graph, target, teacher, folder, tell):
        judged.append(teacher.scoring(lambda x: -model(x)).values())
        return [], []

    def run_again(*inputs):
        raise AssertionError("the teacher is run once more")

    monkeypatch.setattr(compressc.backend, "bench", bench)
    monkeypatch.setattr(compiled.judge, "teacher", run_again)
    compiled.save(tmp_path / "out")
    opposite = -model(data.test.inputs[0])
    same = opposite.argmax(1) == model(data.test.inputs[0]).argmax(1)
    assert judged[0]["agreement"] == pytest.approx(float(same.float().mean()))


@pytest.mark.parametrize("kept", [True, False])
def test_an_interruption_speaks_of_the_cache_where_there_is_one(model, data, kept, tmp_path):
    cache = tmp_path / "cache" if kept else None
    compressc.compile(model, "distill(epochs=1,features=0)", data=data, cache=cache)
    assert ("finished passes are in the cache" in rest()) == kept
    assert rest().endswith("nothing was half written")
