"""`open_dataset`: names, files and functions, and what it says where they are wrong."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressc.data import Split, open_dataset
from compressc.errors import CompresscError

GOOD = """
import types, torch
from neighbour import N
def make():
    x = torch.zeros(N, 2)
    return types.SimpleNamespace(train=(x, None), calibration=(x, None), test=(x, None))
def numbers(): return [1, 2]
def fails():
    value = 1
    raise ValueError("the disk is on fire")
def leaves(): raise SystemExit(3)
LIST = [1]
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution that provides data sets: real metadata, on the real import path."""

    def install(distribution: str, entries: str, code: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0")
        (info / "entry_points.txt").write_text(f"[compressc.datasets]\n{entries}\n")
        (tmp_path / f"{distribution}_code.py").write_text(code)

    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.endswith("_code"):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path):
    (tmp_path / "neighbour.py").write_text("N = 5\n")
    path = tmp_path / "my_data.py"
    path.write_text(GOOD)
    yield path
    sys.modules.pop("neighbour", None)


def error_of(spec: object) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        open_dataset(spec)
    return caught.value


def test_installed_data_set_by_name(installed):
    installed(
        "mine",
        "spirals = mine_code:make\nclowns = nowhere:at_all",
        GOOD.replace("from neighbour import N", "N = 5"),
    )
    data = open_dataset("spirals")
    assert (data.name, len(data.train)) == ("spirals", 5)


def test_unknown_name_suggests_the_nearest(installed):
    installed("mine", "spirals = mine_code:make", "")
    error = error_of("sprials")
    assert error.code == "CC107"
    assert "did you mean 'spirals'?" in error.hint
    assert "did you mean" not in error_of("qqqq").hint
    assert "file.npz" in error_of("qqqq").hint


def test_broken_plugins_are_named(installed):
    installed(
        "mine",
        "a = gone_module:make\nb = mine_code:fails\nc = mine_code:number\nd = mine_code:none",
        "def fails(): raise KeyError('k')\ndef number(): return 3",
    )
    for name, got in (
        ("a", "ModuleNotFoundError"),
        ("b", "KeyError"),
        ("c", "int"),
        ("d", "AttributeError"),
    ):
        error = error_of(name)
        assert error.code == "CC106"
        assert got in error.got
        assert "of mine" in error.where


def test_two_distributions_may_not_share_a_name(installed):
    installed("one", "spirals = one_code:make", "")
    installed("two", "spirals = two_code:make", "")
    error = error_of("spirals")
    assert (error.code, error.got) == ("CC106", "one 1.0 and two 1.0")


def test_objects_are_taken_as_they_are():
    s = Split((torch.zeros(2, 2),))
    data = open_dataset(SimpleNamespace(train=s, calibration=s, test=s))
    assert open_dataset(data) is data
    assert error_of(3).got == "int"


def test_function_of_a_file(script):
    path = list(sys.path)
    data = open_dataset(f"{script}:make")
    assert (data.name, len(data.test)) == ("my_data.py:make", 5)
    assert sys.path == path
    assert "my_data" not in sys.modules


def test_function_mistakes_point_into_the_file(script):
    error = error_of(f"{script}:fails")
    assert error.got == "ValueError: the disk is on fire"
    assert error.where == f"{script}:10"
    assert "SystemExit" in error_of(f"{script}:leaves").got
    assert error_of(f"{script}:numbers").got == "list"
    assert "did you mean 'make'?" in error_of(f"{script}:mak").hint
    assert "make" in error_of(f"{script}:zzzz").hint
    assert error_of(f"{script}:LIST").code == "CC300"
    assert error_of(f"{script.parent}/none.py:make").got == "no such file"
    assert error_of(str(script)).hint.endswith("my_data.py:function")
    assert error_of(f"{script}:").hint.endswith("my_data.py:function")
    script.write_text("x = 1\ndef make(:\n")
    assert error_of(f"{script}:make").where == f"{script}:2"
    assert sys.path[0] != str(script.parent)


CODE_THAT_ENDS_THINGS = """
import sys
class Odd(BaseException): pass
class Mute(Exception):
    def __str__(self): raise RuntimeError
class Lazy:
    @property
    def train(self): raise ValueError("the disk is gone")
def odd(): raise Odd("strange")
def mute(): raise Mute
def lazy(): return Lazy()
NUMBER = 3
"""


@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("odd", "Odd: strange"),
        ("mute", "Mute: no text, RuntimeError"),
        ("lazy", "ValueError: the disk is gone"),
        ("NUMBER", "a int"),
    ],
)
def test_whatever_the_function_raises_points_into_the_file(tmp_path, function, got):
    path = tmp_path / "strange.py"
    path.write_text(CODE_THAT_ENDS_THINGS)
    error = error_of(f"{path}:{function}")
    assert (error.code, error.got) == ("CC300", got)
    assert error.where.startswith(str(path))


@pytest.mark.parametrize("spec", ["data.csv", "folder/", "folder/data", "C:\\data", "a:b", ""])
def test_what_is_neither_name_nor_file(spec):
    error = error_of(spec)
    assert error.code in ("CC300", "CC107")
    assert "\n" not in str(error)


def test_numpy_is_not_reseeded(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 2)))
    np.random.seed(5)
    wanted = np.random.rand()
    np.random.seed(5)
    open_dataset(str(tmp_path / "d.npz"))
    assert np.random.rand() == wanted
