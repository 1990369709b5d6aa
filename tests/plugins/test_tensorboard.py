"""The observer `tensorboard`: what it writes reads back with TensorBoard's own reader."""

import sys

import pytest

from compressc.errors import CompresscError
from compressc.events import Event
from compressc.observers import audience, parse_observers


def test_curves_of_losses_scores_and_parameters(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with audience(parse_observers(f"tensorboard(folder='{tmp_path}')")) as heard:
        heard(Event("pass", {"pass": "distill(epochs=2)", "number": 2, "passes": 3}))
        for step, loss in ((5, 0.5), (10, 0.25)):
            facts = {"step": step, "losses": {"kd": loss}, "scores": {"accuracy": 1 - loss}}
            heard(Event("epoch", facts))
        heard(Event("progress", {"what": "x", "done": 1, "total": 2}))
        heard(Event("pass_done", {"number": 2, "parameters": 1234}))
    assert not heard.failures
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    curve = [(point.step, point.value) for point in found.Scalars("02-distill/losses/kd")]
    assert curve == [(5, 0.5), (10, 0.25)]
    assert found.Scalars("02-distill/scores/accuracy")[1].value == 0.75
    assert found.Scalars("parameters")[0].value == 1234


def test_without_tensorboard_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(CompresscError, match=r"CC106.*compressc\[tensorboard\]"),
        audience(parse_observers("tensorboard")),
    ):
        pytest.fail("it must not begin")
