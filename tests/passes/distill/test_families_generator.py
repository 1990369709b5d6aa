"""`generator`: its loss by hand, the same samples after a kill, teachers it cannot work with."""

from __future__ import annotations

import math

import pytest
import torch
from compressc_distill.families.dataless.generator import (
    Generator,
    balance,
    network,
    read_last,
    sure,
)
from torch import nn

from compressc.cli import main
from compressc.distillation import Making
from compressc.errors import CompresscError
from compressc.ir import lower
from compressc.synthesizing import synthesize
from compressc.testing import Killed, export_graph, kill_at

METHOD = "generator(steps=40,batch=32,width=8)"


def rows_by_hand(rows):
    """(cross entropy with the best class, minus the entropy of the mean answer)."""
    answers, surely = [], 0.0
    for row in rows:
        total = sum(math.exp(value) for value in row)
        answers.append([math.exp(value) / total for value in row])
        surely -= math.log(max(answers[-1])) / len(rows)
    mean = [sum(column) / len(rows) for column in zip(*answers, strict=True)]
    return surely, sum(p * math.log(p) for p in mean)


def test_the_terms_by_hand():
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 2
    first, second = rows_by_hand(rows.tolist())
    assert sure(rows).item() == pytest.approx(first, rel=1e-5)
    assert balance(rows).item() == pytest.approx(second, rel=1e-5)
    even = torch.zeros(3, 5)
    assert balance(even).item() == pytest.approx(-math.log(5), rel=1e-6)


def cnn(classes=3, norm=True):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4)] if norm else []
    body = [nn.Conv2d(1, 4, 3, padding=1), *norms, nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4 * 36, classes)).eval()


def graph(**options):
    return export_graph(cnn(**options), torch.randn(4, 1, 6, 6))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (1, 1, 1), (6,), (4, 5)])
def test_the_network_makes_inputs_of_any_shape(shape):
    torch.manual_seed(0)
    made = network(10, shape, 8)(torch.randn(64, 10)).detach()
    assert made.shape == (64, *shape)
    if max(shape) > 1:
        assert abs(float(made.mean())) < 0.1
        assert 0.5 < float(made.std()) < 1.5


def test_what_is_made_is_of_all_classes_and_the_teacher_is_sure_of_it():
    teacher, said = graph(), []
    made = synthesize(teacher, METHOD, 60, cache=None, say=said.append)[0]
    assert made.shape == (60, 1, 6, 6)
    first, last = (float(word) for word in said[0].split("loss ")[1].split(" -> "))
    assert last < first
    assert said[1].startswith("3 of 3 classes were made")
    with torch.no_grad():
        rows = lower(teacher)(made)
        plain = lower(teacher)(torch.randn(60, 1, 6, 6))
    counts = torch.bincount(rows.argmax(1), minlength=3)
    assert int(counts.min()) >= 1
    assert sure(rows) < sure(plain)


def test_the_weighted_sum_is_what_the_score_says():
    """Before training: terms of the same noise, through the teacher by hand."""
    said = []
    options = Generator(steps=1, batch=16, width=4, noise=5, activation=0.3, balance=2.0)
    teacher = graph()
    made = options.make(teacher, 3, Making(seed=1, say=said.append))
    assert made[0].shape == (3, 1, 6, 6)
    torch.manual_seed(1)
    net = network(5, (1, 6, 6), 4).eval()
    z = torch.randn(16, 5, generator=torch.Generator().manual_seed(1_000_003 + 1))
    (last,) = read_last(teacher, teacher.output_names[0])
    with torch.no_grad():
        rows, (features,) = lower(teacher, also=[last])(net(z))
    surely, entropy = rows_by_hand(rows.tolist())
    want = surely + 2 * entropy - 0.3 * float(features.abs().mean())
    assert float(said[0].split("loss ")[1].split(" -> ")[0]) == pytest.approx(want, abs=2e-4)


def test_killed_and_begun_again_it_is_the_same(tmp_path):
    want = synthesize(graph(), METHOD, 40, cache=None)[0]
    with pytest.raises(Killed):
        synthesize(graph(), METHOD, 40, cache=tmp_path, checkpoint_every=0.0, tell=kill_at(23))
    seen = []
    got = synthesize(
        graph(), METHOD, 40, cache=tmp_path, tell=lambda event: seen.append(event.facts["done"])
    )[0]
    assert seen[0] > 20  # it went on
    assert torch.equal(got, want)


def test_statistics_of_batch_norms_can_be_added():
    said = []
    synthesize(graph(), "generator(steps=2,batch=8,width=4,statistics=1)", 16, say=said.append)
    assert said[0].startswith("generator(batch=8, statistics=1.0, steps=2, width=4): loss")
    with pytest.raises(CompresscError, match=r"CC105.*statistics=.*batch norms"):
        synthesize(graph(norm=False), "generator(statistics=1)", 16)


def test_teachers_that_it_cannot_work_with():
    values = export_graph(nn.Linear(5, 1).eval(), torch.randn(4, 5))
    with pytest.raises(CompresscError, match=r"CC105.*class scores.*deepinversion"):
        synthesize(values, METHOD, 20)
    words = export_graph(nn.Embedding(9, 4).eval(), torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(CompresscError, match=r"CC204.*generator makes one input of floats"):
        synthesize(words, METHOD, 20)
    with pytest.raises(CompresscError, match=r"CC100.*each of the 20 classes"):
        synthesize(graph(classes=20), METHOD, 16)
    with pytest.raises(CompresscError, match=r"CC102.*batch"):
        synthesize(graph(), "generator(batch=1)", 16)


def test_the_command(tmp_path, teacher_file, monkeypatch, capsys):
    out = tmp_path / "synth.npz"
    words = ["synthesize", str(teacher_file), "-n", "20", "--method"]
    assert main([*words, "generator(steps=3,batch=8,width=4)", "-o", str(out)]) == 0
    assert "20 samples" in capsys.readouterr().out


@pytest.fixture
def teacher_file(tmp_path):
    dims = ({0: torch.export.Dim("b")},)
    program = torch.export.export(cnn(), (torch.randn(4, 1, 6, 6),), dynamic_shapes=dims)
    torch.export.save(program, tmp_path / "teacher.pt2")
    return tmp_path / "teacher.pt2"
