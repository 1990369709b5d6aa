"""Half of the blocks of every model of the zoo, at several sizes; a refusal where none repeat."""

from __future__ import annotations

import pytest
import torch
from compressc_student import Student

from compressc.analysis import find_chains, symbolize_widths, total_cost
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import run_graph, verify
from compressc.pipeline import Context
from tests.zoo import language_models, sound_models, vision_models, written
from tests.zoo.case import Case
from tests.zoo.checks import OTHERS, TRACED

MODELS = {
    **language_models.MODELS,
    **vision_models.MODELS,
    **sound_models.MODELS,
    **written.MODELS,
}
#: Models of the zoo with one block of a kind, or whose blocks stand side by side.
NONE_REPEAT = {
    *("modernbert", "t5_encoder", "t5", "regnet", "efficientnet", "segformer", "detr", "levit"),
    *("poolformer", "lstm_classifier", "gru_classifier", "shuffle_net", "grouped_convolutions"),
    *("mixture_of_experts", "wave_net", "volume_net", "generator", "tuple_output", "dict_input"),
    *("keyword_only", "digits_cnn", "dense_net", "u_net", "squeeze_excite", "tied_weights"),
    *("used_twice", "two_inputs", "rms_gated"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, make in MODELS.items()])
def test_half_of_the_blocks(name: str) -> None:
    case: Case = MODELS[name]()
    if case.refusal:
        pytest.skip("the model is not taken")
    teacher = load_model(case.module, example=case.example(**TRACED), input_spec=case.specs).graph
    symbolize_widths(teacher)
    student = teacher.copy()
    if name in NONE_REPEAT:
        with pytest.raises(CompresscError, match="CC105"):
            Student(depth=0.5).run(student, Context(teacher))
        return
    before = find_chains(teacher)
    Student(depth=0.5).run(student, Context(teacher))
    verify(student, like=teacher)
    ours, theirs = (total_cost(graph, **TRACED).macs for graph in (student, teacher))
    assert ours < theirs
    assert len(list(student)) < len(list(teacher))
    for chain in before:
        left = [all(op in student for op in member) for member in chain.members]
        assert sum(left) == (len(chain) + 1) // 2
        assert left[::2] == [True] * len(left[::2])
    for sizes in (TRACED, *OTHERS):
        example = case.example(seed=2, **sizes)
        want, got = run_graph(teacher, example), run_graph(student, example)
        assert [x.shape for x in got] == [x.shape for x in want]
        assert not all(map(torch.equal, got, want))
