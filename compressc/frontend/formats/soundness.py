"""Whose mistake is it? Asked only after something of ours failed on a program read from a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from compressc.quiet import quiet


def is_sound(program: torch.export.ExportedProgram) -> bool:
    """Whether torch can run a program, and every value comes out as the file says.

    A file that is not sound was forged or damaged; where it is, the importer has no excuse.
    """
    try:
        with quiet():
            _check_signature(program)
            _Checker(program.graph_module).check()
    except Exception:  # whatever torch raises: it cannot run the program
        return False
    return True


def _check_signature(program: torch.export.ExportedProgram) -> None:
    signature = program.graph_signature
    for name in (*signature.parameters, *signature.buffers):
        assert name in program.state_dict or name in program.constants
    for name in signature.lifted_tensor_constants:
        assert name in program.constants
    names = {node.name for node in program.graph.nodes}
    outputs = [output for output in signature.user_outputs if isinstance(output, str)]
    assert names.issuperset(outputs)
    program.validate()  # type: ignore[no-untyped-call]


class _Checker(fx.Interpreter):
    """Runs a graph on the fake tensors recorded for its inputs."""

    def check(self) -> None:
        places = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        values = [node.meta["val"] for node in places]
        modes = [v.fake_mode for v in values if isinstance(v, torch._subclasses.FakeTensor)]
        with modes[0], torch.no_grad():
            self.run(*values)

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if node.op == "call_function":
            assert _shape(result) == _shape(node.meta["val"]), node.name
        return result


def _shape(value: Any) -> list[str]:
    """Dtypes and sizes as text: equal sizes of two symbolic tensors are equal texts."""
    return [
        f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else str(leaf)
        for leaf in pytree.tree_leaves(value)
    ]
