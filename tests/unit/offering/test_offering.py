"""Choices of passes: what they offer is true, what is picked is taken, and the kit finds liars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

import pytest
import torch
from compressc_distill import Distill
from compressc_lowrank import LowRank
from compressc_prune import Prune
from torch import nn

from compressc import cli
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.frontend import export_module
from compressc.ir import Graph
from compressc.offering import Offering
from compressc.pipeline import Context, Offer, Pass, pick
from compressc.session import open_session
from compressc.testing import check_choices, export_graph
from tests.passes.prune.prune_nets import inputs_of
from tests.unit.analysis.analysis_nets import symbolized


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ).eval()


@lru_cache
def graph() -> Graph:
    return export_graph(module(), torch.randn(4, 3, 12, 12))


@lru_cache
def images() -> Dataset:
    torch.manual_seed(1)
    part = Split((torch.randn(40, 3, 12, 12),))
    return Dataset("images", part, part, part)


def offer(part: str, pick: int, saved: float, lost: float) -> Offer:
    return Offer(part, pick, "", {"macs": saved}, lost)


def test_what_loses_least_is_picked_over_all_passes():
    offers = [
        (0, offer("a", 1, 10, 0.1)),
        (0, offer("a", 2, 20, 0.5)),
        (1, offer("a", 1, 10, 0.2)),  # another pass's part of that name
        (1, offer("b", 1, 10, 0.9)),
    ]
    assert pick(offers, "macs", 10) == (0,)
    assert pick(offers, "macs", 20) == (0, 2)
    assert pick(offers, "macs", 30) == (1, 2)
    assert pick(offers, "macs", 40) == (1, 2, 3)
    assert pick(offers, "macs", 41) is None


@pytest.mark.parametrize("options", [{"round_to": 1}, {"uniform": True}, {"importance": "l1"}])
def test_prune_offers_what_it_does(options):
    offers = check_choices(Prune(**options), graph(), images())
    first = [o for o in offers if o.part == "0"]
    assert [o.text for o in first] in (
        ["12 of 16 channels", "8 of 16 channels", "4 of 16 channels"],
        ["8 of 16 channels"],  # multiples of 8
    )
    if len(first) == 3:
        saved = [o.saved["parameters"] for o in first]
        # a channel: 27 weights and a bias, a norm of two, 32 x 9 weights that read it
        assert saved == [4 * (28 + 2 + 288), 8 * 318, 12 * 318]
        assert first[0].lost < first[2].lost
    assert not any(o.part == "8" for o in offers)  # the output


def test_prune_offers_heads_and_their_widths():
    (example,) = inputs_of("gqa_flag", 40)
    part = Split((example,))
    data = Dataset("made", part, part, part)
    offers = check_choices(
        Prune(attention="both", round_to=1, refit=False), symbolized("gqa_flag"), data
    )
    assert {"heads", "head widths"} & {o.text.split(" ", 3)[-1] for o in offers}


def test_lowrank_offers_what_it_does():
    offers = check_choices(LowRank(), graph(), images())
    wide = [o for o in offers if o.part == "6"]
    assert [o.lost for o in wide] == sorted((o.lost for o in wide), reverse=True)
    least = wide[0]
    assert least.pick == "svd 1"
    assert least.saved["parameters"] == 288 * 64 - (288 + 64)
    assert least.saved["bytes"] == 4 * least.saved["parameters"]


def test_passes_are_taken_behind_each_other():
    session = open_session(module(), data=images())
    offering = Offering(session, [Prune(round_to=1), LowRank()])
    assert {number for number, _ in offering.offers} == {0, 1}
    tried = offering.pick("parameters", 0.5)
    assert 0.4 < tried.left <= 0.515
    assert 0 < tried.lost < 1
    assert {offering.offers[place][0] for place in tried.picked} == {0, 1}
    assert any(text.startswith("kept ") for _, text in tried.notes)
    more = offering.pick("parameters", 0.75)
    assert more.lost < tried.lost


def test_what_cannot_be_had_is_refused():
    session = open_session(module(), data=images())
    with pytest.raises(CompresscError, match="CC105") as caught:
        Offering(session, [Prune(), Distill()])
    assert caught.value.got == "distill"
    with pytest.raises(CompresscError, match="CC105"):
        Offering(replace(session, data=None), [Prune()])
    with pytest.raises(CompresscError, match="CC104"):
        Offering(session, [LowRank(), Prune()])
    with pytest.raises(CompresscError, match="CC102"):
        Offering(session, [LowRank()]).pick("macs", 0.001)


def test_what_no_longer_fits_is_left_with_a_note():
    context = Context(graph(), images())
    after = graph().copy()
    Prune(round_to=1).take(after, context, [offer("0", 16, 1, 0), offer("nowhere", 3, 1, 0)])
    assert str(after) == str(graph())
    assert [op for op, text in context.notes if text.startswith("not taken")] == ["0", "nowhere"]
    context = Context(graph(), images())
    LowRank().take(after, context, [replace(offer("6", 0, 1, 0), pick="svd 60")])
    assert "not taken: rank 60 is not below" in dict(context.notes)["6"]


class Liar(Pass):
    """Offers to drop a bias, and says that it saves more."""

    name: ClassVar[str] = "liar"
    fault: str = "saved"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Nothing."""

    def choices(self, graph: Graph, ctx: Context) -> Sequence[Offer]:
        """One."""
        if self.fault == "edits":
            self.take(graph, ctx, ())
        saved = {"parameters": 65.0 if self.fault == "saved" else 64.0}
        lost = float("nan") if self.fault == "lost" else 0.1
        made = Offer("6", 0, "no bias", saved, lost)
        return [made, made] if self.fault == "twice" else [made]

    def take(self, graph: Graph, ctx: Context, picked: Sequence[Offer]) -> None:
        """Drop it."""
        layer = nn.Linear(288, 64, bias=False)
        layer.weight = graph["6"].layer.weight
        graph.set_layer("6", layer)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("saved", "64 parameters saved, not 65"),
        ("lost", "lost is nan"),
        ("twice", "two offers with one pick"),
        ("edits", "edited by asking"),
    ],
)
def test_the_kit_finds_what_is_not_true(fault, text):
    with pytest.raises(AssertionError, match=text):
        check_choices(Liar(fault=fault), graph().copy(), images())
    check_choices(Liar(fault="none"), graph().copy(), images())


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "model.pt2"
    torch.export.save(export_module(module(), (torch.randn(4, 3, 12, 12),)), path)
    data = tmp_path / "images.npz"
    import numpy as np

    np.savez(data, x=images().train.inputs[0].numpy())
    return str(path), str(data)


def test_the_command_lists_and_tries(files, capsys):
    model, data = files
    command = ["choices", model, "--passes", "prune,lowrank", "--data", data]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "8 of 16 channels" in text
    assert "picked" not in text
    assert cli.main([*command, "--leave", "parameters=0.6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["pass"] for row in found["choices"]} == {"prune", "lowrank"}
    assert 0.5 < found["picked"]["left"] <= 0.618
    assert all(0 <= place < len(found["choices"]) for place in found["picked"]["choices"])
    assert cli.main([*command, "--leave", "parameters=0.6"]) == 0
    assert "picked (*), done one behind the other" in capsys.readouterr().out


@pytest.mark.parametrize("leave", ["macs", "macs=2", "time=0.5", "=0.5"])
def test_a_wrong_share_is_one_line(files, capsys, leave):
    model, data = files
    command = ["choices", model, "--passes", "prune", "--data", data, "--leave", leave]
    assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith("[CC100]")
