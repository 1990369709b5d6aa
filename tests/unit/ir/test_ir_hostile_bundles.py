"""Bundles that somebody forged or damaged: one error of ours, at once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import load_bundle, parse_graph, save_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    graph = load_model(nn.Linear(4, 3), input_spec=["f32[b,4]"]).graph
    save_bundle(graph, tmp_path / "graph")
    return tmp_path / "graph"


def refused(folder: Path, *words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(CompresscError) as caught:
        load_bundle(folder)
    assert caught.value.code == "CC403"
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("name", ["graph.txt", "weights.safetensors"])
def test_pipes_devices_and_folders(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, "no such file", name)
    os.mkfifo(bundle / name)
    refused(bundle, "a pipe", name)
    (bundle / name).unlink()
    (bundle / name).symlink_to("/dev/zero")
    refused(bundle, "a device", name)
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refused(bundle, "a folder", name)


def test_a_text_without_end_is_not_read(bundle: Path) -> None:
    os.truncate(bundle / "graph.txt", 1 << 40)  # zeros that take no room on the disk
    refused(bundle, "bytes, more than", "graph.txt")


@pytest.mark.parametrize("runs", ["0-999999999999", "0-9-9", "0-", "-3", "7-2-1"])
def test_kept_indices_of_another_form(runs: str) -> None:
    text = f"graph g(%x: f32[b,4]) {{\n  %z = relu(%x) : f32[b,4] # from z kept 1:{runs}\n"
    started = time.perf_counter()
    with pytest.raises(CompresscError) as caught:
        parse_graph(text + "  return %z\n}")
    assert caught.value.code == "CC402"
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("order", ['{"nope":[1,0]}', "[1]", '{"0.weight":[7,9]}', "{", '{"a":3}'])
def test_memory_orders_of_another_form(bundle: Path, order: str) -> None:
    path = bundle / "weights.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length]) | {"__metadata__": {"memory_order": order}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(bundle)


def test_many_blanks_in_a_line_take_no_time() -> None:
    line = "  %z = relu(%x) : " + " " * 200_000 + "!"
    started = time.perf_counter()
    with pytest.raises(CompresscError) as caught:
        parse_graph("\n".join(["graph g(%x: f32[b,4]) {", line, "  return %z", "}"]))
    assert caught.value.code == "CC402"
    assert time.perf_counter() - started < 2


def test_blanks_behind_a_type_are_no_mistake() -> None:
    text = "graph g(%x: f32[b,4]) {\n  %z = relu(%x) : f32[b,4]    # from z\n  return %z\n}"
    graph = parse_graph(text)
    assert graph["z"].lineage == ("z",)
    assert graph.type_of("z").dtype == torch.float32
