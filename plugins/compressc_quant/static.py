"""`quant(mode=static)`: nncf says where integers go, our calibration in which ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from compressc.ir import Graph, retype
from compressc_quant.bias import channel_means, correct_biases, some
from compressc_quant.calibrating import (
    Progress,
    Ranges,
    observe_ranges,
    read_by_quantizers,
    set_ranges,
)
from compressc_quant.carry import carry_over
from compressc_quant.hiding import computes_floats, unobservable
from compressc_quant.narrowing import quantize_what_can
from compressc_quant.observing import Settings, observe
from compressc_quant.placing import round_joins, round_once, round_results
from compressc_quant.restoring import held_layers
from compressc_quant.tracing import trace
from compressc_quant.tying import share_weights
from compressc_quant.weights import WeightOptions, round_anew

#: What is done to a graph some of whose ops were put back to float.
Finish = Callable[[Graph], object]


def nothing_to_finish(graph: Graph) -> None:
    """Of modes that correct nothing, and behind a training."""


@dataclass(frozen=True)
class Made:
    """What a mode has done, and what can be done yet.

    Attributes:
        told: op -> why a decision of nncf found no place.
        finish: see `Finish`.
        improve: rounds weights in a better way that takes longer.
        far: whether outputs are so far off that it is worth it.
    """

    told: Mapping[str, str] = field(default_factory=dict)
    finish: Finish = nothing_to_finish
    improve: Finish = nothing_to_finish
    far: bool = False


@dataclass(frozen=True)
class Static:
    """How values and weights are rounded.

    Attributes:
        settings: what nncf is told.
        bias_correction: whether the mean error of each layer goes out through its bias.
        narrow: of weights with fewer bits than 8.
    """

    settings: Settings
    bias_correction: bool
    narrow: WeightOptions | None = None

    def apply(
        self,
        graph: Graph,
        batches: Sequence[tuple[torch.Tensor, ...]],
        progress: Progress = lambda done, total: None,
    ) -> tuple[dict[str, str], Finish, Ranges]:
        """Quantize in place; op -> why a decision of nncf found no place.

        Raises:
            CompresscError: CC601 where nncf fails, CC301 for samples that are all the same.
        """
        settings, first = self.settings, some(batches)
        means = channel_means(graph, first) if self.bias_correction else []
        traced = trace(graph, batches[0])
        module = traced.module
        quantized, hidden = quantize_what_can(
            module,
            unobservable(graph, traced),
            # where quantizers are does not depend on data, and ranges are observed below
            attempt=lambda: observe(module, batches if settings.smooth else batches[:1], settings),
            probe=lambda: observe(module, batches[:1], settings),
        )
        nodes = {node.name: node for node in module.graph.nodes}
        told = {
            traced.origin[name]: f"it stays in float: {why}"
            for name, why in hidden.items()
            if why and name in traced.origin and computes_floats(nodes[name], module)
        }
        before, plain = held_layers(graph), graph.copy()
        carry_over(graph, traced, quantized, told.__setitem__)
        share_weights(graph, before)
        if self.narrow is not None:
            round_anew(graph, self.narrow, before)
        # smoothed values are others than before: theirs are nncf's
        names = [] if settings.smooth else read_by_quantizers(graph, plain)
        ranges = observe_ranges(plain, names, batches, progress)
        set_ranges(graph, ranges)
        round_results(graph, batches, settings.symmetric)
        round_once(graph)
        round_joins(graph)
        finish = partial(correct_biases, means=means, batches=first)
        finish(graph)
        retype(graph)
        return told, finish, ranges
