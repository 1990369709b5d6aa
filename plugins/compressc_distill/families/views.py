"""A student that sees something else of a sample than its teacher does.

Gupta, Hoffman and Malik 2016 (arXiv 1507.00448), cross modal distillation: pairs of views of the
same samples are enough, the teacher's answers carry over what it saw.
"""

from __future__ import annotations

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context


def names_in(text: str) -> tuple[str, ...]:
    """The inputs that were named, with commas between them.

    Raises:
        ValueError: for a name that is empty, or there twice.
    """
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"student_inputs names inputs of the data, each once, not {text!r}")
    return names


def require_view(graph: Graph, names: tuple[str, ...], ctx: Context) -> None:
    """See that a student reads the inputs that it should, and none of the teacher's.

    Raises:
        CompresscError: CC207 where it reads others, or one of them nowhere.
    """
    read = tuple(op.name for op in graph.inputs if graph.users(op.name))
    if set(read) != set(names):
        wanted = f"a student that reads {', '.join(names)} alone"
        hint = "student(factory='file.py:function') in front, whose forward takes these names"
        raise CompresscError("CC207", wanted, got=", ".join(read), where="distill", hint=hint)
    theirs = ", ".join(op.name for op in ctx.teacher.inputs if ctx.teacher.users(op.name))
    ctx.note(graph.name, f"the student reads {', '.join(names)}, the teacher {theirs}")
