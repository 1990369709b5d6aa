"""Studies: their arithmetic against plain loops, what they find, and what they refuse."""

from __future__ import annotations

import json
import math
import statistics
from itertools import permutations

import numpy as np
import pytest
import torch

from compressc import cli
from compressc.compile import compile
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.report.study_html import cell, write_study
from compressc.report.study_record import Column, Row, StudyRecord
from compressc.study import bias, fidelity, open_study, order, temperature
from compressc.study.bias import Group, follows, groups
from compressc.study.fidelity import correlation
from compressc.study.order import Ordered, orders
from compressc.study.order import follows as order_follows
from compressc.study.slices import read_slices
from compressc.study.temperature import Tried
from compressc.study.temperature import follows as temperature_follows
from tests.unit.study.study_data import mlp, problem, study


def row(record: StudyRecord, name: str, table: int = 0) -> Row:
    return next(one for one in record.tables[table].rows if one.name == name)


def test_correlation_is_pearsons() -> None:
    a, b = [0.1, 0.5, 0.7, 0.6], [0.2, 0.3, 0.9, 0.8]
    assert correlation(a, b) == pytest.approx(statistics.correlation(a, b), abs=1e-12)
    assert correlation(a, [0.3] * 4) is None
    assert correlation(a, [0.1, math.nan, 0.2, 0.3]) is None
    assert correlation([0.1, 0.2], [0.1, 0.2]) is None  # two points are always on a line


def test_fidelity_follows_each_epoch_and_the_result() -> None:
    """The last agreement is what a run of its own says of the same held-out samples."""
    lists = ["distill(epochs=3,lr=0.01)", "distill(epochs=3,lr=0.01,loss=ce)"]
    made = fidelity(study(), lists)
    picture = made.pictures[0]
    assert [line.name for line in picture.lines][:2] == [
        "A, score",
        "A, agreement",
    ]
    assert [len(line.y) for line in picture.lines] == [4, 4, 4, 4]  # the start, and three epochs
    start = picture.lines[1].y[0]
    assert start == [1.0, 1.0]  # before training the student is the teacher
    run = compile(mlp(), lists[1], data=problem(), seed=1, cache=None)
    training = run.report.passes[-1].records["training"]
    assert training["scores"] == ["accuracy", "agreement"]
    assert picture.lines[3].y[-1][1] == training["history"][-1]["score"][2]
    assert row(made, f"B = {lists[1]}").figures["agreement"][1] == run.report.passes[-1].agreement
    theirs, ours = (lower(g)(run.data.test.take(100).inputs[0]) for g in (run.teacher, run.graph))
    share = float((theirs.argmax(1) == ours.argmax(1)).double().mean())
    assert run.report.passes[-1].agreement == share


def test_fidelity_needs_a_training_by_a_teacher() -> None:
    with pytest.raises(CompresscError, match=r"CC105.*trains by a teacher.*hint: --passes distill"):
        fidelity(study(1), ["simplify"])
    with pytest.raises(CompresscError, match=r"CC105.*a study needs labels"):
        study(labelled=False)
    with pytest.raises(CompresscError, match=r"CC105.*a study needs data"):
        open_study(mlp(), data=None)


def test_temperatures_are_put_into_the_passes() -> None:
    made = temperature(study(1), "distill(epochs=1,temperature={T})", [8, 1, 1])
    assert [one.name for one in made.tables[0].rows] == ["T=1", "T=8"]
    assert made.pictures[0].lines[0].x == [[1.0], [8.0]]
    run = compile(mlp(), "distill(epochs=1,temperature=8)", data=problem(), cache=None)
    held = run.report.passes[-1].records["training"]["best"][1]
    assert row(made, "T=8").figures == {
        "held": [held],
        "score": [run.report.passes[-1].accuracy],
        "agreement": [run.report.passes[-1].agreement],
    }


@pytest.mark.parametrize(
    ("passes", "values", "wanted"),
    [
        ("distill", [1, 2], r"passes with \{T\}"),
        ("distill(temperature={T})", [2, 2], "two temperatures"),
        ("distill(temperature={T})", [0, 2], "above 0"),
    ],
)
def test_temperatures_that_are_none(passes, values, wanted) -> None:
    with pytest.raises(CompresscError, match=rf"CC100.*{wanted}"):
        temperature(study(1), passes, values)


def test_the_best_temperature_is_told_by_held_out_samples_alone() -> None:
    low, high = Tried(1, [0.9, 0.9], [0.80, 0.82], [1, 1]), Tried(4, [0.8], [0.95, 0.97], [1, 1])
    first, second = temperature_follows([low, high])
    assert first == "T=1 does best on held-out samples (90.00%); on the test part 81.00%"
    assert "15.00% apart" in second
    assert "no temperature stands out" not in second
    near = Tried(4, [0.8], [0.81, 0.83], [1, 1])
    assert temperature_follows([low, near])[1].endswith("no temperature stands out")


def by_hand(labels, teacher, student, c) -> tuple[float, float]:
    """Drop of the recall of a class, and change of its false positives, sample by sample."""
    hits, wrong, inside, outside = [0, 0], [0, 0], 0, 0
    for y, a, b in zip(labels, teacher, student, strict=True):
        for place, answer in enumerate((a, b)):
            hits[place] += int(y == c and answer == c)
            wrong[place] += int(y != c and answer == c)
        inside, outside = inside + int(y == c), outside + int(y != c)
    return (hits[0] - hits[1]) / inside, (wrong[1] - wrong[0]) / outside


def test_groups_are_counted_as_by_hand() -> None:
    draw = torch.Generator().manual_seed(3)
    labels, teacher = (torch.randint(3, (90,), generator=draw) for _ in range(2))
    students = torch.randint(3, (2, 90), generator=draw)
    mask = torch.rand(90, generator=draw) < 0.4
    found = groups(labels, teacher, students, {"few": mask})
    for c in range(3):
        for seed in range(2):
            drop, rise = by_hand(labels.tolist(), teacher.tolist(), students[seed].tolist(), c)
            assert found[c].drop[seed] == pytest.approx(drop, abs=1e-12)
            assert found[c].rise[seed] == pytest.approx(rise, abs=1e-12)
    few = found[3]
    assert (few.name, few.kind, few.size) == ("few", "slice", int(mask.sum()))
    inside = [x[mask].tolist() for x in (labels, teacher, students[1])]
    rises = [by_hand(*inside, c)[1] for c in range(3)]
    assert few.rise[1] == pytest.approx(sum(rises) / 3, abs=1e-12)
    right = [int(a == y) - int(b == y) for y, a, b in zip(*inside, strict=True)]
    assert few.drop[1] == pytest.approx(sum(right) / len(right), abs=1e-12)


def test_a_class_that_pays_is_named_and_chance_is_not() -> None:
    """A student that takes half of class 1 for class 0, and one that errs evenly."""
    labels = torch.arange(300) % 3
    teacher = labels.clone()
    unfair, fair = labels.clone(), labels.clone()
    unfair[(labels == 1) & (torch.arange(300) % 2 == 0)] = 0
    fair[::30] = (labels[::30] + 1) % 3
    fair[1::30] = (labels[1::30] + 1) % 3
    fair[2::30] = (labels[2::30] + 1) % 3
    texts = follows(groups(labels, teacher, unfair[None], {}), [1 / 6])
    assert any("class 1 loses 50.00%" in t and "new" in t for t in texts)
    assert any(
        "class 0: more samples are taken for it, 0.00% before and +25.00%" in t for t in texts
    )
    assert not any("class 2" in text for text in texts)
    calm = follows(groups(labels, teacher, fair[None], {}), [0.1])
    assert calm[1].startswith("none of 3 classes and slices loses more")


def test_what_the_teacher_had_worse_already_is_amplified() -> None:
    about = ([0.2], 9.0, 0.0, [0.0], 0.0)
    weak = Group("class 0", "class", 50, 0.6, *about)
    strong = Group("class 1", "class", 50, 1.0, [0.0], 0.0, 0.0, [0.0], 0.0)
    texts = follows([weak, strong], [0.1])
    assert "amplified, the teacher has 60.0% of it right and 80.0% of all" in texts[1]


def test_bias_beside_the_report_of_a_run() -> None:
    """The drops of classes, weighted by their sizes, are the drop of the accuracy."""
    made = bias(study(), "prune(ratio=0.7,refit=false)", {"left": torch.arange(100) < 50})
    run = compile(mlp(), "prune(ratio=0.7,refit=false)", data=problem(), cache=None)
    drops = [one.figures["size"][0] * one.figures["drop"][0] for one in made.tables[0].rows]
    lost = run.report.teacher.accuracy - run.report.passes[-1].accuracy
    assert sum(drops) / 100 == pytest.approx(lost, abs=1e-9)
    assert [table.title for table in made.tables] == ["Classes", "Slices"]
    assert row(made, "left", 1).figures["size"] == [50]


def test_slices_are_read_and_what_is_none_is_refused(tmp_path) -> None:
    good, path = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, dark=np.arange(6) < 2, region=np.array([0, 1, 1, 5, 5, 5]))
    found = read_slices(good, 6)
    assert list(found) == ["dark", "region=0", "region=1", "region=5"]
    assert found["region=5"].tolist() == [False] * 3 + [True] * 3
    for values, wanted in (
        (np.zeros(5, bool), r"CC301.*each of 6 test samples.*shape \[5\]"),
        (np.zeros(6, bool), "CC301.*a slice has samples"),
        (np.zeros(6), "CC300.*bools, or integers"),
    ):
        np.savez(path, mine=values)
        with pytest.raises(CompresscError, match=wanted):
            read_slices(path, 6)
    np.savez(path, mine=np.arange(100))
    with pytest.raises(CompresscError, match=r"CC301.*at most 64 groups"):
        read_slices(path, 100)
    with pytest.raises(CompresscError, match=r"CC300"):
        read_slices(tmp_path / "none.npz", 6)


def test_orders_begin_with_the_given_one_and_say_what_is_against_them() -> None:
    found = list(orders(["lowrank", "prune", "distill"]))
    assert len({text for text, _ in found}) == len(list(permutations(range(3))))
    assert found[0][0] == "lowrank,prune,distill"
    assert "must come before" in found[0][1]
    assert found[1] == ("prune,lowrank,distill", "")
    assert all(against for _, against in found[2:])
    with pytest.raises(CompresscError, match=r"CC104"):
        compile(mlp(), "distill,prune", data=problem(), cache=None)


def test_orders_are_measured_those_that_are_spoken_against_too() -> None:
    passes = "prune(ratio=0.5,refit=false),distill(epochs=2,lr=0.01)"
    made = order(study(), passes)
    first, second = made.tables[0].rows
    assert first.name == passes
    run = compile(mlp(), passes, data=problem(), seed=1, cache=None).report
    assert first.figures["score"][1] == run.passes[-1].accuracy
    assert first.figures["parameters"][0] == run.passes[-1].parameters / run.teacher.parameters
    assert "must come before 'distill'" in second.remark
    assert made.findings[0] == "2 of 2 orders were measured"


def test_a_budget_ends_a_study_of_orders() -> None:
    ticks = iter(range(0, 1000, 40))
    made = order(study(1), "simplify,prune(refit=false),lowrank", 60, lambda: next(ticks))
    assert made.findings[0].startswith("2 of 6 orders were measured: there was no time")
    with pytest.raises(CompresscError, match=r"CC100.*2 to 6 passes"):
        order(study(1), "prune")


def test_an_order_that_fails_is_told_and_ends_nothing(monkeypatch) -> None:
    asked = study(1)
    whole = asked.run

    def run(passes, seed, **how):
        if passes.startswith("distill"):
            raise CompresscError("CC500", "a graph that holds")
        return whole(passes, seed, **how)

    monkeypatch.setattr(asked, "run", run)
    made = order(asked, "prune(refit=false),distill(epochs=1)")
    assert made.tables[0].rows[1].remark.startswith("fails: a graph that holds; 'prune' must come")
    assert made.findings[-1] == "2 of 2 orders were measured"
    monkeypatch.setattr(asked, "run", lambda *a, **k: run("distill", 0))
    with pytest.raises(CompresscError, match="CC500"):  # of an order that a run may have
        order(asked, "prune(refit=false),distill(epochs=1)")


def test_an_order_stands_out_beyond_its_seeds_alone() -> None:
    about = ([0.9], [0.5], [0.5])
    legal = Ordered("a,b", "", [0.90, 0.91], *about)
    better = Ordered("b,a", "'a' must come before 'b': why", [0.95, 0.96], *about)
    texts = order_follows([legal, better], 2)
    assert "no order stands out" not in texts[1]
    assert texts[2].startswith("the highest is one that the passes speak against")
    assert texts[2].endswith("a,b has 90.50%, beyond the seeds")
    close = Ordered("b,a", "", [0.90, 0.92], *about)
    assert order_follows([legal, close], 2)[1].endswith("no order stands out")


def test_a_study_that_was_killed_goes_on_with_the_runs_that_are_there(tmp_path) -> None:
    """Runs are in the cache: the second study is the first, and trains nothing."""
    lists = ["distill(epochs=2,lr=0.01)"]
    first = fidelity(study(2, cache=tmp_path), lists)
    heard: list[str] = []
    again = study(2, cache=tmp_path)
    again.tell = lambda event: heard.append(str(event.facts.get("what", "")))
    second = fidelity(again, lists)
    assert second.tables == first.tables
    assert not any("epoch" in what for what in heard)


def test_the_record_reads_back_and_the_page_escapes_names(tmp_path) -> None:
    made = fidelity(study(1), ["distill(epochs=1)"]).model_copy(update={"source": "<b>x</b>"})
    made.write(tmp_path / "study.json")
    assert StudyRecord.read(tmp_path / "study.json") == made
    write_study(made, tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert page.count("<svg") == 2
    assert "distill(epochs=1)" in page
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(CompresscError, match=r"CC403.*study record.*got study: Field required"):
        StudyRecord.read(tmp_path / "study.json")
    newer = made.model_dump(mode="json") | {"schema_version": 2, "more": "fields"}
    (tmp_path / "study.json").write_text(json.dumps(newer))
    with pytest.raises(CompresscError, match=r"CC403.*schema 1 or older \(got schema 2"):
        StudyRecord.read(tmp_path / "study.json")


def test_cells_are_means_with_half_of_the_range() -> None:
    score, drop = Column(name="a", title="a"), Column(name="a", title="a", unit="points")
    assert cell(score, [0.5, 0.75]) == "62.50 ± 12.50"
    assert cell(drop, [0.5]) == "+50.00"
    assert cell(score, [None]) == "-"


def test_commands(tmp_path, monkeypatch, capsys) -> None:
    """Options reach the studies; a bad one ends with its code."""
    monkeypatch.chdir(tmp_path)
    torch.export.save(
        torch.export.export(
            mlp(), (torch.randn(4, 4),), dynamic_shapes=({0: torch.export.Dim("b")},)
        ),
        "m.pt2",
    )
    data = problem()
    named = {}
    for part, source in (("train", data.train), ("test", data.test)):
        batch = source.take(len(source))
        named |= {f"x_{part}": batch.inputs[0].numpy(), f"y_{part}": batch.labels.numpy()}
    np.savez("d.npz", **named)
    np.savez("slices.npz", left=np.arange(100) < 50)
    more = ["m.pt2", "--data", "d.npz", "--seeds", "1", "-o", "out"]
    passes = ["-p", "prune(ratio=0.7,refit=false)"]
    assert cli.main(["study", "bias", *more, *passes, "--slices", "slices.npz"]) == 0
    assert "less right than the teacher" in capsys.readouterr().out
    assert StudyRecord.read("out/study.json").study == "bias"
    assert cli.main(["study", "order", *more, "-p", "prune,distill", "--budget", "soon"]) == 2
    assert "--budget is a time" in capsys.readouterr().err
    assert cli.main(["study", "temperature", *more, "--at", "1,x"]) == 2
    assert "CC100" in capsys.readouterr().err
