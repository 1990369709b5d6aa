"""One architecture of the zoo: how it is built and what it is fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A model with random weights.

    Attributes:
        name: what it is called in the table.
        module: in eval mode.
        inputs: name in `forward` (a path where it is nested) -> type and, for integers, the bound:
            `i64[b,s]<97`.
        inexact: why its own code computes other bits when it is traced, where it does.
        refusal: code of the error that says why the model is not taken, where it is not.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, str]
    inexact: str = ""
    refusal: str = ""

    @property
    def specs(self) -> tuple[str, ...]:
        """The inputs as `--input` takes them."""
        return tuple(f"{name}: {text.partition('<')[0]}" for name, text in self.inputs.items())

    @property
    def batches(self) -> set[str]:
        """The open first dimensions: a model of images and texts may have one for each."""
        first = (text.partition("[")[2].partition(",")[0] for text in self.inputs.values())
        return {size for size in first if size.isidentifier()}

    def example(self, seed: int = 0, **sizes: int) -> tuple[torch.Tensor, ...]:
        """Inputs at given sizes of the open dimensions."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(_tensor(text, sizes, generator) for text in self.inputs.values())

    def call(self, example: tuple[torch.Tensor, ...]) -> object:
        """What the user's module gives; `batch.ids` is an entry of the dict `batch`."""
        arguments: dict[str, Any] = {}
        for path, tensor in zip(self.inputs, example, strict=True):
            name, _, key = path.partition(".")
            if key:
                arguments.setdefault(name, {})[key] = tensor
            else:
                arguments[name] = tensor
        return self.module(**arguments)


class Zoo(dict[str, Callable[[], Case]]):
    """Name -> function that builds the case with seeded weights."""

    def add(
        self,
        name: str,
        build: Callable[[], nn.Module],
        inputs: Mapping[str, str],
        *,
        inexact: str = "",
        refusal: str = "",
    ) -> None:
        """Put a model in; see `Case` for what the words mean."""

        def make() -> Case:
            torch.manual_seed(0)
            module = build().eval()
            _enliven(module)
            return Case(name, module, inputs, inexact, refusal)

        self[name] = make


@torch.no_grad()
def _enliven(module: nn.Module) -> None:
    """Numbers of a trained model's size everywhere, so that no fault hides behind a zero."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif parameter.dim() == 1:
            parameter.uniform_(0.5, 1.5)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)


def _tensor(text: str, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
    head, _, bound = text.partition("<")
    dims = head.partition("[")[2].rstrip("]").split(",")
    shape = [int(dim) if dim.isdigit() else sizes[dim] for dim in dims]
    if head.startswith("i64"):
        return torch.randint(0, int(bound), shape, generator=generator)
    return torch.randn(shape, generator=generator)
