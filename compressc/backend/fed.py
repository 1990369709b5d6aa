"""What a file is fed where student and teacher see views of their own: what its graph reads."""

from __future__ import annotations

from dataclasses import dataclass

from compressc.backend.backend import Runner
from compressc.ir import Graph
from compressc.pipeline import Samples


@dataclass(frozen=True)
class Fed:
    """A graph that takes what it reads alone.

    Attributes:
        graph: without the inputs that nothing reads.
        places: of those that are left, among all.
        every: how many there were.
    """

    graph: Graph
    places: tuple[int, ...]
    every: int

    @classmethod
    def of(cls, graph: Graph, *, narrow: bool) -> Fed:
        """Of a graph, which is left as it is; with all of its inputs unless it is narrowed."""
        inputs = graph.inputs
        read = tuple(i for i, op in enumerate(inputs) if not narrow or graph.users(op.name))
        if len(read) == len(inputs):
            return cls(graph, read, len(inputs))
        left = graph.copy()
        for place, op in enumerate(inputs):
            if place not in read:
                left.erase(op.name)
        return cls(left, read, len(inputs))

    def samples(self, samples: Samples) -> Samples:
        """The same samples with these inputs."""
        if len(self.places) == self.every:
            return samples
        return samples.cast(lambda inputs: tuple(inputs[place] for place in self.places))

    def runner(self, run: Runner) -> Runner:
        """A file that is given all inputs, and takes these."""
        if len(self.places) == self.every:
            return run
        return lambda *inputs: run(*(inputs[place] for place in self.places))
