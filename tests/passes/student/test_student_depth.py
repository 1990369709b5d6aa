"""Which blocks stay, and what is said of it."""

from __future__ import annotations

import pytest
import torch
from compressc_student import Student
from student_nets import rows, stack, vit
from torch import nn

from compressc.analysis import Chain, find_chains, total_cost
from compressc.depth import count_kept, pick_members
from compressc.distillation import find_pairs
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, run_graph
from compressc.pipeline import Context, cover, parse_pass, parse_passes, plan
from compressc.testing import Checked, check_pass, export_graph
from tests.unit.analysis.test_analysis_chains import Residual


def chain(count: int, held: tuple[int, ...] = ()) -> Chain:
    members = tuple((f"op{i}",) for i in range(count))
    return Chain("net.{0..}", members, (0,), ("x",), dict.fromkeys(held, "why"))


def left(graph: Graph) -> list[int]:
    """Which blocks of `Stack` are there."""
    return [i for i in range(9) if f"blocks.{i}.up" in graph]


@pytest.mark.parametrize(
    ("count", "depth", "kept"),
    [
        (6, 0.5, [0, 2, 4]),
        (12, 0.5, [0, 2, 4, 6, 8, 10]),
        (5, 0.5, [0, 2, 4]),
        (3, 0.5, [0, 2]),
        (6, 1 / 3, [0, 3]),
        (6, 2 / 3, [0, 2, 3, 5]),
        (2, 0.5, [0]),
        (4, 0.01, [0]),
        (4, 1.0, [0, 1, 2, 3]),
    ],
)
def test_spread(count, depth, kept):
    """Every other one of an even number: DistilBERT's rule."""
    found = chain(count)
    assert pick_members(found, count_kept(found, depth), "spread") == kept


def test_picks():
    found = chain(6)
    likeness = [0.1, 0.99, 0.5, 0.98, 0.97, 0.2]
    assert pick_members(found, 3, "first") == [0, 1, 2]
    assert pick_members(found, 3, "last") == [3, 4, 5]
    assert pick_members(found, 3, "similar", likeness) == [0, 2, 5]


@pytest.mark.parametrize("pick", ["spread", "first", "last", "similar"])
def test_what_cannot_go_stays(pick):
    found = chain(6, held=(3, 5))
    kept = pick_members(found, count_kept(found, 0.5), pick, [0.5] * 6)
    assert len(kept) == 3
    assert {3, 5} < set(kept)
    assert count_kept(chain(4, held=(0, 1, 2)), 0.25) == 3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("student", [0, 2, 4]),
        ("student(depth=0.5)", [0, 2, 4]),
        ("student(keep=0,2,5)", [0, 2, 5]),
        ("student(keep=3)", [3]),
        ("student(depth=0.5, pick=last)", [3, 4, 5]),
        ("student(pick=first)", [0, 1, 2]),
        ("student(blocks=blocks, depth=0.2)", [0]),
    ],
)
def test_which_blocks_stay(text, kept):
    graph = stack()
    checked = check_pass(parse_pass(text), graph)
    assert left(checked.graph) == kept
    stay, gone = ([str(i) for i in range(6) if (i in kept) == there] for there in (True, False))
    assert parse_pass(parse_pass(text).text) == parse_pass(text)
    said = [t for texts in checked.notes.values() for t in texts if t.startswith("blocks.{0..5}")]
    assert len(said) == 1
    assert f"{stay[-1]}, dropped " in said[0]
    assert said[0].endswith(gone[-1])
    cost = total_cost(checked.graph, b=1)
    (beside,) = checked.notes["stack"]
    assert f"-> {cost.parameters:,} parameters" in beside
    assert f"-> {cost.macs:,} MACs" in beside


class EncoderDecoder(nn.Module):
    """Four blocks of one width behind five of another."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList(Residual(6) for _ in range(5))
        self.between = nn.Linear(6, 8)
        self.decoder = nn.ModuleList(Residual(8) for _ in range(4))

    def forward(self, x):
        for block in self.encoder:
            x = block(x)
        x = self.between(x)
        for block in self.decoder:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("text", "encoder", "decoder"),
    [
        ("student", [0, 2, 4], [0, 2]),
        ("student(keep=1,3)", [1, 3], [1, 3]),
        ("student(blocks=decoder, keep=3)", [0, 1, 2, 3, 4], [3]),
        ("student(blocks=encoder, depth=0.2)", [0], [0, 1, 2, 3]),
    ],
)
def test_each_chain_by_itself(text, encoder, decoder):
    torch.manual_seed(0)
    graph = export_graph(EncoderDecoder().eval(), torch.randn(2, 6))
    left = check_pass(parse_pass(text), graph).graph
    for name, want in (("encoder", encoder), ("decoder", decoder)):
        assert [i for i in range(5) if f"{name}.{i}.up" in left] == want


def test_a_block_that_only_one_chain_has():
    torch.manual_seed(0)
    error = refused("student(keep=4)", export_graph(EncoderDecoder(), torch.randn(2, 6)))
    assert (error.code, error.got) == ("CC102", "4")
    assert error.where == "decoder.{0..3}, 4 blocks"
    assert "blocks=" in error.hint


@pytest.mark.parametrize("text", ["student(depth=1)", "student(keep=0,1,2,3)", "student(width=1)"])
def test_a_student_that_keeps_all_is_the_teacher_bit_by_bit(text):
    graph = vit()
    checked = check_pass(parse_pass(text), graph)
    assert graph_hash(checked.graph) == graph_hash(graph)
    x = torch.randn(3, 1, 8, 8)
    assert all(map(torch.equal, run_graph(checked.graph, (x,)), run_graph(graph, (x,))))


def test_the_blocks_that_change_least_go():
    """Blocks 1 and 2 give what they take, but for little."""
    graph = stack(depth=4)
    with torch.no_grad():
        for i, scale in enumerate((3.0, 1e-3, 1e-2, 3.0)):
            graph[f"blocks.{i}.down"].layer.weight.mul_(scale)
            graph[f"blocks.{i}.down"].layer.bias.mul_(scale)
    checked = check_pass(Student(depth=0.5, pick="similar"), graph, rows(6))
    assert left(checked.graph) == [0, 3]
    said = " ".join(text for texts in checked.notes.values() for text in texts)
    assert "cosines of what blocks take and give: " in said
    assert "1.000, 1.000" in said


def test_the_cosine_is_that_of_input_and_output():
    from compressc.depth import likeness

    graph = stack(depth=3)
    (found,) = find_chains(graph)
    data = rows(6)
    got = likeness(graph, found, data.calibration, torch.device("cpu"))
    (x,) = data.calibration.inputs
    module = [
        graph[f"blocks.{i}.{part}"].layer for i in range(3) for part in ("norm", "up", "down")
    ]
    for i in range(3):
        norm, up, down = module[3 * i : 3 * i + 3]
        with torch.no_grad():
            y = x + down(torch.relu(up(norm(x))))
        want = float((x * y).sum(1).div(x.norm(dim=1) * y.norm(dim=1)).mean())
        assert got[i] == pytest.approx(want, abs=1e-5)
        x = y


def test_features_pair_with_the_block_that_the_reader_was_trained_behind():
    teacher = stack(depth=4)
    (before,) = find_chains(teacher)
    ends = [member[before.passed[0]] for member in before.members]
    pairs = find_pairs(check_pass(Student(keep=(0, 3)), teacher).graph, teacher)
    assert pairs[ends[0]].teacher == ends[2]
    assert pairs[ends[3]].teacher == ends[3]
    assert pairs["blocks.0.up"].teacher == "blocks.0.up"


def test_batch_norms_behind_a_gap_see_what_comes_now():
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(x + self.norm(self.conv(x)))

    torch.manual_seed(0)
    net = nn.Sequential(*(Unit() for _ in range(4)), nn.Flatten(), nn.Linear(4 * 36, 3))
    x = torch.randn(64, 4, 6, 6)
    net.train()
    for _ in range(40):
        net(x)
    graph = export_graph(net.eval(), x[:2])
    checked = check_pass(Student(keep=(0, 3)), graph, rows(4, 6, 6))
    said = [text for texts in checked.notes.values() for text in texts if "statistics" in text]
    assert len(said) == 1
    first = graph["0.norm"].layer.running_mean
    assert torch.equal(checked.graph["0.norm"].layer.running_mean, first)


def refused(text: str, graph: Graph) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        parse_pass(text).run(graph, Context(graph))
    return caught.value


def test_nothing_repeats():
    graph = export_graph(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 3))
    error = refused("student", graph)
    assert (error.code, error.got) == ("CC105", "none that repeats")
    assert "factory" in error.hint


def test_coverage_says_why_a_run_would_end():
    graph = export_graph(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 3))
    (coverage,) = cover([Student()], graph)
    assert {verdict.outcome for verdict in coverage.verdicts.values()} == {"cannot"}
    assert coverage.verdicts["0"].text.endswith("(got none that repeats)")
    (member,) = cover([Student(keep=(9,))], stack())
    assert "must be 0 to 5 (got 9)" in member.verdicts["head"].text


def test_only_branches_repeat():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            return torch.cat([torch.relu(branch(x)) for branch in self.branches], 1)

    error = refused("student", export_graph(Branches(), torch.randn(2, 6)))
    assert error.got == "only blocks side by side: 4 x branches.{0..3}"


def test_no_block_of_that_name():
    error = refused("student(blocks=decoder)", stack())
    assert (error.code, error.got) == ("CC105", "6 x blocks.{0..5}")


def test_a_block_that_is_not_there():
    error = refused("student(keep=0,7)", stack())
    assert (error.code, error.got) == ("CC102", "7")
    assert "0 to 5" in error.wanted
    assert "blocks.{0..5}" in error.where


def test_a_block_that_cannot_go():
    error = refused("student(keep=0)", stack(depth=4, inner=True))
    assert error.code == "CC105"
    assert "block 1 of blocks.{0..3}" in error.wanted
    assert error.hint == "keep=0,1"


def test_a_block_that_cannot_go_stays_and_is_told():
    checked: Checked = check_pass(Student(depth=0.25), stack(depth=4, inner=True))
    assert left(checked.graph) == [1]
    said = [text for texts in checked.notes.values() for text in texts]
    assert any(text.startswith("block 1 cannot go: the model returns its %") for text in said)


@pytest.mark.parametrize(
    "text",
    [
        *("student(depth=0)", "student(depth=1.5)", "student(keep=-1)", "student(keep=())"),
        *("student(keep=1, depth=0.5)", "student(keep=1, pick=last)", "student(pick=best)"),
        *("student(factory=a:b, depth=0.5)", "student(factory=a:b, width=0.5)", "student(width=0)"),
    ],
)
def test_bad_options(text):
    with pytest.raises(CompresscError, match="CC102"):
        parse_pass(text)


@pytest.mark.parametrize("other", ["prune", "lowrank", "distill", "quant"])
def test_it_comes_first(other):
    data = rows(6)
    assert plan(parse_passes(f"student,{other}"), data)
    with pytest.raises(CompresscError, match="CC104"):
        plan(parse_passes(f"{other},student"), data)


def test_likeness_needs_data():
    assert plan(parse_passes("student"), None)
    with pytest.raises(CompresscError, match="CC105"):
        plan(parse_passes("student(pick=similar)"), None)
