"""One rule per op: which axes its result has, given the axes of its operands.

A rule returns the axes, or None where this call is beyond it; the analysis then freezes everything
the op touches.
"""

from __future__ import annotations

import torch

from compressc.analysis.coupling_rules import arithmetic, layers, products, shapes
from compressc.analysis.coupling_rules.arithmetic import pointwise
from compressc.analysis.coupling_rules.rule import Rule, Values
from compressc.ir import Op
from compressc.ir.ops import overload

__all__ = ["RULES", "Rule", "Values", "rule_for"]

#: Op kind -> rule. Pointwise ATen ops need no entry: torch tags them.
RULES: dict[str, Rule] = {
    **layers.RULES,
    **shapes.RULES,
    **arithmetic.RULES,
    **products.RULES,
}


def rule_for(op: Op) -> Rule | None:
    """The rule of an op, or None where it has none."""
    if op.kind in RULES:
        return RULES[op.kind]
    if op.layer is None and op.kind != "input":
        target = overload(op.kind)
        tags = getattr(target, "tags", ())
        if torch.Tag.pointwise in tags and op.inputs:
            return pointwise
    return None
