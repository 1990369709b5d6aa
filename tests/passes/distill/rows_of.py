"""What an output of class scores is, made by hand."""

from compressc.tasks import Response


def response(dim=-1):
    return Response(0, "scores", "class_scores", dim, "", "class_scores", dim)
