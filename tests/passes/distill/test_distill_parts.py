"""The parts of a distillation: the part held out, the teacher's answers."""

import re
from pathlib import Path

import pytest
import torch
from compressc_distill import Distill
from compressc_distill.telling import Told
from torch import nn

from compressc.data import Dataset, Split
from compressc.distillation import Answers, Keeping, Pair, Reader, Teacher, hold_out
from compressc.errors import CompresscError
from compressc.pipeline import Context, View
from compressc.training import Drawn, Moment

CPU = torch.device("cpu")


def samples(count, classes=4):
    rows = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    return Split((rows,), torch.arange(count) % classes)


def rows_of(part):
    return part.take(len(part)).inputs[0].squeeze(1).int().tolist()


def test_the_held_out_part_is_apart_stratified_and_seeded():
    kept, held = hold_out(samples(1000), 0.1, seed=0)
    assert sorted(rows_of(kept) + rows_of(held)) == list(range(1000))
    assert torch.bincount(held.all_labels()).tolist() == [25, 25, 25, 25]
    assert rows_of(hold_out(samples(1000), 0.1, seed=0)[1]) == rows_of(held)
    assert rows_of(hold_out(samples(1000), 0.1, seed=1)[1]) != rows_of(held)
    assert all(
        row % 4 == label for row, label in zip(rows_of(held), held.all_labels(), strict=True)
    )


@pytest.mark.parametrize(
    ("total", "share", "want"),
    [(1000, 0.2, 200), (600, 0.1, 64), (300, 0.1, 37), (300, 0.4, 120), (50, 0.1, 6), (2, 0.1, 1)],
)
def test_how_many_are_held_out(total, share, want):
    kept, held = hold_out(samples(total), share, seed=0)
    assert (len(kept), len(held)) == (total - want, want)


def test_a_single_sample_is_taught_and_examined():
    kept, held = hold_out(samples(1), 0.1, seed=0)
    assert rows_of(kept) == rows_of(held) == [0]


@pytest.mark.parametrize("how", ["memory", "disk", "beside"])
def test_answers_are_the_same_kept_or_asked_for(teacher, how, tmp_path):
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    reader = Reader(teacher, ["fc2"], ["act"], CPU)
    keeping = Keeping(how, folder=lambda key: tmp_path / key, most=1 << 20)
    asked = Teacher(reader, [Pair("act", "act", {1: (1, 4)})], Split((x,)), CPU, keeping)
    assert (asked.kept is None) == (how == "beside")
    index = torch.tensor([299, 0, 150])
    answers = asked.answers(Drawn(index, None, Split((x[index],))))
    w = {name: t.detach() for name, t in teacher.tensors().items()}
    hidden = torch.relu(x[index] @ w["fc1.weight"].T + w["fc1.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    assert torch.allclose(answers.learned[0], logits, atol=1e-5)
    assert torch.allclose(answers.features[0], hidden[:, [1, 4]], atol=1e-5)
    assert not answers.learned[0].requires_grad


@pytest.mark.parametrize(("how", "asked"), [("disk", 1), ("memory", 0), ("beside", 0)])
def test_what_answers_depend_on_is_found_out_for_the_disk_alone(teacher, how, asked, tmp_path):
    found = []
    keeping = Keeping(
        how,
        folder=lambda key: tmp_path / key,
        most=1 << 20,
        basis=lambda: found.append(1) or {"teacher": "digest"},
    )
    reader = Reader(teacher, ["fc2"], [], CPU)
    Teacher(reader, [], Split((torch.zeros(20, 6),)), CPU, keeping).close()
    assert len(found) == asked


class Counted(nn.Module):
    """A teacher that knows how many rows it was asked about."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return x.sum(1), [torch.stack([x.sum(1), x[:, 0]], 1)]


class CountedReader(Reader):
    """Reads what it returns."""

    def __init__(self):
        self.module = Counted()

    def __call__(self, module, inputs):
        return Answers(tuple(module(*inputs)[1]))


def counting(samples, **options):
    reader = CountedReader()
    asked = Teacher(reader, [], samples, CPU, Keeping(**options))
    reader.module.rows = 0
    return asked, reader.module


def ask(teacher, x, positions, view=None):
    index = torch.tensor(positions)
    return teacher.answers(Drawn(index, view, Split((x[index],)))).learned[0]


def test_a_teacher_is_asked_once_and_what_is_on_disk_serves_the_next_run(tmp_path):
    x = torch.arange(600.0).view(200, 3)
    options = {"how": "disk", "folder": lambda key: tmp_path / key, "most": 1 << 20}
    said = []
    first, module = counting(Split((x,)), **options, say=said.append)
    for positions in ([5, 199], [0, 1]):
        wanted = torch.stack([x[positions].sum(1), x[positions, 0]], 1)
        assert torch.equal(ask(first, x, positions), wanted)
    assert module.rows == 200
    first.close()
    again, module = counting(Split((x,)), **options, say=said.append)
    assert torch.equal(ask(again, x, [7]), torch.tensor([[66.0, 21.0]]))
    assert module.rows == 0
    again.close()
    assert [text.partition(", ")[2] for text in said] == [
        "0 of 200 were there",
        "200 of 200 were there",
    ]
    other, module = counting(Split((x + 1,)), **options)  # other samples are another key
    ask(other, x + 1, [7])
    assert module.rows == 200


def test_answers_that_a_killed_run_had_not_flagged_are_asked_for_again(tmp_path):
    x = torch.arange(900.0).view(300, 3)
    options = {"how": "disk", "folder": lambda key: tmp_path / key, "most": 1 << 20}
    first, _ = counting(Split((x,)), **options)
    ask(first, x, [0])
    first.close()
    (flags,) = tmp_path.glob("*/done.bin")
    kept = bytearray(flags.read_bytes())
    kept[130] = 0  # a row of the second block of 128
    flags.write_bytes(kept)
    (values,) = tmp_path.glob("*/value-0.bin")
    torn = bytearray(values.read_bytes())
    torn[130 * 8 : 131 * 8] = b"\xff" * 8
    values.write_bytes(torn)
    again, module = counting(Split((x,)), **options)
    assert torch.equal(ask(again, x, [130]), torch.tensor([[x[130].sum(), x[130, 0]]]))
    assert module.rows == 128  # its block, in one piece as before


@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)])
def test_kept_answers_are_rounded_to_their_dtype(dtype, step):
    x = torch.rand(200, 3) + 1
    asked, _ = counting(Split((x,)), how="memory", dtype=dtype)
    got = ask(asked, x, [3, 4])
    want = torch.stack([x[[3, 4]].sum(1), x[[3, 4], 0]], 1)
    assert got.dtype == torch.float32
    assert torch.equal(got, want.to(dtype).float())
    assert 0 < (got - want).abs().max() <= 4 * step


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"most": 100}, r"its answers take 0\.0 GB, and 0\.0 GB may be kept"),
        ({"most": 1 << 20, "folder": lambda key: None}, "no cache"),
        ({"most": 1 << 20, "folder": lambda key: Path("/dev/null/x")}, "cannot be kept"),
    ],
)
def test_where_answers_cannot_be_kept_the_teacher_runs_beside_and_that_is_said(options, why):
    said = []
    x = torch.ones(200, 3)
    asked, module = counting(Split((x,)), how="disk", say=said.append, **options)
    ask(asked, x, [1, 2])
    assert module.rows == 2
    assert len(said) == 1
    assert re.match(f"the teacher runs beside: .*{why}", said[0])


def test_two_runs_do_not_write_the_same_answers(tmp_path):
    x = torch.ones(200, 3)
    options = {"how": "disk", "folder": lambda key: tmp_path / key, "most": 1 << 20}
    first, _ = counting(Split((x,)), **options)
    said = []
    second, _ = counting(Split((x,)), **options, say=said.append)
    assert (first.kept is None, second.kept is None) == (False, True)
    assert said == ["the teacher runs beside: another process keeps its answers"]


class Shifted(Split):
    """Each view adds its number."""

    has_views = True

    def select(self, positions, view=None):
        batch = super().select(positions)
        return Split((batch.inputs[0] + (0 if view is None else view.number),))


@pytest.mark.parametrize(("views", "rows"), [(2, 400), (0, 6)])
def test_of_fixed_views_each_is_asked_about_once(views, rows):
    x = torch.ones(200, 3)
    asked, module = counting(Shifted((x,)), how="memory", views=views)
    for number in (0, 1, 0):
        seen = x + number
        got = ask(asked, seen, [4, 9], View(7, number))
        assert torch.equal(got[:, 0], seen[[4, 9]].sum(1))
    assert module.rows == rows


def test_of_samples_that_change_the_teacher_sees_the_same_view(teacher):
    class Views(Split):
        has_views = True

    reader = Reader(teacher, ["fc2"], [], CPU)
    asked = Teacher(reader, [], Views((torch.zeros(30, 6),)), CPU)
    seen = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    batch = Drawn(torch.arange(4), View(0, 3), Split((seen,)))
    with torch.no_grad():
        assert torch.equal(asked.answers(batch).learned[0], reader.module(seen)[1][0])


def test_the_pace_is_that_of_this_process(teacher):
    heard, now = [], [100.0]
    told = Told(Context(teacher, tell=heard.append), "accuracy", 32, lambda: now[0])
    for step, seconds in ((40, 0.0), (41, 2.0), (44, 6.0)):  # gone on with behind step 39
        now[0] += seconds
        told.stepped(Moment(step, 64, 2, 3, 0.5, (-0.5, 0.9)))
    paces = [(f.facts.get("samples_per_second"), f.facts.get("seconds_left")) for f in heard]
    assert paces == [(None, None), (16.0, 46.0), (16.0, 40.0)]


def test_labels_of_the_test_part_alone_are_judged_by_and_not_learned_from(teacher, student, data):
    bare = Split(data.train.inputs)
    half = Dataset("half", bare, bare.take(32), data.train)
    ctx = Context(teacher, half)
    Distill(epochs=1).run(student, ctx)
    said = [text for _, text in ctx.notes]
    assert "no labels: distilled by the teacher's answers alone" in said
    assert ctx.records["training"]["metric"] == "agreement"
    with pytest.raises(CompresscError, match=r"CC105.*trust=labels needs labels"):
        Distill(epochs=1, trust="labels").run(student, Context(teacher, half))
