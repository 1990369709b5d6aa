"""Scores accumulated over batches are those of all samples at once; scikit-learn has the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.nn import functional as F

from compressc.tasks import NO_LABEL, Response, Scoring, SettledTask
from compressc.tasks.classification import Classification
from compressc.tasks.fit import skill
from compressc.tasks.known import of_kind
from compressc.tasks.language_model import LanguageModel
from compressc.tasks.metric import ACCURACY
from compressc.tasks.segmentation import Segmentation
from compressc.tasks.tokens import Tokens


def settled(kind, dim=1, task=None, labels=True, **more):
    judged = Response(0, "out", kind, dim, "", kind, dim, more.pop("threshold", 0.0))
    return SettledTask(task or of_kind(kind), judged, (judged,), labels=labels, **more)


def scoring(task, output, labels, teacher=None, batch=7):
    """Fed in batches of seven, which divide nothing evenly."""
    found = Scoring(task)
    teacher = output if teacher is None else teacher
    for start in range(0, len(output), batch):
        part = slice(start, start + batch)
        some = None if labels is None else labels[part]
        found.update({"out": output[part]}, some, {"out": teacher[part]})
    return found


@pytest.fixture(scope="module")
def unequal():
    """300 samples of four classes, as 240, 40, 15, 5; classes 2 and 3 are often missed."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 240 + [1] * 40 + [2] * 15 + [3] * 5)
    labels = labels[torch.randperm(300, generator=generator)]
    logits = F.one_hot(labels, 4) * 2.0 + torch.randn(300, 4, generator=generator)
    logits[labels >= 2, 0] += 1.5
    return logits, labels


def test_classification(unequal):
    logits, labels = unequal
    answers = logits.argmax(1)
    found = scoring(settled("class_scores"), logits, labels)
    values = found.values()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, answers))
    assert found.recalls == pytest.approx(sk.recall_score(labels, answers, average=None))
    assert found.class_counts == [240, 40, 15, 5]
    assert found.constants() == pytest.approx(
        {"accuracy": 0.8, "balanced_accuracy": 0.25, "agreement": sk_most(answers)}
    )


def sk_most(answers):
    return float(np.bincount(answers).max() / len(answers))


def test_balanced_accuracy_is_shown_only_where_classes_are_unequal_by_more_than_chance():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (200,), generator=generator)  # 11 to 30 of each
    found = scoring(settled("class_scores"), torch.randn(200, 10, generator=generator), labels)
    counts = torch.bincount(labels)
    assert counts.max() >= 2 * counts.min()  # and yet it is chance
    assert not found.unequal
    assert set(found.values()) == {"accuracy", "agreement"}
    assert set(found.constants()) == {"accuracy", "agreement"}
    assert len(found.recalls) == 10


def test_rows_with_nan_are_wrong_in_every_count():
    logits, labels = torch.eye(3)[[0, 1, 2]], torch.tensor([0, 1, 2])
    logits[0] = math.nan
    found = scoring(settled("class_scores"), logits, labels, torch.eye(3))
    assert found.recalls == [0.0, 1.0, 1.0]
    assert found.values()["accuracy"] == pytest.approx(2 / 3)
    assert found.values()["agreement"] == pytest.approx(2 / 3)


def test_segmentation_has_the_iou_of_all_pixels_together():
    generator = torch.Generator().manual_seed(2)
    labels = (torch.rand(20, 6, 5, generator=generator) * 2.2).long()  # 2 is rare
    logits = F.one_hot(labels, 4).movedim(-1, 1) + torch.randn(20, 4, 6, 5, generator=generator)
    labels[3, 2] = NO_LABEL
    known = (labels != NO_LABEL).flatten()
    wanted, answers = labels.flatten()[known], logits.argmax(1).flatten()[known]
    assert set(answers.tolist()) == {0, 1, 2, 3}  # class 3 is given and never wanted: IoU 0
    task = settled("class_scores", task=Segmentation(), per_position=True)
    found = scoring(task, logits, labels)
    assert [metric.name for metric in found.metrics][:2] == ["miou", "accuracy"]
    expected = sk.jaccard_score(wanted, answers, average="macro", labels=[0, 1, 2, 3])
    assert found.values()["miou"] == pytest.approx(expected)
    assert found.values()["accuracy"] == pytest.approx(sk.accuracy_score(wanted, answers))
    every = torch.full_like(answers, int(wanted.mode().values))
    of_constant = sk.jaccard_score(wanted, every, average="macro")
    assert found.constants()["miou"] == pytest.approx(of_constant)
    parts = [scoring(task, logits[s], labels[s]).values() for s in (slice(3), slice(3, 20))]
    mean = sum(part["miou"] for part in parts) / 2
    assert found.values()["miou"] != pytest.approx(mean, abs=1e-4)  # no mean of means


def test_tokens_leave_padding_out():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 5, (30, 9), generator=generator)
    logits = F.one_hot(labels, 5) + torch.randn(30, 9, 5, generator=generator)
    labels[:, 6:] = NO_LABEL
    task = settled("class_scores", dim=2, task=Tokens(), per_position=True)
    found = scoring(task, logits, labels).values()
    known, answers = labels[:, :6].flatten(), logits.argmax(2)[:, :6].flatten()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(known, answers))


def test_multilabel():
    generator = torch.Generator().manual_seed(4)
    labels = (torch.rand(60, 4, generator=generator) < torch.tensor([0.1, 0.3, 0.6, 0.9])).float()
    logits = labels * 2 - 1 + torch.randn(60, 4, generator=generator)
    found = scoring(settled("independent_scores"), logits, labels)
    answers = (logits > 0).int()
    assert found.values()["accuracy"] == pytest.approx(
        sk.accuracy_score(labels.flatten(), answers.flatten())
    )
    assert found.values()["f1"] == pytest.approx(sk.f1_score(labels, answers, average="micro"))
    best = np.maximum(labels.mean(0), 1 - labels.mean(0)).mean()
    assert found.constants()["accuracy"] == pytest.approx(float(best))
    ones = np.ones_like(labels)
    assert found.constants()["f1"] == pytest.approx(sk.f1_score(labels, ones, average="micro"))


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_regression(offset):
    """Also far from 0, where sums of squares alone would have no digits left."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 0.1, 5.0]) + offset
    output = labels + torch.randn(50, 3, generator=generator) * 0.2
    found = scoring(settled("values"), output, labels).values()
    pair = labels.double().numpy(), output.double().numpy()
    expected = sk.r2_score(*pair, multioutput="variance_weighted")
    assert found["r2"] == pytest.approx(expected, abs=1e-9)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(*pair), abs=1e-9)
    assert found["teacher_r2"] == 1.0


def test_what_never_varies_has_no_r2():
    labels = torch.full((40, 1), 0.1)
    found = scoring(settled("values"), labels + 1, labels, labels)
    assert found.values() == {"mae": pytest.approx(1.0)}
    assert found.constants() == {}


def test_embedding_by_cosine_and_neighbours():
    generator = torch.Generator().manual_seed(6)
    teacher = torch.randn(40, 8, generator=generator)
    output = teacher + 0.5 * torch.randn(40, 8, generator=generator)
    found = scoring(settled("embedding", labels=False), output, None, teacher).values()
    ours, theirs = sk.pairwise.cosine_similarity(output), sk.pairwise.cosine_similarity(teacher)
    between = np.diag(sk.pairwise.cosine_similarity(output, teacher))
    assert found["cosine"] == pytest.approx(float(between.mean()), abs=1e-6)
    for matrix in (ours, theirs):
        np.fill_diagonal(matrix, -2)
    same = (ours.argmax(1) == theirs.argmax(1)).mean()
    assert 0.1 < same < 0.9
    assert found["retrieval"] == pytest.approx(float(same))
    assert "retrieval" not in scoring(settled("embedding"), output[:2], None, teacher[:2]).values()
    broken = output.clone()
    broken[0] = math.nan
    assert scoring(settled("embedding"), broken, None, broken).values()["retrieval"] < 1


def test_retrieval_keeps_a_gallery_and_no_more(monkeypatch):
    from compressc.tasks import distances

    monkeypatch.setattr(distances, "GALLERY", 10)
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(7))
    meter = distances.Retrieval(settled("embedding").judged)
    for part in rows.split(7):
        meter.update(part, part)
    assert meter.ours.shape == (10, 8)


def test_perplexity_is_of_the_mean_over_tokens():
    """Lines of 2 and of 30 tokens: a mean over batches would weigh the short ones too much."""
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(0, 6, (12, 30), generator=generator)
    mask = torch.ones_like(ids)
    mask[:9, 3:] = 0
    logits = torch.randn(12, 30, 6, generator=generator) * 2
    logits[9:, :-1] += 3 * F.one_hot(ids[9:, 1:], 6)  # the long ones are known better
    names = ("input_ids", "attention_mask")
    task = settled("class_scores", 2, LanguageModel(), per_position=True, inputs=names)
    targets = task.targets((ids, mask), None)
    found = scoring(task, logits, targets, batch=4)
    logs = logits.double().log_softmax(-1).numpy()
    nll = [-logs[i, t, int(ids[i, t + 1])] for i in range(12) for t in range(29) if mask[i, t + 1]]
    assert len(nll) == 9 * 2 + 3 * 29
    assert found.values()["perplexity"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    means = [np.mean(nll[:8]), np.mean(nll[8:16]), np.mean(nll[16:])]
    assert found.values()["perplexity"] != pytest.approx(math.exp(np.mean(means)), rel=0.01)
    shares = np.bincount(ids[:, 1:][mask[:, 1:] == 1]) / len(nll)
    entropy = -(shares * np.log(shares)).sum()
    assert found.constants()["perplexity"] == pytest.approx(math.exp(entropy))
    assert found.metrics[0].name == "perplexity"
    assert found.class_counts == []  # tokens are no classes to be told one by one


def test_a_token_without_any_chance_makes_perplexity_infinite():
    task = settled("class_scores", 2, LanguageModel(), per_position=True)
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = -math.inf
    found = scoring(task, logits, torch.tensor([[0, 1]])).values()
    assert found["perplexity"] == math.inf
    broken = scoring(task, logits * math.nan, torch.tensor([[0, 1]])).values()
    assert broken["perplexity"] == math.inf


def test_state_does_not_grow_with_the_samples():
    task = settled("class_scores", 2, LanguageModel(), per_position=True)
    found, sizes = Scoring(task), []
    for _ in range(3):
        logits = torch.randn(16, 12, 50)
        found.update({"out": logits}, torch.randint(0, 50, (16, 12)), {"out": logits})
        meters = {id(meter): meter for meter in found._meters.values()}.values()
        sizes.append(sum(x.numel() for m in meters for x in m.metric_state.values()))
    assert max(sizes) <= 7 * 50 + 10  # by token, and not by position


def test_nothing_is_gathered_from_other_processes(monkeypatch, unequal):
    """Each has scored all samples; one that scores alone would wait for the others for ever."""
    import torchmetrics.metric

    def gather(*arguments, **options):
        raise AssertionError("gathered")

    monkeypatch.setattr(torchmetrics.metric, "jit_distributed_available", lambda: True)
    monkeypatch.setattr(torchmetrics.metric, "gather_all_tensors", gather)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    logits, labels = unequal
    assert scoring(settled("class_scores"), logits, labels).values()["accuracy"] > 0.5
    known = skill(settled("values").judged, logits, logits + 0.1 * logits.flip(0))
    assert known.score > 0.5

    class Own(Classification):
        name = "own"

        def scores(self, settled):
            return {ACCURACY: torchmetrics.classification.MulticlassAccuracy(4, average="micro")}

    found = scoring(settled("class_scores", task=Own()), logits, labels).values()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, logits.argmax(1)))
