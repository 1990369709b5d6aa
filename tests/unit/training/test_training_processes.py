"""Two processes that share each batch do what one does with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("shared_training.py")


def launch(count, *words):
    """What `torchrun` starts, or python alone for one process; its exit code."""
    start = [sys.executable]
    if count > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, *map(str, words)], env=environment, timeout=240, check=False, capture_output=True
    )


def run(folder, count, dies_in=0, how="whole"):
    folder.mkdir(exist_ok=True)
    done = launch(count, SCRIPT, folder, dies_in, how)
    print(done.stderr.decode())
    return done.returncode


def found(folder, rank, count):
    return json.loads((folder / f"{rank}-of-{count}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "shard"])
def test_two_processes_have_the_losses_of_one(tmp_path, how):
    assert run(tmp_path, 1) == 0
    alone = found(tmp_path, 0, 1)
    two = tmp_path / "two"
    assert run(two, 2, how=how) == 0
    together, other = found(two, 0, 2), found(two, 1, 2)
    held = [each.pop("held") for each in (together, other)]
    assert together == other
    for name in ("losses", "scores", "weights"):
        assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-6)
    size = alone["held"]
    assert sum(held) == (size if how == "shard" else 2 * size)
    assert together["kinds"] == (["DTensor"] if how == "shard" else ["Parameter"])
    assert len(list((two / "kept").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "shard"])
def test_two_processes_that_are_killed_go_on_to_the_same_bit(tmp_path, how):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 2, how=how) == 0
    assert run(killed, 2, dies_in=7, how=how) != 0
    assert not list(killed.glob("*.json"))
    assert run(killed, 2, how=how) == 0
    both = [found(killed, rank, 2) for rank in (0, 1)]
    assert both == [found(whole, rank, 2) for rank in (0, 1)]
    assert both[0]["weights"] == both[1]["weights"]


@pytest.mark.slow
def test_the_main_process_alone_writes(teacher, tmp_path):
    words = [
        "-m",
        "compressc",
        teacher,
        "--passes",
        "prune(ratio=0.5),distill(epochs=1,shard=true)",
    ]
    words += ["--data", "digits", "--emit", "pt2", "--batches", "", "-o", tmp_path / "out"]
    words += ["--cache", tmp_path / "cache", "--events", tmp_path / "events.jsonl"]
    done = launch(2, *words)
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("run") == 1
    assert done.stdout.decode().count("points of accuracy") == 1
    assert (tmp_path / "out" / "model.pt2").exists()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["passes"][1]["made"]["processes"] == "2"
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 2
