"""A run as a value: modules, optimizer, best state and numbers, to be saved and to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressc.training.averaging import Average
from compressc.training.best import BestState
from compressc.training.place import Place
from compressc.training.sharding import write

_MODULES, _OPTIMIZER, _AVERAGE = "modules", "optimizer", "average"


@dataclass
class RunState:
    """All that a run is, between two steps.

    There is no generator in it: order and dropout of a step are functions of seed and place.

    Attributes:
        modules: what is trained, by name.
        optimizer: with its moments.
        place: how far it is.
        ema: decay of a moving average of the weights, or 0 for none.
        best: the best state so far.
        average: of the weights, or None.
    """

    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    place: Place
    ema: float = 0.0
    best: BestState = field(init=False)
    average: Average | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        live = tensors_of(self.modules)
        self.best = BestState(live)
        if self.ema:
            weights = {n: t for n, t in live.items() if isinstance(t, nn.Parameter)}
            buffers = {n: t for n, t in live.items() if n not in weights}
            self.average = Average(weights, buffers, self.ema)

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors but for the best state: of modules and of the optimizer."""
        found = {f"{_MODULES}.{name}": t for name, t in tensors_of(self.modules).items()}
        for name, value in self._optimizer_state().items():
            if isinstance(value, Tensor):
                found[f"{_OPTIMIZER}.{name}"] = value
        if self.average is not None:
            found |= {f"{_AVERAGE}.{name}": t for name, t in self.average.tensors.items()}
        return found

    def numbers(self) -> dict[str, Any]:
        """All that is no tensor, as JSON."""
        plain = {n: v for n, v in self._optimizer_state().items() if not isinstance(v, Tensor)}
        best = {"score": self.best.score, "epoch": self.best.epoch}
        return {"place": self.place.model_dump(), "optimizer": plain, "best": best}

    def restore(
        self, tensors: Mapping[str, Tensor], best: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> None:
        """Be what was saved, whatever this state was; tensors of the modules are written in place.

        Args:
            tensors, numbers: of the methods of these names.
            best: of `best.tensors()`.

        Raises:
            KeyError, RuntimeError, ValueError: where they are of a run of another kind.
        """
        place = Place.model_validate(numbers["place"])
        live = tensors_of(self.modules)
        found = {name: tensors[f"{_MODULES}.{name}"] for name in live}
        for name, tensor in live.items():
            write(tensor, found[name])
        for name, tensor in (self.average.tensors if self.average else {}).items():
            write(tensor, tensors[f"{_AVERAGE}.{name}"])
        moments = _below(_OPTIMIZER, tensors)
        self._restore_optimizer({**moments, **numbers["optimizer"]})
        if numbers["best"]["score"] is not None:
            self.best.take(best, tuple(numbers["best"]["score"]), numbers["best"]["epoch"])
        self.place = place

    def _optimizer_state(self) -> dict[str, Any]:
        """Flat: `3.exp_avg` for the fourth parameter; in an order of its own."""
        state: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        flat = {f"{i}.{name}": value for i, own in state.items() for name, value in own.items()}
        return dict(sorted(flat.items()))

    def _restore_optimizer(self, flat: Mapping[str, Any]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in flat.items():
            number, _, key = name.partition(".")
            index = int(number)
            state.setdefault(index, {})[key] = _like(value, parameters[index])
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def tensors_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by `module.name`, each once.

    Not `state_dict`: that leaves out the buffers a module declares non-persistent.
    """
    return {
        f"{own}.{name}": tensor
        for own, module in modules.items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def _like(value: object, parameter: nn.Parameter) -> object:
    """A moment in the memory layout of its parameter: kernels round by it."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return write(torch.empty_like(parameter, dtype=value.dtype, requires_grad=False), value)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
