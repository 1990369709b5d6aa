"""A run that is killed and begun again comes to the same last bit, wherever it was killed."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compressc.training import Checkpoints, Hooks, Lesson, Recipe, TensorBatches, train
from compressc.training import checkpoint as module_under_test
from compressc.training.place import Place
from compressc.training.state import RunState

RECIPE = Recipe(epochs=4, learning_rate=0.5, clip=0.0, seed=3)


class Killed(BaseException):
    """In place of kill -9: nothing of ours catches it."""


class Watch(Hooks):
    """The generator at each step; dies in that step."""

    def __init__(self, dies_in=0):
        self.dies_in, self.count = dies_in, 0
        self.generators = []

    def stepped(self, moment):
        self.count += 1
        self.generators.append(torch.get_rng_state())
        if self.count == self.dies_in:
            raise Killed


def problem(dies_in_validation=0):
    """A net with all kinds of state: buffers, dropout, a module beside it, a setback on its way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    net.register_buffer("count", torch.zeros(1, dtype=torch.int64), persistent=False)
    scale = nn.Linear(1, 1)
    x = torch.randn(24, 2)
    validations = 0

    def terms(module, batch):
        net.count += 1
        error = (scale(module(batch[0])) - batch[0].sum(1, keepdim=True)).pow(2).mean()
        return {"error": error, "size": net[0].weight.pow(2).sum()}

    def validate(module):
        nonlocal validations
        validations += 1
        if validations == dies_in_validation:
            raise Killed
        return -float((scale(module(x)) - x.sum(1, keepdim=True)).pow(2).mean())

    batches = TensorBatches([x], 8)
    return net, Lesson(batches, terms, validate, [(x,)], {"size": 0.1}, beside={"scale": scale})


def everything(folder: Path):
    """Every file of every checkpoint."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(folder, dies_in=0, dies_in_validation=0, recipe=RECIPE, **options):
    """Train; what came of it, or None where it died."""
    net, lesson = problem(dies_in_validation)
    watch = Watch(dies_in)
    kept = Checkpoints(folder, **{"seconds": 0.0, **options})
    try:
        result = train(net, lesson, recipe, hooks=[watch], checkpoints=kept)
    except Killed:
        return None
    tensors = [*net.parameters(), *net.buffers(), *lesson.beside["scale"].parameters()]
    return result, [t.detach().clone() for t in tensors], watch.generators


def assert_same(got, want):
    assert got[0] == want[0]
    assert all(torch.equal(a, b) for a, b in zip(got[1], want[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(got[2][::-1], want[2][::-1], strict=False))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Without waiting for the disk, which tests/unit/test_power_cuts.py looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "sync_tree", lambda folder: None)
        patch.setattr(module_under_test, "rename", os.rename)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, quick):
    """A run that kept the state after every step, and where."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "KEPT", 1000)
        return run(folder), folder


@pytest.fixture
def whole(uninterrupted, monkeypatch):
    """It, and its files."""
    monkeypatch.setattr(module_under_test, "KEPT", 1000)
    return uninterrupted[0], everything(uninterrupted[1])


@pytest.mark.parametrize("step", range(1, 13))
def test_killed_in_any_step_it_comes_to_the_same_bit(tmp_path, whole, step):
    want, states = whole
    assert want[0].setbacks  # one on the way, or this shows less than it could
    folder = tmp_path / "killed"
    folder.mkdir()
    assert run(folder, dies_in=step) is None
    before = everything(folder)
    assert before.items() <= states.items()
    said = []
    assert_same(run(folder, say=said.append), want)
    assert said[0].startswith("went on behind batch ")
    assert everything(folder) == states  # weights, moments, best state, history after every step


@pytest.mark.parametrize("validation", range(1, 6))
def test_killed_in_any_validation_it_comes_to_the_same_bit(tmp_path, whole, validation):
    want, states = whole
    folder = tmp_path / "killed"
    folder.mkdir()
    assert run(folder, dies_in_validation=validation) is None
    assert_same(run(folder), want)
    assert everything(folder) == states


OTHERWISE = [
    {"ema": 0.9},
    {"optimizer": "sgd", "learning_rate": 0.02},
    {"accumulate": 2},
    {"steps": 8},
    {"precision": "bfloat16", "channels_last": True},
]


@pytest.mark.parametrize("step", [1, 2, 4, 7])
@pytest.mark.parametrize("options", OTHERWISE, ids=str)
def test_every_option_comes_to_the_same_bit(tmp_path, monkeypatch, options, step):
    monkeypatch.setattr(module_under_test, "KEPT", 1000)
    recipe = replace(RECIPE, **options)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    want = run(tmp_path / "whole", recipe=recipe)
    assert run(tmp_path / "killed", dies_in=step, recipe=recipe) is None
    assert_same(run(tmp_path / "killed", recipe=recipe), want)
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


def test_a_run_that_was_finished_is_not_done_again(uninterrupted):
    whole, folder = uninterrupted
    net, lesson = problem()
    never = replace(lesson, terms=lambda module, batch: pytest.fail("a step was made"))
    result = train(net, never, RECIPE, checkpoints=Checkpoints(folder))
    assert result == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), whole[1], strict=False))


def test_without_a_folder_it_is_the_same_run(whole):
    assert_same(run(None), whole[0])


def test_two_are_kept_and_hold_no_pickle(tmp_path):
    run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"state.safetensors", "best.safetensors", "state.json"}


def test_they_are_made_by_the_clock_and_at_ends_of_epochs(tmp_path, monkeypatch):
    now, saved = [0.0], []
    original = Checkpoints.save

    def save(self, state, about):
        saved.append((state.place.epoch, state.place.position))
        original(self, state, about)

    monkeypatch.setattr(Checkpoints, "save", save)

    class Passing(Hooks):
        def stepped(self, moment):
            now[0] += 25.0

    net, lesson = problem()
    kept = Checkpoints(tmp_path, seconds=60.0, clock=lambda: now[0])
    train(net, lesson, RECIPE, hooks=[Passing()], checkpoints=kept)
    # 3 steps an epoch: 75 seconds after each, and so at once behind its last batch; the validation
    # takes no time, so the end of the epoch is no news
    assert saved == [(1, 3), (2, 3), (3, 3), (4, 3)]
    saved.clear()
    kept = Checkpoints(tmp_path / "other", seconds=200.0, clock=lambda: now[0])
    (tmp_path / "other").mkdir()
    net, lesson = problem()
    train(net, lesson, RECIPE, hooks=[Passing()], checkpoints=kept)
    assert saved == [(2, 0), (3, 0), (4, 0), (5, 0)]


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state.safetensors", "best.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 40)])
def test_a_damaged_one_is_told_and_the_one_before_is_taken(tmp_path, whole, name, damage):
    folder = tmp_path / "killed"
    folder.mkdir()
    run(folder, dies_in=8)
    *_, before, last = sorted(folder.iterdir())
    damage(last / name)
    said = []
    assert_same(run(folder, say=said.append), whole[0])
    assert said[0].startswith("a checkpoint was not what was saved")
    batch, epoch = int(before.name[9:]), int(before.name[:8])
    assert said[1:] == [f"went on behind batch {batch} of epoch {epoch}"]


def test_where_all_are_damaged_it_begins_anew(tmp_path, whole):
    folder = tmp_path / "killed"
    folder.mkdir()
    run(folder, dies_in=5)
    for path in folder.rglob("state.json"):
        path.write_text("{}")
    said = []
    assert_same(run(folder, say=said.append), whole[0])
    assert said
    assert all(text.startswith("a checkpoint was not") for text in said)


@pytest.mark.parametrize("other", [{"epochs": 5}, {"learning_rate": 0.4}, {"seed": 4}])
def test_a_run_of_another_form_is_not_gone_on_with(tmp_path, other):
    for name in ("killed", "fresh"):
        (tmp_path / name).mkdir()
    run(tmp_path / "killed", dies_in=5)
    said, recipe = [], replace(RECIPE, **other)
    got = run(tmp_path / "killed", recipe=recipe, say=said.append)
    assert_same(got, run(tmp_path / "fresh", recipe=recipe))
    assert set(said) == {"begun anew: the checkpoint is of a run of another form"}


def test_a_full_disk_is_told_and_the_last_good_one_stays(tmp_path, whole, monkeypatch):
    folder = tmp_path / "full"
    folder.mkdir()
    run(folder, dies_in=6)
    good = everything(folder)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "write_aligned", full)
        assert_same(run(folder, say=said.append), whole[0])
    assert said[1].startswith("[CC600] no checkpoint at step 6: ")
    assert "No space left" in said[1]
    assert everything(folder) == good
    assert_same(run(folder), whole[0])


def test_moments_keep_the_memory_layout_of_their_weights():
    def state():
        net = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        found = RunState({"net": net}, torch.optim.AdamW(net.parameters()), Place(rate=0.1))
        net.weight.grad = torch.ones_like(net.weight)
        found.optimizer.step()
        return found, net.weight

    (saved, weight), (fresh, other) = state(), state()
    plain = {name: tensor.contiguous() for name, tensor in saved.tensors().items()}
    fresh.restore(plain, {}, saved.numbers())
    assert torch.equal(other, weight)
    moments = fresh.optimizer.state[other]["exp_avg"], saved.optimizer.state[weight]["exp_avg"]
    assert torch.equal(*moments)
    assert moments[0].stride() == moments[1].stride() == weight.stride()
