"""A teacher's answers written ahead: what is in the folder, and what a run takes of it."""

import json

import pytest
import torch
from torch import nn

import compressc
from compressc.asking import ask_teacher
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.session import open_session


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


@pytest.fixture
def data(net):
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 6, generator=draw) for n in (400, 50, 50)]
    return Dataset("rows", *(Split((x,), net(x).argmax(1)) for x in parts))


def asked(net, data, folder, **options):
    return ask_teacher(open_session(net, data=data), folder, **options)


def test_the_folder_holds_what_its_description_says(net, data, tmp_path):
    found = asked(net, data, tmp_path / "a")
    assert (found.rows, found.before) == (400, 0)
    assert found.values[0].endswith(" float32[4]")
    about = json.loads((tmp_path / "a/answers.json").read_text())
    assert about["version"] == 1
    assert about["values"] == [{"dtype": "float32", "shape": [4]}]
    rows = torch.frombuffer(bytearray((tmp_path / "a/value-0.bin").read_bytes()), dtype=torch.float)
    with torch.no_grad():
        want = net(data.train.inputs[0])
    assert torch.allclose(rows.view(400, 4), want, atol=1e-5)
    assert (tmp_path / "a/done.bin").read_bytes() == bytes([1]) * 400
    again = asked(net, data, tmp_path / "a")
    assert (again.before, again.replaced) == (400, False)


def test_answers_of_another_teacher_go_and_that_is_said(net, data, tmp_path):
    assert not asked(net, data, tmp_path).replaced
    with torch.no_grad():
        net[0].weight += 1
    other = asked(net, data, tmp_path)
    assert (other.before, other.replaced) == (0, True)


def test_half_the_bytes_in_half_the_precision(net, data, tmp_path):
    full = asked(net, data, tmp_path / "a").bytes
    half = asked(net, data, tmp_path / "b", dtype="float16")
    assert half.values[0].endswith(" float16[4]")
    assert full - half.bytes == 400 * 4 * 2


def compressed(net, data, folder):
    passes = f"prune(ratio=0.3),distill(epochs=2,answers_from='{folder}')"
    return compressc.compile(net, passes, data=data, cache=None)


def test_a_run_learns_from_them(net, data, tmp_path):
    asked(net, data, tmp_path / "a")
    done = compressed(net, data, tmp_path / "a")
    texts = [text for _, text in done.passes[-1].notes]
    assert "features are off: answers that were written ahead are of outputs alone" in texts
    # answers that are all the same teach the student to answer so: nothing else was asked
    values = tmp_path / "a/value-0.bin"
    wrong = torch.tensor([[0.0, 0.0, 0.0, 30.0]]).repeat(400, 1)
    values.write_bytes(wrong.numpy().tobytes())
    passes = f"distill(epochs=6,alpha=0,lr=0.05,answers_from='{tmp_path / 'a'}')"
    fooled = compressc.compile(net, passes, data=data, cache=None).module()
    with torch.no_grad():
        assert (fooled(data.test.inputs[0]).argmax(1) == 3).float().mean() > 0.9


@pytest.mark.parametrize("what", ["nothing", "other model", "other data", "not complete"])
def test_answers_of_something_else_are_refused(net, data, tmp_path, what):
    folder = tmp_path / "a"
    got = {
        "nothing": "no folder of answers",
        "other model": "another key",
        "other data": "another key",
        "not complete": "1 of 400 missing",
    }
    if what != "nothing":
        asked(net, data, folder)
    if what == "not complete":
        (folder / "done.bin").write_bytes(bytes([1]) * 399 + bytes(1))
    if what == "other model":
        with torch.no_grad():
            net[0].weight += 1
    if what == "other data":
        train = Split((data.train.inputs[0] + 1,), data.train.labels)
        data = Dataset("rows", train, data.calibration, data.test)
    with pytest.raises(CompresscError) as caught:
        compressed(net, data, folder)
    assert (caught.value.code, caught.value.got) == ("CC303", got[what])


def test_a_folder_that_cannot_be_written(net, data):
    with pytest.raises(CompresscError, match="CC600"):
        asked(net, data, "/dev/null/answers")


def test_without_data_there_is_nothing_to_ask(net, tmp_path):
    session = open_session(net, inputs=["input: f32[b,6]"])
    with pytest.raises(CompresscError, match="CC105"):
        ask_teacher(session, tmp_path)
