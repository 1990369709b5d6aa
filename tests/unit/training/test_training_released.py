"""Checkpoints that other versions of compressc left behind."""

import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import released_checkpoint as released
import torch
from safetensors.torch import load_file

from compressc.training import checkpoint as module_under_test

#: The bias of a layer that a batch norm follows, and the mean that takes it off again: its gradient
#: is nothing but rounding, which Adam makes as large as any other.
OFFSETS = {"net.0.bias", "net.1.running_mean"}
RELEASES = sorted(Path(__file__).with_name("released").iterdir())


@pytest.fixture
def left_behind(tmp_path):
    """A copy of what a release left, to go on from."""

    def copy(release):
        folder = tmp_path / release.name
        shutil.copytree(release, folder)
        return folder

    return copy


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_it_goes_on_from_what_a_release_left(release, left_behind, tmp_path, monkeypatch):
    """To the same bytes, where the processor rounds as the one that wrote them did."""
    monkeypatch.setattr(module_under_test, "KEPT", 1000)
    (tmp_path / "whole").mkdir()
    want, whole = released.run(tmp_path / "whole")
    folder, said = left_behind(release), []
    got, tensors = released.run(folder, say=said.append)
    assert said == ["went on behind batch 2 of epoch 2"]
    place = released.last(release)
    state = place / "state.safetensors"
    theirs, ours = load_file(state), load_file(tmp_path / "whole" / place.name / state.name)
    same_machine = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(got.history) == 4
    if same_machine:
        assert got == want
        assert all(torch.equal(tensors[name], whole[name]) for name in whole)
        last = released.last(tmp_path / "whole").name
        for name in ("state.safetensors", "best.safetensors", "state.json"):
            assert (folder / last / name).read_bytes() == (
                tmp_path / "whole" / last / name
            ).read_bytes()
    for name in set(tensors) - OFFSETS:
        torch.testing.assert_close(tensors[name], whole[name], rtol=1e-3, atol=1e-4)
    # it was read, not made again: the first epoch is the one of the file
    sealed = json.loads((place / "state.json").read_text())
    first = json.loads(sealed["content"])["numbers"]["place"]["history"][0]
    assert (got.history[0].loss, list(got.history[0].score)) == (first["loss"], first["score"])


def test_what_a_later_version_left_is_not_read_and_that_is_said(left_behind):
    folder, said = left_behind(RELEASES[-1]), []
    with written_anew(folder) as content:
        content["format"] = 99
    got, _ = released.run(folder, say=said.append)
    assert said == [
        "begun anew: the checkpoint is of a later version, format 99; this one reads up to 1"
    ]
    assert len(got.history) == 4


@pytest.mark.parametrize(
    ("option", "said_first"),
    [
        ("warmup", "went on behind batch 2 of epoch 2"),  # what the run has is the default
        ("ema", "begun anew: the checkpoint is of a run of another form"),
    ],
)
def test_an_option_that_came_later_counts_as_its_default(left_behind, option, said_first):
    folder, said = left_behind(RELEASES[-1]), []
    with written_anew(folder) as content:
        del content["about"]["recipe"][option]
    released.run(folder, say=said.append)
    assert said == [said_first]


@contextmanager
def written_anew(folder):
    """The numbers of the last checkpoint, to change; sealed again afterwards."""
    path = released.last(folder) / "state.json"
    content = json.loads(json.loads(path.read_text())["content"])
    yield content
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "content": text}))
