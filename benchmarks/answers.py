"""How much room a teacher's answers take, and what is lost: python benchmarks/answers.py FILES

A language model of 8,192 words is trained on the words of text files, and its answers to texts that
it has not seen are kept: all of them, and the largest 8, 32 and 128 of each position with all
others in one event, in float32 and in float16. Told are bytes for each position; the loss of a
student (a smaller model of the same texts) by the largest against that by all answers, and the
difference of their gradients, relative to its norm; and, for comparison, both where the known ones
are divided by their sum and the others forgotten.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from compressc_distill.objectives.kd import Kd
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation import Answers, Shortened, look
from compressc.distillation.answers import Form
from compressc.tasks import Response, SettledTask
from compressc.tasks.known import of_kind

WORDS, LENGTH, STEPS, BATCH = 8192, 32, 300, 32
COUNTS = (8, 32, 128)


def texts(files: list[Path]) -> Tensor:
    """Words as ids i64[n, LENGTH]; what is not among the most frequent ones is 0."""
    words = re.findall(r"\w+|[^\w\s]", "\n".join(f.read_text(errors="ignore") for f in files))
    known = {word: i for i, (word, _) in enumerate(Counter(words).most_common(WORDS - 1), 1)}
    ids = torch.tensor([known.get(word, 0) for word in words])
    print(f"{len(ids):,} words, {len(known) + 1:,} of them different")
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


class Model(nn.Module):
    """The next word by the words before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.past = nn.Embedding(WORDS, width), nn.GRU(width, width, batch_first=True)
        self.scores = nn.Linear(width, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """`[b, s]` -> `[b, s, WORDS]`."""
        return self.scores(self.past(self.words(ids))[0])


def fit(model: Model, ids: Tensor) -> Model:
    """Train it, and say how well it does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch = ids[torch.randint(len(ids), (BATCH,))]
        scores = model(batch[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(scores, batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: {float(loss.detach()):.2f}", flush=True)
    return model.eval()


def losses(student: Tensor, teacher: Tensor, count: int, T: float) -> Iterator[tuple[str, Tensor]]:
    """By all answers, by the largest and all others, and by the largest alone; plain torch."""
    p, q = ((x.double() / T).log_softmax(-1) for x in (teacher, student))
    yield "all", (p.exp() * (p - q)).sum(-1).mean() * T**2
    known = p.topk(count).indices
    kept = p.gather(-1, known)
    renormalized = kept - kept.logsumexp(-1, keepdim=True)
    theirs = q.gather(-1, known)
    theirs = theirs - theirs.logsumexp(-1, keepdim=True)
    yield "alone", (renormalized.exp() * (renormalized - theirs)).sum(-1).mean() * T**2


def compare(student: Tensor, teacher: Tensor, count: int, T: float, dtype: torch.dtype) -> None:
    """One line of the table."""
    judged = Response(0, "out", "class_scores", 2, "", "class_scores", 2)
    task = SettledTask(of_kind("class_scores"), judged, (judged,))
    short = Shortened(count, T).of(teacher, judged)
    rounded = [x.to(dtype).float() if x.is_floating_point() else x for x in short.parts()]
    short = short.like(rounded)
    forms = [Form(dtype if x.is_floating_point() else x.dtype, x.shape[2:]) for x in short.parts()]
    size, whole = sum(form.bytes for form in forms), 4 * teacher.shape[-1]
    student = student.clone().requires_grad_()
    found = dict(losses(student, teacher, count, T))
    theirs = Answers((short.nothing,), largest=short)
    found["others"] = Kd(T=T).mean(look(task, Answers((student,)), theirs, None))
    slopes = {
        n: torch.autograd.grad(x, student, retain_graph=True)[0].double() for n, x in found.items()
    }
    full, mass = slopes["all"].norm(), float(short.tail.exp().mean())
    text = f"{count:4} {str(dtype)[6:]:8} T={T:g}  {size:5} bytes, 1/{whole / size:.0f}"
    text += f"; others {mass:.3f}"
    whole_loss = float(found["all"].detach())
    for name in ("others", "alone"):
        loss, slope = (
            float(found[name].detach()),
            float((slopes[name] - slopes["all"]).norm() / full),
        )
        text += f"; {name}: loss {loss:.4f} of {whole_loss:.4f}, gradient off {slope:.3f}"
    print(text, flush=True)


def main() -> None:
    """Train both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    ids = texts(arguments.files)
    train, rest = ids[: -len(ids) // 20], ids[-len(ids) // 20 :]
    start = time.perf_counter()
    teacher, student = fit(Model(128), train), fit(Model(32), train)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    with torch.no_grad():
        some = rest[:16]
        theirs, ours = teacher(some), student(some)
    for T in (1.0, 4.0):
        for count in COUNTS:
            for dtype in (torch.float32, torch.float16):
                compare(ours, theirs, count, T, dtype)


if __name__ == "__main__":
    main()
