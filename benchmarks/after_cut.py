"""What is left right after a cut, no training: python benchmarks/after_cut.py cnn vit

Digits CNN and digits ViT (`python examples/teachers/digits.py --out model.pt`, `digits_vit.py --out
vit.pt`), and Fashion-MNIST where the teacher of examples/teachers/fashion.py is there. Each row:
accuracy on the test part, points lost, and what is left of parameters and MACs. Beside ours,
Torch-Pruning's MetaPruner in the same process on the same module (its L2 importance, whole heads
where there are any, same ratio), as it leaves the model and with the batch norm statistics that
ours take anew. Exit code 1 where refitting does not lose a third of the points of magnitude alone.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn

import compressc
from compressc.data import Dataset, Source, open_dataset
from compressc.training import reestimate

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "teachers"))

RATIO, BATCH, LEAST = 0.3, 256, 3.0
#: What is told of ours; the first one is what refitting is held against.
OURS = (
    "prune(ratio={r},refit=false,statistics=false)",
    "prune(ratio={r},refit=false)",
    "prune(ratio={r},refit=true)",
    "prune(ratio={r},importance=taylor,refit=true)",
    "prune(ratio={r},importance=hessian,refit=true)",
    "prune(ratio={r},importance=wanda,refit=true)",
    "prune(ratio={r},importance=fpgm,refit=true)",
    "prune(ratio={r},importance=random,refit=true)",
    "prune(macs={m:.3f},allocation=global,refit=true)",
    "prune(macs={m:.3f},allocation=sensitivity,refit=true)",
)


@torch.no_grad()
def accuracy(module: Callable[[Tensor], Tensor], test: Source) -> float:
    right = total = 0
    for batch in test.batches(BATCH):
        right += int((module(*batch.inputs).argmax(-1) == batch.labels).sum())
        total += len(batch)
    return right / total


def theirs(module: nn.Module, data: Dataset, *, statistics: bool) -> nn.Module:
    """Torch-Pruning at the same ratio; heads of a fused projection are named to it."""
    student = copy.deepcopy(module).eval()
    example = data.calibration.take(2).inputs[0]
    last = [m for m in student.modules() if isinstance(m, nn.Linear)][-1]
    heads = {m.qkv: m.heads for m in student.modules() if hasattr(m, "qkv")}
    norms = [m for m in student.modules() if isinstance(m, nn.LayerNorm)]
    stream: list[nn.Module] = []
    if norms:  # the width that layer norms run over stays, as it does with ours
        stream = [m for m in student.modules() if _makes(m, norms[0].normalized_shape[0])]
    torch_pruning.pruner.MetaPruner(
        student,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        head_pruning_ratio=RATIO,
        num_heads=heads,
        prune_num_heads=bool(heads),
        round_to=None if heads else 8,
        ignored_layers=[last, *stream],
    ).step()
    for block in (m for m in student.modules() if hasattr(m, "qkv")):
        block.heads = block.qkv.out_features // (3 * block.qkv.in_features // block.heads)
        block.forward = partial(attend, block)
    if statistics:
        reestimate(student, [data.calibration.take(1024).inputs])
    return student


def attend(block: nn.Module, x: Tensor) -> Tensor:
    """The attention of digits_vit.py for any number of heads; its own takes them from the width."""
    b, n, _ = x.shape
    q, k, v = block.qkv(x).reshape(b, n, 3, block.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    y = nn.functional.scaled_dot_product_attention(q, k, v)
    return block.proj(y.transpose(1, 2).reshape(b, n, -1))


def _makes(layer: nn.Module, width: int) -> bool:
    return width == getattr(layer, "out_features", getattr(layer, "out_channels", None))


def costs(module: nn.Module, example: Tensor) -> tuple[int, int]:
    macs, parameters = torch_pruning.utils.count_ops_and_params(module, example)
    return int(macs), int(parameters)


def compare(title: str, path: Path, module: nn.Module, data: Dataset) -> bool:
    """Print the rows of one model; whether refitting meets the bar."""
    whole = accuracy(module, data.test)
    print(f"\n{title}, {whole:.2%}\n\n| cut | accuracy % | points lost | parameters | MACs |")
    print("|---|---|---|---|---|", flush=True)
    lost: dict[str, float] = {}
    share = 1.0

    def row(name: str, got: float, parameters: float, macs: float) -> None:
        lost[name] = whole - got
        cells = f"{got:.2%} | {100 * (whole - got):.2f} | {parameters:.0%} | {macs:.0%}"
        print(f"| {name} | {cells} |", flush=True)

    def own(passes: str) -> float:
        made = compressc.compile(str(path), passes, data=data, cache=None)
        left = made.passes[0].records["prune"]["left"]
        row(passes, accuracy(made.module(), data.test), left["parameters"], left["macs"])
        return float(left["macs"])

    for text in OURS:
        left = own(text.format(r=RATIO, m=share))
        share = left if text == OURS[2] else share
    example = data.calibration.take(1).inputs[0]
    before = costs(module, example)
    for statistics in (False, True):
        try:
            cut = theirs(module, data, statistics=statistics)
            got = accuracy(cut, data.test)
        except (RuntimeError, AssertionError, IndexError, ValueError) as error:
            print(f"| Torch-Pruning: {type(error).__name__} {error} |")
            continue
        after = costs(cut, example)
        name = f"Torch-Pruning{', statistics anew' if statistics else ''}"
        row(name, got, after[1] / before[1], after[0] / before[0])
        share = after[0] / before[0]
    own(f"prune(macs={share:.3f},refit=true)")  # as small as theirs
    bare, refitted = (lost[text.format(r=RATIO, m=share)] for text in (OURS[1], OURS[2]))
    print(f"\nrefit loses {100 * refitted:.2f} points, magnitude {100 * bare:.2f}")
    return refitted <= bare / LEAST


def main() -> None:
    """Print a table for each model named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["cnn", "vit"])
    parser.add_argument("--cnn", type=Path, default=Path("model.pt"))
    parser.add_argument("--vit", type=Path, default=Path("vit.pt"))
    parser.add_argument("--fashion", type=Path, default=Path("build/fashion"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    fine = True
    for name in options.models:
        path, module, data = load(name, options)
        fine &= compare(name, path, module, data)
    raise SystemExit(0 if fine else 1)


def load(name: str, options: argparse.Namespace) -> tuple[Path, nn.Module, Dataset]:
    """A teacher's file, the module behind it, and its data."""
    import fashion
    from digits import DigitsNet  # beside the example
    from digits_vit import DigitsViT

    if name == "fashion":
        path, module = options.fashion / "model.pt2", fashion.net()
        data = open_dataset(str(options.fashion / "data"))
    else:
        path, module = (options.cnn, DigitsNet()) if name == "cnn" else (options.vit, DigitsViT())
        data = open_dataset("digits")
    module.load_state_dict(torch.export.load(path).state_dict)
    return path, module.eval(), data


if __name__ == "__main__":
    main()
