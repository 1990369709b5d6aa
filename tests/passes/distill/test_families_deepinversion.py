"""Samples made from a teacher's batch norms, by plain numbers and end to end."""

import math

import numpy as np
import pytest
import torch
from compressc_distill.families.dataless.deepinversion import DeepInversion, distance, variation
from torch import nn

import compressc
from compressc import synthesizing
from compressc.cli import main
from compressc.data import open_dataset
from compressc.errors import CompresscError
from compressc.ir import lower, save_bundle
from compressc.synthesizing import synthesize
from compressc.testing import Killed, export_graph
from compressc.training import reestimate


@pytest.fixture
def teacher():
    """A small convolutional net whose batch norms saw bright stripes, unlike any noise."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1)
    )
    net.extend([nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)])
    with torch.no_grad():
        net[-1].weight.mul_(10)  # sure of its answers, as one that was trained
    stripes = torch.arange(6).remainder(2).float().view(1, 1, 1, 6).expand(64, 1, 6, 6)
    seen = 2 + 3 * stripes * torch.rand(64, 1, 6, 1) + 0.1 * torch.randn(64, 1, 6, 6)
    reestimate(net, [(seen,)])
    return export_graph(net.eval(), seen[:4].clone())


def norms_of(graph):
    return [op for op in graph if isinstance(op.layer, nn.BatchNorm2d)]


def off(graph, x):
    """How far the statistics of inputs are from those remembered, by its definition in numpy."""
    norms, total = norms_of(graph), 0.0
    values = lower(graph, also=[op.inputs[0] for op in norms])(x)[1]
    for op, value in zip(norms, values, strict=True):
        rows = np.moveaxis(value.detach().double().numpy(), 1, 0).reshape(value.shape[1], -1)
        mean, var = op.layer.running_mean.numpy(), op.layer.running_var.numpy()
        total += math.dist(rows.mean(1), mean) / math.sqrt(sum(var))
        total += math.dist(rows.var(1), var) / math.sqrt(sum(var**2))
    return total / len(norms)


def test_distance_and_variation_are_what_they_say(teacher):
    x = torch.randn(5, 1, 6, 6)
    norms = norms_of(teacher)
    values = lower(teacher, also=[op.inputs[0] for op in norms])(x)[1]
    assert distance(norms, values).item() == pytest.approx(off(teacher, x), rel=1e-4)
    down = np.mean([(x[n, 0, i + 1, j] - x[n, 0, i, j]).item() ** 2
                    for n in range(5) for i in range(5) for j in range(6)])  # fmt: skip
    across = np.mean([(x[n, 0, i, j + 1] - x[n, 0, i, j]).item() ** 2
                      for n in range(5) for i in range(6) for j in range(5)])  # fmt: skip
    assert float(variation(x)) == pytest.approx(down + across, rel=1e-5)


def test_what_is_made_looks_to_the_teacher_like_what_it_was_trained_on(teacher):
    noise, made = torch.randn(40, 1, 6, 6), {}
    for classes in (0, 1):
        said, method = [], f"deepinversion(steps=150,batch=24,classes={classes})"
        (made[classes],) = synthesize(teacher, method, 40, cache=None, say=said.append)
        assert made[classes].shape == (40, 1, 6, 6)
        assert said[0].startswith(
            f"deepinversion(batch=24, classes={classes:.1f}, steps=150): loss "
        )
    wanted = torch.arange(40) % 3  # evenly spread, over both batches of 20
    right = {
        c: float((lower(teacher)(x).argmax(1) == wanted).float().mean()) for c, x in made.items()
    }
    assert off(teacher, made[0]) < 0.3 * off(teacher, noise)
    assert off(teacher, made[1]) < off(teacher, noise)
    assert right[1] > 0.9
    assert right[0] < 0.7


def test_the_same_seed_makes_the_same_samples_and_another_one_others(teacher):
    def make(seed):
        return synthesize(teacher, "deepinversion(steps=3)", 16, seed=seed, cache=None)[0]

    assert torch.equal(make(0), make(0))
    assert not torch.equal(make(0), make(1))


@pytest.mark.parametrize("dies_at", [1, 5, 12, 17])
def test_killed_and_begun_again_it_makes_the_same(teacher, tmp_path, dies_at):
    def make(cache, dies_at=0):
        seen, said = [], []

        def tell(event):
            seen.append(event)
            if len(seen) == dies_at:
                raise Killed

        method = "deepinversion(steps=9,batch=10)"
        options = {"cache": cache, "checkpoint_every": 0.0, "tell": tell, "say": said.append}
        return synthesize(teacher, method, 20, **options)[0], said

    want, _ = make(None)
    with pytest.raises(Killed):
        make(tmp_path, dies_at)
    got, said = make(tmp_path)
    assert torch.equal(got, want)
    assert any(text.startswith("went on behind batch ") for text in said)
    assert not list(tmp_path.glob("*.unfinished"))


def test_the_command_writes_what_a_run_takes(teacher, tmp_path, capsys):
    save_bundle(teacher, tmp_path / "teacher")
    arguments = ["synthesize", str(tmp_path / "teacher"), "-n", "32", "--no-cache"]
    arguments += ["--method", "deepinversion(steps=2)", "-o"]
    for name in ("a.npz", "b.npz"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    assert "32 samples" in capsys.readouterr().out
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    data = open_dataset(tmp_path / "a.npz")
    assert data.train.take(1).inputs[0].shape == (1, 1, 6, 6)
    assert not data.train.has_labels
    assert main([*arguments, str(tmp_path / "a.npy")]) == 2
    assert "CC100" in capsys.readouterr().err


def test_a_teacher_without_batch_norms_is_refused():
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    forgetful = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    for plain in (net, forgetful):
        graph = export_graph(plain.eval(), torch.randn(4, 4))
        with pytest.raises(CompresscError, match=r"CC105.*needs batch norms.*none with statistics"):
            synthesize(graph, cache=None)


def test_other_inputs_than_one_of_floats_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, y):
            return self.norm(x) + y

    graph = export_graph(Two().eval(), torch.randn(4, 3), torch.randn(4, 3))
    with pytest.raises(CompresscError, match=r"CC204.*one input of floats"):
        DeepInversion().check(graph)


@pytest.mark.parametrize(
    ("method", "count", "code"),
    [
        ("deepinversion", 4, "CC100"),
        ("deepinvert", 32, "CC107"),
        ("deepinversion(step=3)", 32, "CC102"),
        ("deepinversion(batch=1)", 32, "CC102"),
    ],
)
def test_what_is_no_method_and_no_count_is_refused(teacher, method, count, code):
    with pytest.raises(CompresscError, match=code):
        synthesize(teacher, method, count, cache=None)


@pytest.fixture
def quickly(monkeypatch):
    """What a run makes by itself, in less time."""
    monkeypatch.setattr(synthesizing, "COUNT", 48)
    monkeypatch.setattr(synthesizing, "METHOD", "deepinversion(steps=3)")


def test_a_run_without_data_makes_them_by_itself_and_says_so(teacher, tmp_path, quickly):
    save_bundle(teacher, tmp_path / "teacher")
    made = []
    for _ in (1, 2):
        told = []
        compiled = compressc.compile(
            tmp_path / "teacher",
            "prune(ratio=0.3),distill(epochs=1)",
            cache=tmp_path / "cache",
            tell=told.append,
        )
        whats = [str(event.facts.get("what", "")) for event in told]
        made.append(any(text.startswith("deepinversion, batch 1 of 1") for text in whats))
        (text,) = [n.text for n in compiled.report.teacher.notes if n.text.startswith("no data")]
        assert text.startswith("no data: 48 samples were made from the model by deepinversion(")
        assert list(compiled.report.passes[-1].scores) == ["agreement"]
    assert made == [True, False]  # the second time they are in the cache
    assert all(one.cached for one in compiled.passes)
    assert len(list((tmp_path / "cache").glob("*.samples"))) == 1


def test_samples_that_are_damaged_are_made_again(teacher, tmp_path):
    def make():
        said = []
        method = "deepinversion(steps=2)"
        made = synthesize(teacher, method, 16, cache=tmp_path, say=said.append)
        return made[0], any("are made again" in text for text in said)

    first, _ = make()
    (file,) = tmp_path.glob("*.samples/*.npz")
    file.write_bytes(file.read_bytes()[:100])
    again, said = make()
    assert torch.equal(first, again)
    assert said
    assert not make()[1]


@pytest.mark.parametrize(
    ("passes", "found"),
    [
        ("distill", "none can be made from the model: none with statistics"),
        ("distill(compare_scratch=true)", "needs data"),
        ("quant", "needs data"),
    ],
)
def test_where_none_can_be_made_data_are_asked_for(tmp_path, quickly, passes, found):
    graph = export_graph(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(4, 4))
    with pytest.raises(CompresscError, match=rf"CC105.*{found}.*give --data"):
        compressc.compile(graph, passes, cache=tmp_path)


def test_fewer_samples_than_classes_are_refused():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 20)).eval()
    graph = export_graph(net, torch.randn(4, 4))
    with pytest.raises(CompresscError, match=r"CC100.*each of the 20 classes.*got 18 samples"):
        synthesize(graph, "deepinversion(steps=2)", 18, cache=None)
    (made,) = synthesize(graph, "deepinversion(steps=2)", 20, cache=None)
    assert made.shape == (20, 4)
