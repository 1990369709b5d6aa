"""Texts of several lengths in a batch: what is padding changes nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import compressc
from compressc.asking import ask_teacher
from compressc.distillation import Answers, Loss, look, parse_loss
from compressc.distillation import teacher as module_under_test
from compressc.errors import CompresscError
from compressc.session import open_session

WORDS = 11


class Model(nn.Module):
    """The next word, by the word and the mean of all words that the mask lets through."""

    def __init__(self, width=16):
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.up, self.out = nn.Linear(2 * width, 32), nn.Linear(32, WORDS)

    def forward(self, input_ids, attention_mask):
        words, mask = self.words(input_ids), attention_mask.unsqueeze(-1).float()
        mean = (words * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        both = torch.cat([words, mean.expand_as(words)], -1)
        return self.out(F.relu(self.up(both)))


class Texts:
    """Numbers that go up by one, of 3 to 9 words."""

    def __init__(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, 10, (count,), generator=draw).tolist()
        starts = torch.randint(0, WORDS, (count,), generator=draw).tolist()
        self.texts = [(a + torch.arange(n)) % WORDS for a, n in zip(starts, lengths, strict=True)]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, position):
        ids = self.texts[position]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def teacher():
    """Trained on some texts, each by itself."""
    torch.manual_seed(0)
    net = Model()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for text in Texts(300, seed=5).texts:
        loss = F.cross_entropy(net(text[None], torch.ones(1, len(text)))[0, :-1], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def session(teacher):
    parts = {"train": Texts(200, 0), "calibration": Texts(50, 1), "test": Texts(60, 2)}
    return open_session(teacher, data=parts)


def test_the_loss_of_a_padded_batch_is_that_of_its_texts_one_by_one(session, teacher):
    """Value and gradient: over all words that have a next one, `ce` and `kd` in equal parts."""
    task = session.task
    assert task.task.name == "language_model"
    torch.manual_seed(1)
    student = Model()
    texts = session.data.train.select(torch.arange(12))
    assert not bool(texts.inputs[1].all())  # some are padded
    with torch.no_grad():
        theirs = Answers((teacher(*texts.inputs),))
    ours = Answers((student(*texts.inputs),))
    targets = task.targets(texts.inputs, texts.labels)
    loss = Loss(parse_loss("ce + kd(T=2)"))
    batch = loss.total(look(task, ours, theirs, targets, loss.reads))
    slopes = torch.autograd.grad(batch, list(student.parameters()))
    total, words = 0.0, 0
    for text in Texts(200, 0).texts[:12]:
        ones = torch.ones(1, len(text))
        s, t = student(text[None], ones)[0, :-1], teacher(text[None], ones)[0, :-1].detach()
        hard = F.cross_entropy(s, text[1:], reduction="sum")
        soft = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="sum") * 4
        total, words = total + hard + soft, words + len(text) - 1
    one_by_one = total / words
    torch.testing.assert_close(batch, one_by_one, rtol=1e-5, atol=1e-6)
    for got, want in zip(
        slopes, torch.autograd.grad(one_by_one, list(student.parameters())), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_a_run_on_texts_of_several_lengths(teacher):
    parts = {"train": Texts(200, 0), "calibration": Texts(50, 1), "test": Texts(60, 2)}
    passes = "prune(ratio=0.3),distill(epochs=3,lr=0.01)"
    done = compressc.compile(teacher, passes, data=parts, cache=None)
    pruned, distilled = (record.scores["perplexity"] for record in done.report.passes)
    assert distilled < pruned
    texts = [text for _, text in done.passes[-1].notes]
    assert any("samples are of several lengths" in text for text in texts)


def test_answers_of_several_lengths_are_not_written_ahead(session, tmp_path):
    with pytest.raises(CompresscError, match=r"CC301.*of one length"):
        ask_teacher(session, tmp_path / "a")


def collated(samples):
    longest = max(len(sample["input_ids"]) for sample in samples)
    return {
        name: torch.stack([F.pad(s[name], (0, longest - len(s[name]))) for s in samples])
        for name in ("input_ids", "attention_mask")
    }


@pytest.mark.parametrize("looked_at", [64, 1])
def test_batches_of_several_lengths_by_ones_own_collate(teacher, monkeypatch, looked_at):
    """Also where the few samples that are looked at do not show it."""
    monkeypatch.setattr(module_under_test, "LOOKED_AT", looked_at)
    parts = {
        name: DataLoader(Texts(count, seed), collate_fn=collated)
        for name, count, seed in (("train", 200, 0), ("calibration", 50, 1), ("test", 60, 2))
    }
    done = compressc.compile(teacher, "distill(epochs=1)", data=parts, cache=None)
    texts = [text for _, text in done.passes[-1].notes]
    assert sum("samples are of several lengths" in text for text in texts) >= 1
