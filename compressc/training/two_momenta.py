"""SGD with a momentum of its own for what the labels teach: the distillation-oriented trainer.

The gradients of the two losses disagree, and a common momentum keeps what is left of both. With a
smaller momentum for the labels and a larger one for the teacher the second leads the way (Zhao et
al. 2023, DOT, arXiv 2307.08436):

    v_labels  <- g_labels  + (momentum - delta) * v_labels
    v_teacher <- g_teacher + (momentum + delta) * v_teacher
    weights   <- weights - rate * (v_labels + v_teacher)

The decay of weights is with the labels. With delta 0 this is SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LABELS, _TEACHER = "labels", "teacher"


class TwoMomenta(torch.optim.Optimizer):
    """SGD whose gradients come in two parts.

    Args:
        groups: of parameters, as any optimizer takes them, with `weight_decay`.
        momentum: the middle of both momenta.
        delta: half of what they differ by, at least 0; `momentum + delta` is below 1.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, delta: float = 0.0
    ) -> None:
        if not 0 <= delta <= momentum or momentum + delta >= 1:
            raise ValueError(f"momentum {momentum} and delta {delta}: both momenta in 0 to 1")
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.momenta = {_LABELS: momentum - delta, _TEACHER: momentum + delta}
        self._aside: dict[nn.Parameter, Tensor] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and the part of them that is the labels'."""
        super().zero_grad(set_to_none)
        self._aside = {}

    def put_aside(
        self, parameters: Sequence[nn.Parameter], slopes: Sequence[Tensor | None]
    ) -> None:
        """Add to the labels' part of the gradients; `grad` holds that of all."""
        for parameter, slope in zip(parameters, slopes, strict=True):
            known = self._aside.setdefault(parameter, torch.zeros_like(parameter))
            if slope is not None:
                known += slope

    @property
    def aside(self) -> Mapping[nn.Parameter, Tensor]:
        """The labels' part of the gradients, to be averaged and clipped with them, in place."""
        return self._aside

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step by `grad`, of which `aside` is the labels' part."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        assert parameter.grad is not None
        labels = self._aside.get(parameter, torch.zeros_like(parameter))
        parts = {_LABELS: labels + decay * parameter, _TEACHER: parameter.grad - labels}
        state = self.state[parameter]
        for name, slope in parts.items():
            kept = state.get(name)
            state[name] = slope if kept is None else slope + self.momenta[name] * kept
            parameter.sub_(rate * state[name])
