"""Rows of class scores, and what an output of them is, by hand."""

import math

from compressc.tasks import Response


def response(dim=-1):
    return Response(0, "scores", "class_scores", dim, "", "class_scores", dim)


def softmax(row, t=1.0):
    """Of a list of numbers, by its definition."""
    return [math.exp(x / t) / sum(math.exp(y / t) for y in row) for x in row]
