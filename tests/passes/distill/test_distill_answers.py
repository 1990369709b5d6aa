"""A teacher's answers, wherever they are kept."""

from compressc_distill import Distill

from compressc.distillation import answers as answers_module
from compressc.ir import graph_hash
from compressc.pipeline import Context


def test_where_answers_are_kept_changes_no_bit(teacher, student, data, monkeypatch):
    hashes, start = [], student.copy()
    for room in (1 << 26, 0):
        monkeypatch.setattr(answers_module, "IN_MEMORY", room)
        graph = start.copy()
        Distill(epochs=2, lr=0.05).run(graph, Context(teacher, data))
        hashes.append(graph_hash(graph))
    assert hashes[0] == hashes[1] != graph_hash(start)
