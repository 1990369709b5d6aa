"""The same student and objective in torchdistill and here: python benchmarks/vs_torchdistill.py

The digits teacher (`make model.pt`), half of its channels cut, `--epochs` by each objective in
three seeds, in turns: accuracy on the test part, and samples a second. There: their DistillationBox
with AdamW and a cosine, the teacher beside the student, the last state. Here: the pass `distill`
with the same batch, rate and precision, its validations and its questions to the teacher counted.
Their packages are fetched into `--cache`, versions and hashes pinned; beside a torch without
torchvision's operators two of these are declared first.
"""

from __future__ import annotations

import argparse
import logging
import math
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn
from torch.utils.data import RandomSampler, TensorDataset

import compressc
from compressc.data import Dataset, open_dataset
from compressc.ir import Graph, lower

WHEELS = """
torchdistill==1.1.5 --hash=sha256:fc95f6f877aad22a2b7c3476677ba0df80aa91961efc02afb5a53c8f27f123d9
torchvision==0.28.0 --hash=sha256:7e80f543b22503d9415e126db5f0ff3917036925e38560ee6b9ae38c571a4002
pillow==13.0.0 --hash=sha256:a625df9a2a5597fa5e5266e01aefc82604bb85d291e3547981e863560d75da6c
"""
PRUNE, BATCH, RATE, T, ALPHA = "prune(ratio=0.5)", 64, 1e-3, 4.0, 0.1
#: objective -> our loss; theirs is in `terms`. Not to the letter the same: their `at` means over
#: pixels and sums over points, ours the other way round; their `pkt` is given the logits, ours
#: what the last layer with weights reads.
LOSSES = {
    "kd": f"{ALPHA}*ce + {1 - ALPHA}*kd(T={T})",
    "at": "ce + 5*at",
    "pkt": "ce + 30000*pkt",
    "dist": "ce + 2*dist",
}
IO = {
    f"{side}_module_{what}": value
    for side in ("student", "teacher")
    for what, value in (("path", "."), ("io", "output"))
}


def fetch(cache: Path) -> torch.library.Library:
    """Packages into `cache`, once; the operators that their import asks for, while it lives."""
    site = cache / "site"
    if not (site / "torchdistill").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "wheels.txt").write_text(WHEELS)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        wanted = ["--target", str(site), "-r", str(cache / "wheels.txt")]
        subprocess.run([*pip, *wanted], check=True)
    sys.path.append(str(site))
    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    logging.disable(logging.INFO)
    return declared


def terms(objective: str, points: list[tuple[str, str]]) -> dict[str, Any]:
    """Their loss."""
    if objective == "kd":
        kwargs = {**IO, "temperature": T, "alpha": ALPHA, "reduction": "batchmean"}
        return {"kd": {"criterion": {"key": "KDLoss", "kwargs": kwargs}, "weight": 1.0}}
    output = {"is_from_teacher": False, "module_path": ".", "io": "output"}
    wrapped = {"input": output, "target": {"uses_label": True}}
    wrapper = {"key": "SimpleLossWrapper", "kwargs": wrapped}
    cross = {"key": "CrossEntropyLoss", "kwargs": {}}
    found: dict[str, Any] = {
        "ce": {"criterion": cross, "criterion_wrapper": wrapper, "weight": 1.0}
    }
    if objective == "at":
        pairs = {
            f"at{i}": {
                "student": {"io": "output", "path": mine},
                "teacher": {"io": "output", "path": its},
                "weight": 1,
            }
            for i, (mine, its) in enumerate(points)
        }
        kwargs, key, weight = {"at_pairs": pairs, "mode": "code"}, "ATLoss", 1000.0
    elif objective == "pkt":
        kwargs, key, weight = dict(IO), "PKTLoss", 30000.0
    else:
        kwargs, key, weight = {**IO, "beta": 1.0, "gamma": 1.0, "tau": 1.0}, "DISTLoss", 2.0
    found[objective] = {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}
    return found


def theirs(  # noqa: PLR0913  (two models, what they learn, and how long)
    teacher: Graph,
    student: Graph,
    points: list[tuple[str, str]],
    data: Dataset,
    objective: str,
    epochs: int,
    seed: int,
) -> tuple[nn.Module, float]:
    """Their student, and the seconds of its training."""
    from torchdistill.core.distillation import get_distillation_box

    torch.manual_seed(seed)
    whole = data.train.take(len(data.train))
    dataset = TensorDataset(whole.inputs[0], whole.labels)
    modules = [lower(graph.copy()) for graph in (teacher, student)]
    steps = epochs * math.ceil(len(dataset) / BATCH)
    hooks = [[name for name in side if name != "."] for side in zip(*points, strict=True)]
    hooks = hooks if objective == "at" else [[], []]
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
        "kwargs": {"batch_size": BATCH},
    }
    config = {
        "num_epochs": epochs,
        "train_data_loader": loader,
        "teacher": {
            "forward_proc": "forward_batch_only",
            "forward_hook": {"input": [], "output": hooks[1]},
            "requires_grad": False,
        },
        "student": {
            "forward_proc": "forward_batch_only",
            "forward_hook": {"input": [], "output": hooks[0]},
        },
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE, "weight_decay": 0.01}},
        "scheduler": {
            "key": "CosineAnnealingLR",
            "kwargs": {"T_max": steps},
            "scheduling_step": 1,
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms(objective, points)}},
    }
    config["optimizer"]["max_grad_norm"] = 1.0
    cpu = torch.device("cpu")
    box = get_distillation_box(*modules, {"train": dataset}, config, cpu, None, False, 1)
    start = time.perf_counter()
    for epoch in range(epochs):
        modules[0].eval()
        modules[1].train()
        box.pre_epoch_process(epoch=epoch)
        for batch, targets, extra in box.train_data_loader:
            loss = box.forward_process(batch, targets=targets, supp_dict=extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
    return modules[1].eval(), time.perf_counter() - start


def accuracy(module: nn.Module, data: Dataset) -> float:
    """On the test part."""
    part = data.test.take(len(data.test))
    with torch.no_grad():
        return float((module(*part.inputs).argmax(1) == part.labels).float().mean())


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objectives", nargs="*", default=list(LOSSES))
    parser.add_argument("--model", default="model.pt")
    parser.add_argument("--cache", type=Path, default=Path("build/packages"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="float32", help="of ours; theirs is float32")
    given = parser.parse_args()
    declared = fetch(given.cache)
    torch.set_num_threads(1)
    data = open_dataset("digits")
    cut = compressc.compile(given.model, PRUNE, data=data, cache=None)
    options = f"epochs={given.epochs},batch_size={BATCH},lr={RATE},precision={given.precision}"
    points = _points(cut)
    for objective in given.objectives:
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        for seed in range(3):
            module, seconds = theirs(
                cut.teacher, cut.graph, points, data, objective, given.epochs, seed
            )
            rate = given.epochs * len(data.train) / seconds
            found["theirs"].append((accuracy(module, data), rate))
            passes = f"{PRUNE},distill(loss='{LOSSES[objective]}',{options})"
            ours = compressc.compile(given.model, passes, data=data, cache=None, seed=seed)
            seconds = ours.report.passes[-1].seconds
            rate = given.epochs * 0.9 * len(data.train) / seconds  # a tenth is held out
            found["ours"].append((accuracy(ours.module(), data), rate))
        ratios = sorted(a[1] / b[1] for a, b in zip(found["ours"], found["theirs"], strict=True))
        for side, runs in found.items():
            scores = [score for score, _ in runs]
            print(
                f"{objective:5} {side:7} {mean(scores):.2%} ({min(scores):.2%} to "
                f"{max(scores):.2%}), {median(rate for _, rate in runs):,.0f} samples/s"
            )
        print(f"{objective:5} {median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")

    del declared


def _points(cut: Any) -> list[tuple[str, str]]:
    """Feature points of the student and the teacher, as `distill` pairs them."""
    from compressc.distillation import choose_points, find_pairs

    pairs = find_pairs(cut.graph, cut.teacher)
    chosen = choose_points(cut.graph, cut.task.value_in(cut.graph), pairs, 4)
    names = ((pairs[name].student, pairs[name].teacher) for name in chosen)
    return [(mine.replace(".", "_"), its.replace(".", "_")) for mine, its in names]


if __name__ == "__main__":
    main()
