"""A module whose trace computes something else is refused; rounding is told; the rest passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import load_model
from tests.models import ZOO

X = torch.randn(4, 6)


class Branching(nn.Module):
    """Adds `when_traced` where it is traced."""

    def __init__(self, when_traced: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc, self.when_traced = nn.Linear(6, 3), when_traced

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return self.when_traced(y) if torch.compiler.is_exporting() else y


@pytest.mark.parametrize("change", [lambda y: y + 0.01, lambda y: -y, lambda y: y / 0.0])
def test_another_branch_when_traced_is_refused(change: Callable[..., torch.Tensor]) -> None:
    module = Branching(change)
    with pytest.raises(CompresscError) as caught:
        load_model(module, example=(X,))
    assert caught.value.code == "CC206"
    assert caught.value.where == "Branching"


def test_another_shape_when_traced_is_refused() -> None:
    with pytest.raises(CompresscError, match="CC206"):
        load_model(Branching(lambda y: y[:, :2]), example=(X,))


def test_rounding_is_told() -> None:
    (note,) = load_model(Branching(lambda y: y * (1 + 1e-6)), example=(X,)).notes
    assert "rounds differently" in note


def test_equal_bits_need_no_note_and_the_mode_is_kept() -> None:
    module, example = ZOO["digits_cnn"]()
    module.train()
    assert load_model(module, example=example).notes == ()
    assert all(part.training for part in module.modules())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.rand(x.shape[0], 3)


def test_a_random_model_cannot_be_compared() -> None:
    (note,) = load_model(Noisy(), example=(X,)).notes
    assert "other numbers at every run" in note


def test_weights_on_the_meta_device_have_no_numbers() -> None:
    with torch.device("meta"):
        module = nn.Linear(6, 3)
    assert load_model(module, example=(X.to("meta"),)).notes == ()


class WritesIntoItsInput(nn.Module):
    """As a fused preprocessing does: `x` is another one after the call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mul_(2))


def test_a_model_that_writes_into_its_input_is_compared_on_the_same_numbers() -> None:
    given = X.clone()
    loaded = load_model(WritesIntoItsInput(), example=(given,), input_spec=["x: f32[b,6]"])
    assert loaded.notes == ()
    assert torch.equal(given, X)  # the caller's tensor is left alone
