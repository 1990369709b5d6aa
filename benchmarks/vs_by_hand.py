"""One command against the same chain by hand: python benchmarks/vs_by_hand.py

Fashion-MNIST and the teacher of examples/teachers/fashion.py (run that first). By hand: half of the
channels cut by Torch-Pruning, `--epochs` of KL (T = 4, weight 0.9) and cross entropy (0.1), AdamW
with one cycle of the rate, the best epoch by the validation part, NNCF's post-training int8 into
OpenVINO. Ours: `compressc model.pt2 --passes prune,distill,quant`. Same epochs, same augmentation.
Scores are of the test part, in OpenVINO; times at one thread, interleaved, medians of rounds.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import nncf
import numpy as np
import openvino
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

# In front: fashion wants the digits.py beside it, not the one beside this file.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "teachers"))
import fashion

TEMPERATURE, SHARE, RATE, BATCH = 4.0, 0.9, 2e-3, 64
PASSES = "prune(ratio=0.5),distill(epochs={epochs}),quant"
Parts = dict[str, np.ndarray]


def pruned(teacher: nn.Module, example: Tensor) -> nn.Module:
    """Half of the channels of each layer but the last, by the L2 norm of groups."""
    student = copy.deepcopy(teacher)
    (head,) = (m for m in student.modules() if isinstance(m, nn.Linear))
    torch_pruning.pruner.MetaPruner(
        student,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[head],
    ).step()
    return student


def distilled(student: nn.Module, teacher: nn.Module, parts: Parts, epochs: int, seed: int) -> None:
    """The usual loop; the student is left in the state of its best epoch."""
    x, y = torch.from_numpy(parts["x_train"]), torch.from_numpy(parts["y_train"])
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), RATE, weight_decay=0.01)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    best, state = -1.0, copy.deepcopy(student.state_dict())
    for _ in range(epochs):
        student.train()
        for index in torch.randperm(len(x), generator=draw).split(BATCH):
            batch = fashion.augmented(x[index], draw)
            with torch.no_grad():
                wanted = F.softmax(teacher(batch) / TEMPERATURE, 1)
            answers = student(batch)
            got = F.log_softmax(answers / TEMPERATURE, 1)
            kl = F.kl_div(got, wanted, reduction="batchmean") * TEMPERATURE**2
            loss = SHARE * kl + (1 - SHARE) * F.cross_entropy(answers, y[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        score = fashion.accuracy(student, parts["x_validation"], parts["y_validation"])
        if score > best:
            best, state = score, copy.deepcopy(student.state_dict())
    student.load_state_dict(state)
    student.eval()


def by_hand(teacher: nn.Module, parts: Parts, epochs: int, seed: int, out: Path) -> Path:
    """The chain; the OpenVINO file that comes of it."""
    torch.manual_seed(seed)
    student = pruned(teacher, torch.from_numpy(parts["x_train"][:4]))
    distilled(student, teacher, parts, epochs, seed)
    example = torch.from_numpy(parts["x_train"][:BATCH])
    model = openvino.convert_model(student, example_input=example, input=[-1, 1, 28, 28])
    calibration = nncf.Dataset([parts["x_train"][i : i + 1] for i in range(300)])
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(nncf.quantize(model, calibration), out / "model.xml")
    return out / "model.xml"


def ours(folder: Path, epochs: int, seed: int, out: Path) -> Path:
    """The command, and its OpenVINO file."""
    command = [str(Path(sys.executable).with_name("compressc")), str(folder / "model.pt2")]
    command += ["--data", f"{folder}/data/", "--augment", "flip,shift(pixels=2)"]
    command += ["--passes", PASSES.format(epochs=epochs), "--emit", "openvino", "--batches", ""]
    command += ["--seed", str(seed), "--quiet", "-o", str(out)]
    print("$", " ".join(["compressc", *command[1:]]), flush=True)
    subprocess.run(command, check=True)
    return next(out.rglob("*.xml"))


def compiled(path: Path) -> openvino.CompiledModel:
    """For one thread, in the precision of the file."""
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", options)


def accuracy(model: openvino.CompiledModel, parts: Parts) -> float:
    """Share of test images that are told right."""
    x, y = parts["x_test"], parts["y_test"]
    answers = [model(x[i : i + 100])[0].argmax(1) for i in range(0, len(x), 100)]
    return float((np.concatenate(answers) == y).mean())


def size(path: Path) -> int:
    """Bytes of the two files of a model."""
    return path.stat().st_size + path.with_suffix(".bin").stat().st_size


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/fashion"))
    parser.add_argument("--out", type=Path, default=Path("build/vs_by_hand"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    parts = {path.stem: np.load(path) for path in (given.folder / "data").glob("*.npy")}
    teacher = fashion.net()
    teacher.load_state_dict(torch.export.load(given.folder / "model.pt2").state_dict)
    teacher.eval()
    full = given.out / "teacher" / "model.xml"
    full.parent.mkdir(parents=True, exist_ok=True)
    example = torch.from_numpy(parts["x_train"][:4])
    model = openvino.convert_model(teacher, example_input=example, input=[-1, 1, 28, 28])
    openvino.save_model(model, full, compress_to_fp16=False)
    for seed in range(given.seeds):
        started = time.perf_counter()
        hand = by_hand(teacher, parts, given.epochs, seed, given.out / f"hand{seed}")
        between = time.perf_counter()
        mine = ours(given.folder, given.epochs, seed, given.out / f"ours{seed}")
        seconds = {"by hand": between - started, "compressc": time.perf_counter() - between}
        files = {"teacher": full, "by hand": hand, "compressc": mine}
        models = {name: compiled(path) for name, path in files.items()}
        times = timed(models, parts["x_test"][:BATCH], given.rounds)
        for name, path in files.items():
            ratios = sorted(a / b for a, b in zip(times["teacher"], times[name], strict=True))
            print(
                f"seed {seed} {name:10} {accuracy(models[name], parts):.2%}, "
                f"{size(full) / size(path):.1f}x smaller, {median(ratios):.2f}x faster at {BATCH} "
                f"({ratios[len(ratios) // 4]:.2f} to {ratios[-len(ratios) // 4]:.2f}), "
                f"{seconds.get(name, 0):.0f} s",
                flush=True,
            )


def timed(
    models: dict[str, openvino.CompiledModel], x: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Seconds of a call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 3):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            if turn >= 3:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
