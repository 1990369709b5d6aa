"""The line of an error is the user's: neither torch's nor ours."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from compressc.frontend.users_line import users_line

CODE = """
def call(layer, x):
    y = x + 1
    return layer(y)
"""


def module_of(path, text=CODE):
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caught(run):
    try:
        run()
    except Exception as error:
        return error
    raise AssertionError


def test_the_innermost_line_that_is_not_torchs(tmp_path, monkeypatch):
    """torch's own frames are below it, and this file's above."""
    net = module_of(tmp_path / "net.py")
    error = caught(lambda: net.call(nn.Linear(3, 2), torch.ones(2, 4)))
    assert users_line(error) == f"{tmp_path}/net.py:4, in call: return layer(y)"
    monkeypatch.chdir(tmp_path)
    assert users_line(error) == "net.py:4, in call: return layer(y)"


def test_what_is_imported_is_named_as_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "pkg").mkdir()
    net = module_of(tmp_path / "pkg" / "net.py")
    monkeypatch.syspath_prepend(tmp_path)
    error = caught(lambda: net.call(nn.Linear(3, 2), torch.ones(2, 4)))
    assert users_line(error) == "pkg/net.py:4, in call: return layer(y)"


def test_nothing_where_no_file_of_the_users_is():
    scope = {}
    exec(CODE, scope)
    error = caught(lambda: scope["call"](nn.Linear(3, 2), torch.ones(2, 4)))
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # without this file's
    assert users_line(error) == ""
