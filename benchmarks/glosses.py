"""Glosses of WordNet and MiniLM, for families.py: embeddings, and bags of words.

The embedding is MiniLM's, of a student with half of its blocks. A bag of words is what a small MLP
sees where MiniLM, with a head fitted to the classes of nouns, reads the text: which of the 1,000
most frequent pieces of words are there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache as once
from pathlib import Path

import recovery
import torch
from family_runs import Row, Setting
from tasks import fit
from torch import Tensor, nn

from compressc.data import Dataset, Split
from compressc.tasks import NO_LABEL

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import views

#: Glosses to learn from (of embeddings half), and to be judged by; labels that students know.
TRAIN, TEST, LABELLED = 2000, 1000, 200
#: Pieces of words in a bag: as many as `views.Bag` reads.
FREQUENT = views.WORDS
PLACE = Path("build/families")
HERE = "benchmarks/glosses.py"


class EmbeddingSetting(Setting):
    """Nothing but the teacher's vectors to learn from: the cut model stands for `alone`."""

    @property
    def alone(self) -> str:
        """As it was cut."""
        return self.student

    @property
    def kd(self) -> str:
        """By the angle to the teacher's vectors."""
        return self.taught("loss=cosine")


EMBEDDING = EmbeddingSetting(
    "minilm.pt2",
    f"{HERE}:texts",
    "glosses; MiniLM with half of its blocks (as cut, and by `cosine`), retrieval",
    "student(depth=0.5)",
    3,
    "retrieval",
    more=",batch_size=32",
    task="embedding",
)
BAG = Setting(
    "minilm-classes.pt2",
    f"{HERE}:few_bag",
    "10 classes of glosses, student sees a bag of words, 200 labels of 2,000",
    "student(factory='examples/views.py:Bag')",
    20,
    more=",student_inputs=bag",
    rival=Setting(
        "bag.pt2",
        f"{HERE}:bag_alone",
        "10 classes of glosses, bag of words, 200 labels of 2,000",
        "student(factory='examples/views.py:Bag')",
        20,
    ),
)


def rows() -> Iterator[Row]:
    """Of both."""
    for loss in ("'cosine + infonce',weights=auto", "infonce"):
        yield Row("contrastive: infonce, embeddings", EMBEDDING, EMBEDDING.taught(f"loss={loss}"))
    yield Row("cross-modal: text", BAG, BAG.taught("loss='0.1*ce + 0.9*kd'"))


@once
def _arrays() -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(PLACE / "glosses.pt", weights_only=True)
    return found


def texts() -> Dataset:
    """Ids and masks i64[n,24], half of the glosses to learn from, without labels."""
    data = _arrays()
    parts = [Split((data["ids"][rows], data["mask"][rows])) for rows in _rows(TRAIN // 2)]
    return Dataset("glosses", parts[0], parts[0].take(256), parts[1])


def few_bag() -> Dataset:
    """Ids, masks and bags f32[n,1000]; 200 of the glosses to learn from have a label."""
    data = _arrays()
    frequent = data["frequent"]
    parts = []
    for known, rows in zip((LABELLED, TEST), _rows(TRAIN), strict=True):
        ids, mask = data["ids"][rows], data["mask"][rows]
        labels = data["labels"][rows].clone()
        labels[known:] = NO_LABEL
        inputs = (ids, mask, views.bag_of(ids, frequent))
        parts.append(Split(inputs, labels, ("ids", "mask", "bag")))
    return Dataset("glosses and bags", parts[0], parts[0].take(256), parts[1])


def bag_alone() -> Dataset:
    """The bags of `few_bag`."""
    return few_bag().cast(lambda inputs: inputs[2:])


def _rows(train: int) -> tuple[Tensor, Tensor]:
    return torch.arange(train), torch.arange(TRAIN, TRAIN + TEST)


def prepare(cache: Path) -> None:
    """Glosses as ids, MiniLM as it is and with a head, and an MLP of bags that knew 200 labels."""
    made: dict[str, Callable[[], nn.Module]] = {
        "minilm.pt2": lambda: recovery.MiniLM(recovery.minilm_folder()).eval(),
        "minilm-classes.pt2": _classifier,
        "bag.pt2": _of_bags,
    }
    if all((PLACE / name).exists() for name in made):
        return
    recovery.fetch(cache)
    found, classes = recovery.texts_and_classes(cache)
    ids, mask = recovery.encoded(found[: TRAIN + TEST], recovery.minilm_folder())
    arrays = {"ids": ids, "mask": mask, "labels": torch.tensor(classes[: TRAIN + TEST])}
    arrays["frequent"] = _frequent(ids[:TRAIN], mask[:TRAIN])
    torch.save(arrays, PLACE / "glosses.pt")
    for name, make in made.items():
        inputs = (arrays["ids"][:4], arrays["mask"][:4])
        if name == "bag.pt2":
            inputs = tuple(bag_alone().train.take(4).inputs)
        batch = {0: torch.export.Dim("batch", min=1, max=65536)}
        program = torch.export.export(make(), inputs, dynamic_shapes=(batch,) * len(inputs))
        torch.export.save(program, PLACE / name)


def _frequent(ids: Tensor, mask: Tensor) -> Tensor:
    """The pieces of words that are in most texts, without those that begin and end each."""
    inside = mask.clone()
    inside[:, 0] = 0
    inside[torch.arange(len(ids)), mask.sum(1) - 1] = 0
    return torch.bincount(ids[inside > 0]).argsort(descending=True, stable=True)[:FREQUENT]


def _classifier() -> nn.Module:
    """MiniLM with a linear head, fitted to all labels of the glosses to learn from."""
    from sklearn.linear_model import LogisticRegression

    data, folder = _arrays(), recovery.minilm_folder()
    split = Split((data["ids"][:TRAIN], data["mask"][:TRAIN]), data["labels"][:TRAIN])
    pooled = recovery.answers(recovery.MiniLM(folder, nn.Identity()).eval(), split)
    fitted = LogisticRegression(max_iter=500).fit(pooled.numpy(), data["labels"][:TRAIN].numpy())
    head = nn.Linear(pooled.shape[1], recovery.CLASSES)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    return recovery.MiniLM(folder, head).eval()


def _of_bags() -> nn.Module:
    """A wider MLP, by the 200 labels."""
    part = bag_alone().train.take(LABELLED)
    assert isinstance(part.labels, Tensor)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(FREQUENT, 128), nn.ReLU(), nn.Linear(128, recovery.CLASSES))
    arrays = {"x_train": part.inputs[0].numpy(), "y_train": part.labels.numpy()}
    return fit(model, arrays, nn.functional.cross_entropy, 25, 3e-3)
