"""`compressc explain-cut`."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compressc import cli
from compressc.frontend import export_module


@pytest.fixture
def model(tmp_path):
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    path = tmp_path / "model.pt2"
    torch.export.save(export_module(net, (torch.ones(5, 2),)), path)
    return str(path)


def test_it_prints_what_goes(model, capsys):
    assert cli.main(["explain-cut", model, "--channel", "0:2"]) == 0
    out = capsys.readouterr().out
    assert "channel 2 of 4: goes with all of this" in out
    assert out.count("weight") == 2
    assert cli.main(["explain-cut", model, "--channel", "0:2", "--json"]) == 0
    (reading,) = json.loads(capsys.readouterr().out)
    first = reading["places"][0]
    assert (first["op"], first["tensor"], first["indices"]) == ("0", "weight", [2])


@pytest.mark.parametrize("channel", ["0", "0:x", ":3", "0:9", "zero:1"])
def test_a_wrong_channel_is_one_line(model, capsys, channel):
    assert cli.main(["explain-cut", model, "--channel", channel]) == 2
    assert capsys.readouterr().err.startswith("[CC100]")
