"""Training on a GPU: what must hold there, too. Skipped where torch sees none; no CI has one.

pytest tests/e2e/test_cuda.py tests/kernels/test_gpu_benchmark.py && python benchmarks/gpu.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compressc
from compressc.ir import lower
from compressc.kernels import dispatch
from compressc.plugins import OBJECTIVES, find
from compressc.target import Target

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

SEEN = "prune(ratio=0.5),distill(epochs={epochs})"


def on(device: str, model: Path, passes: str, **options):
    """A compilation whose passes train there."""
    target = Target(backends=(), batches=(), device=device)
    return compressc.compile(model, passes, data="digits", target=target, **options)


def places(compiled) -> set[str]:
    return {t.device.type for t in lower(compiled.graph).state_dict().values()}


def test_recovers_as_on_the_cpu_and_comes_back(teacher):
    passes = SEEN.format(epochs=4)
    there, here = (on(device, teacher, passes, cache=None) for device in ("cuda", "cpu"))
    assert places(there) == {"cpu"}
    assert there.report.passes[-1].accuracy > there.report.passes[0].accuracy
    assert abs(there.report.passes[-1].accuracy - here.report.passes[-1].accuracy) <= 0.015
    batch = torch.randn(3, 1, 8, 8)
    assert there.module()(batch).shape == (3, 10)


@pytest.mark.parametrize("options", ["", ",precision=float32", ",ema=0.9,accumulate=2"])
def test_trains_in_each_precision(teacher, options):
    passes = f"prune(ratio=0.5),distill(epochs=2{options})"
    found = on("cuda", teacher, passes, cache=None)
    assert found.report.passes[-1].accuracy > 0.95
    said = [note for _, note in found.passes[-1].notes]
    assert any("bfloat16" in note for note in said) == ("float32" not in options)


def test_goes_on_after_an_interruption(teacher, tmp_path):
    passes = "prune(ratio=0.5),distill(epochs=4,answers=disk,views=2)"
    options = {"augment": "shift", "checkpoint_every": 0.0, "cache": tmp_path / "cache"}
    seen = []

    def interrupt(event):
        seen.append(event)
        if event.kind == "progress" and "epoch 3" in str(event.facts.get("what", "")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on("cuda", teacher, passes, tell=interrupt, **options)
    told = []
    again = on("cuda", teacher, passes, tell=told.append, **options)
    epochs = [str(event.facts.get("what", "")) for event in told if event.kind == "progress"]
    assert not any("distill epoch 1" in what for what in epochs)
    assert again.report.passes[-1].accuracy > 0.95


@pytest.mark.parametrize("name", sorted(find(OBJECTIVES)))
def test_every_objective_learns_there(teacher, name):
    loss = f"0.1*ce + 0.9*kd + 0.1*{name}" if name not in ("ce", "kd") else name
    try:
        found = on("cuda", teacher, f"prune(ratio=0.5),distill(epochs=1,loss='{loss}')", cache=None)
    except compressc.CompresscError as error:  # what the model has nothing to read for
        assert (name, error.code) == ("hidden", "CC301")  # noqa: PT017
        return
    assert found.report.passes[-1].accuracy > 0.9


@pytest.mark.parametrize("name", ["attention", "hidden", "minilm", "wkd_f"])
def test_objectives_of_transformers_learn_there(vit_teacher, name):
    passes = f"student(depth=0.5),distill(epochs=1,loss='kd + 0.1*{name}')"
    found = on("cuda", vit_teacher, passes, cache=None)
    assert found.report.passes[-1].accuracy > found.report.passes[0].accuracy


def test_losses_run_in_a_kernel_of_the_gpu():
    chosen = dispatch.choose("softmax_kl", torch.device("cuda"), torch.float32)
    assert chosen.implementation in ("cuda", "triton")


@pytest.mark.parametrize("shard", ["", ",shard=true"])
def test_one_process_of_torchrun(teacher, tmp_path, shard):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += ["-m", "compressc", str(teacher), "--data", "digits", "--device", "cuda", "-q"]
    command += ["--passes", f"prune(ratio=0.5),distill(epochs=1{shard})", "--batches", ""]
    command += ["--emit", "pt2", "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    subprocess.run(command, check=True, timeout=300)
    assert (tmp_path / "out" / "model.pt2").is_file()


def test_a_teacher_answers_ahead_there(teacher, tmp_path):
    command = [sys.executable, "-m", "compressc", "teacher", str(teacher), "--data", "digits"]
    subprocess.run(
        [*command, "--device", "cuda", "-o", str(tmp_path / "answers")], check=True, timeout=300
    )
    passes = f"prune(ratio=0.5),distill(epochs=1,answers_from='{tmp_path / 'answers'}')"
    assert on("cuda", teacher, passes, cache=None).report.passes[-1].accuracy > 0.9


def test_a_device_that_is_not_there_is_refused(teacher):
    with pytest.raises(compressc.CompresscError) as caught:
        on("cuda:99", teacher, "distill(epochs=1)")
    assert caught.value.code == "CC603"
