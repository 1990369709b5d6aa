"""Which objective goes with what an output is."""

from __future__ import annotations

from compressc.tasks import Response

#: By what is learned of an output; an embedding of length 1 is `unit_vectors`.
BY_OUTPUT = {
    "class_scores": "kd",
    "independent_scores": "bernoulli",
    "values": "scaled_mse",
    "ids": "scaled_mse",
    "embedding": "vectors",
    "unit_vectors": "cosine",
}


def objective_of(response: Response) -> str:
    """The name of the objective that goes with what an output is."""
    unit = response.learned == "embedding" and response.ending == "normalize"
    return BY_OUTPUT["unit_vectors" if unit else response.learned]
