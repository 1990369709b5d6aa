"""A model of the user's own in the place of the teacher."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from student_nets import rows, stack

from compressc.distillation import find_pairs
from compressc.errors import CompresscError
from compressc.ir import Graph, run_graph
from compressc.pipeline import Context, Pipeline, parse_pass
from compressc.testing import check_coverage, check_pass, export_graph

HEAD = "import torch\nfrom torch import nn\nfrom neighbour import WIDTH\n"
GOOD = """
def build():
    return Net()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
"""


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 5\n")

    def write(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(HEAD + textwrap.dedent(body))
        return f"{path}:build"

    return write


def student(reference: str, graph: Graph, data=None) -> Graph:
    pass_ = parse_pass(f'student(factory="{reference}")')
    return check_pass(pass_, graph, data).graph


@pytest.mark.parametrize("data", [None, rows(6)], ids=["without data", "with data"])
def test_it_computes_what_the_module_does(write, data):
    teacher = stack()
    made = student(write(GOOD), teacher, data)
    assert [op.name for op in made] == ["x", "a", "relu", "b"]
    assert not any(op.lineage for op in made)
    assert find_pairs(made, teacher) == {}
    x = torch.randn(4, 6)
    weights = made.tensors()
    hidden = torch.relu(x @ weights["a.weight"].T + weights["a.bias"])
    want = hidden @ weights["b.weight"].T + weights["b.bias"]
    torch.testing.assert_close(run_graph(made, (x,))[0], want)


def test_inputs_of_other_names_go_by_their_order(write):
    """And an op of the student may be called as an input of the teacher."""
    other = GOOD.replace("def forward(self, x)", "def forward(self, picture)")
    other = other.replace("relu(self.a(x))", "relu(self.x(picture))").replace("self.a,", "self.x,")
    made = student(write(other), stack())
    assert [op.name for op in made.inputs] == ["x"]
    assert [op.kind for op in made] == ["input", "linear", "relu", "linear"]


def test_its_weights_follow_the_seed(write):
    reference = write(GOOD)
    pass_ = parse_pass(f'student(factory="{reference}")')
    first, again, other = (
        Pipeline([pass_], seed=seed).run(stack())[0].graph.tensors()["a.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_teachers_output_keeps_its_form(write):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(6, 2)

        def forward(self, x):
            return {"logits": self.head(x)}

    made = student(write(GOOD), export_graph(Named().eval(), torch.randn(2, 6)))
    assert list(made.outputs) == ["logits"]


def refused(reference: str, graph: Graph) -> CompresscError:
    with pytest.raises(CompresscError) as caught:
        parse_pass(f'student(factory="{reference}")').run(graph.copy(), Context(graph))
    return caught.value


def test_another_output_is_refused(write):
    error = refused(write(GOOD.replace("nn.Linear(WIDTH, 2)", "nn.Linear(WIDTH, 3)")), stack())
    assert error.code == "CC207"
    assert error.wanted.endswith("f32[b,2]")
    assert error.got == "f32[b,3]"
    assert "mine.py:build" in error.where


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def build():\n    return 3\n", "CC100"),
        ("def other():\n    return 3\n", "CC100"),
        ("def build():\n    raise ValueError('no')\n", "CC100"),
        (GOOD.replace("def forward(self, x)", "def forward(self, x, y)"), "CC204"),
        (GOOD.replace("nn.Linear(6, WIDTH)", "nn.Linear(7, WIDTH)"), "CC204"),
    ],
)
def test_what_is_no_student(write, body, code):
    error = refused(write(body), stack())
    assert error.code == code, error


def test_everything_gives_way(write):
    coverage = check_coverage(parse_pass(f'student(factory="{write(GOOD)}")'), stack())
    assert coverage.share == 1.0


def test_its_result_is_not_kept_in_a_cache(write):
    assert parse_pass(f'student(factory="{write(GOOD)}")').code().unknown
    assert not parse_pass("student").code().unknown
