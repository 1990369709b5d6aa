"""How much a block changes what goes through it, on calibration data."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from compressc.analysis import Chain
from compressc.ir import Graph, TensorType, lower
from compressc.pipeline import Samples

#: Samples that are looked at at least, and at a time.
SAMPLES, BATCH = 256, 32


@torch.no_grad()
def likeness(graph: Graph, chain: Chain, samples: Samples, device: torch.device) -> list[float]:
    """Mean cosine of the input and the output of each member, over samples and positions.

    1 - cosine is the "block influence" of Men et al. 2024 (ShortGPT), section 3. Of several values
    that go around a block the mean counts.

    Args:
        graph: the chain's.
        chain: its members.
        samples: inputs of the model.
        device: where to run.
    """
    rows = [chain.entry, *(tuple(m[p] for p in chain.passed) for m in chain.members)]
    floats = [
        i
        for i, name in enumerate(chain.entry)
        if isinstance(type_ := graph[name].type, TensorType) and type_.dtype.is_floating_point
    ]
    names = [row[i] for row in rows for i in floats]
    dims = [_features(graph, chain, chain.entry[i]) for i in floats]
    module = lower(graph.copy(), also=names).to(device).eval()
    total, seen = torch.zeros(len(chain), dtype=torch.float64), 0
    for batch in samples.batches(BATCH):
        inputs = tuple(x.to(device) for x in batch.inputs)
        values = module(*inputs)[1]
        for number in range(len(chain)):
            for place, dim in enumerate(dims):
                before = values[number * len(dims) + place]
                after = values[(number + 1) * len(dims) + place]
                cosine = F.cosine_similarity(before.float(), after.float(), dim=dim)
                total[number] += float(cosine.mean()) * len(batch) / len(dims)
        seen += len(batch)
        if seen >= SAMPLES:
            break
    means: list[float] = (total / seen).tolist()
    return means


def _features(graph: Graph, chain: Chain, name: str) -> int:
    """The dimension of the features of a value: channels in front where blocks convolve."""
    convolves = any(graph[op].role == "convolution" for op in chain.members[0])
    type_ = graph.type_of(name)
    return 1 if convolves and len(type_.shape) > 3 else -1
