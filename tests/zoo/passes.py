"""What each pass makes of each model: `python -m tests.zoo.passes` writes docs/zoo-passes.md.

Every model and pass runs in a process of its own, so that one that hangs or dies costs its own cell
only; two at a time, forked from one that has imported the libraries. Results are kept in
`build/zoo`: a run that was ended goes on. `--fresh` forgets them.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import compressc
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.ir.running import run_graph
from tests.zoo import language_models, sound_models, vision_models, written
from tests.zoo.case import Case, Zoo
from tests.zoo.checks import OTHERS, TRACED

SECTIONS: dict[str, Zoo] = {
    "Language": language_models.MODELS,
    "Images": vision_models.MODELS,
    "Sound, and several inputs": sound_models.MODELS,
    "Hand-written": written.MODELS,
}
PASSES = ("simplify", "prune(ratio=0.5)", "prune(macs=0.6)", "lowrank(energy=0.9)", "quant")
ROOT = Path(__file__).parents[2]
DOCUMENT, KEPT = ROOT / "docs" / "zoo-passes.md", ROOT / "build" / "zoo"
#: Samples that a pass observes, and seconds that it may take.
_SAMPLES, _SECONDS = 24, 300
AT_A_TIME = 2
#: Where processes come from: importing the libraries takes longer than most cells.
FORKS = multiprocessing.get_context("forkserver")
IMPORTED = (
    "tests.zoo.passes", "nncf", "torch_pruning", "torchmetrics", "transformers",
    "compressc_lowrank.lowrank", "compressc_prune.prune", "compressc_quant",
)  # fmt: skip
_LONGEST = 160

INTRODUCTION = """# The model zoo through the passes

What each pass makes of the architectures of [the model zoo](zoo.md), small and with random weights,
on random inputs. A cell is the change of the number of parameters and the cosine of the result's
first output to the teacher's. The pipeline verified the graph, and it ran at two other batch sizes
and lengths with finite outputs of the teacher's shapes. `nothing` is a pass that found nothing to
change, with its most frequent reason. All else names the error and the op. What random weights lose
says nothing about trained ones.

`make zoo` makes the table of all models; `python -m tests.zoo.passes NAME...` that of some.
"""


def cell(case: Case, text: str) -> str:
    """What a pass makes of a model, in words for the table."""
    inputs = case.example(seed=1, **TRACED | dict.fromkeys(case.batches, _SAMPLES))
    part = Split(inputs)
    data = Dataset("zoo", part, part, part)
    try:
        done = compressc.compile(case.module, text, data=data, inputs=case.specs, cache=None)
        return _worth(case, done.teacher, done.graph, done.report)
    except CompresscError as error:
        return _short(f"{error.code}: {error.wanted} ({error.got}) {error.where}")


def _worth(case: Case, teacher: Graph, graph: Graph, report: compressc.report.Record) -> str:
    if (pass_ := report.passes[-1]).idle:
        reasons = [note.text for note in pass_.notes]
        most = max(reasons, key=reasons.count, default="no reason given")
        return _short(f"nothing: {most}")
    for sizes in (TRACED, *OTHERS):
        example = case.example(seed=2, **sizes)
        want, got = run_graph(teacher, example), run_graph(graph, example)
        if [x.shape for x in got] != [x.shape for x in want]:
            return f"WRONG: shapes at {sizes}"
        if not all(bool(x.isfinite().all()) for x, y in zip(got, want, strict=True) if _finite(y)):
            return f"WRONG: not finite at {sizes}"
    change = pass_.parameters / max(report.teacher.parameters, 1) - 1
    cosine = torch.cosine_similarity(got[0].double().flatten(), want[0].double().flatten(), dim=0)
    return f"{change:+.0%}, cosine {float(cosine):.3f}"


def _finite(x: torch.Tensor) -> bool:
    return bool(x.isfinite().all())


def _short(text: str) -> str:
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _kept(section: str, name: str, text: str) -> str:
    """The cell of a model and a pass: from an earlier run, or from a process of its own."""
    path = KEPT / f"{section}-{name}-{text}.json".replace("/", "_").replace(" ", "_")
    if not path.exists():
        answer = _answer(section, name, text)
        KEPT.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(answer), encoding="utf-8")
    return str(json.loads(path.read_text(encoding="utf-8")))


def _answer(section: str, name: str, text: str) -> str:
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send, args=(theirs, section, name, text))
    process.start()
    theirs.close()
    try:
        if ours.poll(_SECONDS):
            return str(ours.recv())
        process.kill()
        return f"not done in {_SECONDS} s"
    except EOFError:
        process.join()
        return f"died with {process.exitcode}"
    finally:
        process.join()


def _send(answer: Connection, section: str, name: str, text: str) -> None:
    torch.set_num_threads(1)
    answer.send(cell(SECTIONS[section][name](), text))


def lines(names: Iterable[str] = ()) -> Iterable[str]:
    """The document, line by line, as it is made; of all models where none is named."""
    wanted = set(names)
    chosen = {
        section: [name for name in models if not wanted or name in wanted]
        for section, models in SECTIONS.items()
    }
    rows = [
        (section, name, text) for section in chosen for name in chosen[section] for text in PASSES
    ]
    yield INTRODUCTION
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        cells = pool.map(_kept, *zip(*rows, strict=True))
        for section in filter(chosen.get, chosen):
            yield f"## {section}\n"
            yield f"| model | {' | '.join(f'`{text}`' for text in PASSES)} |"
            yield "|---" * (len(PASSES) + 1) + "|"
            for name in chosen[section]:
                yield f"| {name} | {' | '.join(next(cells) for _ in PASSES)} |"
            yield ""


def main(arguments: list[str]) -> None:
    """Write the document; some models by their names are only printed."""
    FORKS.set_forkserver_preload([*IMPORTED])
    if "--fresh" in arguments:
        shutil.rmtree(KEPT, ignore_errors=True)
    names = [argument for argument in arguments if argument != "--fresh"]
    made = []
    for line in lines(names):
        print(line, flush=True)
        made.append(line)
    if not names:
        DOCUMENT.write_text("\n".join(made).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
