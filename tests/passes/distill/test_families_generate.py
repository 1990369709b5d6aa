"""Texts that a teacher writes: by a plain loop, and end to end."""

import numpy as np
import pytest
import torch
from compressc_distill.families.language.generate import Generate
from language_nets import LENGTH, WORDS, Bigrams, dataset, graph_of, texts, trained
from torch import nn

import compressc
from compressc.cli import main
from compressc.data import open_dataset
from compressc.errors import CompresscError
from compressc.ir import save_bundle
from compressc.synthesizing import synthesize
from compressc.tasks import load_task
from compressc.testing import Killed, export_graph


@pytest.fixture(scope="module")
def net():
    return trained(Bigrams())


@pytest.fixture(scope="module")
def teacher(net):
    return graph_of(net)


@pytest.fixture
def prompts(tmp_path):
    np.savez(tmp_path / "text.npz", x_train=texts(40, 5).numpy(), x_test=texts(8, 6).numpy())
    return str(tmp_path / "text.npz")


def method(file, **options):
    given = {"prompts": f"'{file}'", "prompt": 3, "words": 7, "batch": 16} | options
    return f"generate({','.join(f'{name}={value}' for name, value in given.items())})"


def likeliest(net, words, count):
    """The text that goes on with the likeliest word each time, a list of ids."""
    words = list(words)
    while len(words) < count:
        scores = net(torch.tensor([words]))[0, -1].tolist()
        words.append(scores.index(max(scores)))
    return words


def test_the_likeliest_words_are_those_of_a_plain_loop(net, teacher, prompts):
    said = []
    (made,) = synthesize(teacher, method(prompts), 40, cache=None, say=said.append)
    begun = texts(40, 5)
    assert made.shape == (40, 10)
    for row in (0, 17, 39):
        assert made[row].tolist() == likeliest(net, begun[row, :3].tolist(), 10)
    assert said == ["40 texts: 3 words of the data, 7 the likeliest"]


def test_drawn_texts_have_the_words_that_the_teacher_expects(net, teacher, prompts):
    """More texts than beginnings; the mean surprise of what is drawn is the teacher's entropy."""
    drawn = method(prompts, temperature=1, batch=400)
    (made,) = synthesize(teacher, drawn, 2000, cache=None)
    assert not torch.equal(made[0], made[40])
    logs = net(made)[:, 2:-1].log_softmax(-1)
    surprise = -logs.gather(-1, made[:, 3:, None]).mean()
    entropy = -(logs.exp() * logs).sum(-1).mean()
    assert surprise.item() == pytest.approx(entropy.item(), abs=0.05)
    assert torch.equal(made[:40, :3], texts(40, 5)[:, :3])


@pytest.mark.parametrize("dies_at", [1, 2])
def test_killed_and_begun_again_it_writes_the_same(teacher, prompts, tmp_path, dies_at):
    def make(cache, dies_at=0):
        seen = []

        def tell(event):
            seen.append(event.facts["done"])
            if len(seen) == dies_at:
                raise Killed

        drawn = method(prompts, temperature=1)
        return synthesize(teacher, drawn, 40, cache=cache, tell=tell)[0], seen

    want, _ = make(None)
    with pytest.raises(Killed):
        make(tmp_path / "cache", dies_at)
    (kept,) = (tmp_path / "cache").glob("*.unfinished/written")
    assert len(list(kept.iterdir())) == dies_at
    assert torch.equal(make(tmp_path / "cache")[0], want)
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def test_a_student_learns_what_was_written(net, teacher, prompts, tmp_path):
    save_bundle(teacher, tmp_path / "teacher")
    arguments = ["synthesize", str(tmp_path / "teacher"), "-n", "40", "--no-cache", "--method"]
    assert main([*arguments, method(prompts), "-o", str(tmp_path / "made.npz")]) == 0
    made = np.load(tmp_path / "made.npz")["x"]
    assert made.dtype == np.int64
    np.savez(tmp_path / "both.npz", x_train=np.tile(made, (6, 1)), x_test=texts(40, 6)[:, :10])
    data = open_dataset(tmp_path / "both.npz")
    student = Bigrams(seed=4)
    passes = "distill(loss=ce,epochs=8,lr=0.03)"
    task = load_task("language_model")
    done = compressc.compile(student, passes, data=data, cache=None, task=task)
    before, after = done.report.teacher.scores, done.report.passes[-1].scores
    assert after["accuracy"] > 0.4 > before["accuracy"]


class Both(nn.Module):
    """Looks at what stands behind a word, too."""

    def __init__(self):
        super().__init__()
        self.table, self.scores = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids):
        known = self.table(ids)
        return self.scores(known + known.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("options", "count", "wanted"),
    [
        ({}, 41, r"CC100.*a text to begin with.*40 for 41.*-n 40, or a temperature"),
        ({"words": LENGTH}, 16, r"CC204.*prompt \+ words = 15.*12 words at most.*words=9"),
        ({"prompts": "'none.npz'"}, 16, r"CC300"),
        ({"prompt": 13, "words": 0}, 16, r"CC102.*words"),
    ],
)
def test_what_cannot_be_written_is_refused(teacher, prompts, options, count, wanted):
    with pytest.raises(CompresscError, match=wanted):
        synthesize(teacher, method(prompts, **options), count, cache=None)


def test_models_that_write_no_text_are_refused(prompts):
    ahead = export_graph(Both().eval(), texts(4))
    with pytest.raises(CompresscError, match=r"CC105.*looks back only"):
        synthesize(ahead, method(prompts), 16, cache=None)
    ids = nn.Sequential(nn.Embedding(WORDS, 4), nn.Flatten(), nn.Linear(4 * LENGTH, 3))
    with pytest.raises(CompresscError, match=r"CC105.*scores of each word \[b, s, v\]"):
        Generate(prompts=prompts).check(export_graph(ids.eval(), texts(4)))
    floats = export_graph(nn.Linear(4, 3).eval(), torch.randn(4, 4))
    with pytest.raises(CompresscError, match=r"CC204.*takes ids"):
        synthesize(floats, method(prompts), 16, cache=None)


def test_other_texts_make_other_samples(teacher, prompts, tmp_path):
    """What was made of the old ones is not taken from the cache."""
    first = synthesize(teacher, method(prompts), 40, cache=tmp_path / "cache")[0]
    changed = texts(40, 99).numpy()
    np.savez(prompts, x_train=changed, x_test=changed[:8])
    second = synthesize(teacher, method(prompts), 40, cache=tmp_path / "cache")[0]
    assert torch.equal(second[:, :3], torch.from_numpy(changed)[:, :3])
    assert not torch.equal(first, second)
    assert dataset().train.inputs[0].shape[1] == LENGTH
