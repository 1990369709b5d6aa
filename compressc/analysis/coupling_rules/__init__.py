"""One rule per op: which axes its result has, given the axes of its operands.

A rule says of every axis it is given what becomes of it: carried on, unified with another, or
frozen with a reason. It returns None where this call is beyond it; the analysis then freezes
everything the op touches, as it does for an op without a rule.
"""

from __future__ import annotations

import torch

from compressc.analysis.coupling_rules import (
    arithmetic,
    indexing,
    layers,
    moving,
    products,
    shapes,
)
from compressc.analysis.coupling_rules.arithmetic import pointwise
from compressc.analysis.coupling_rules.rule import Rule, Values
from compressc.ir import Op, Role
from compressc.ir.ops import overload

__all__ = ["FAMILIES", "ROLES", "RULES", "Rule", "Values", "rule_for"]

#: Role of a layer -> rule.
ROLES: dict[Role, Rule] = {**layers.ROLES, **moving.ROLES}
#: Op kind -> rule: overloads that are unlike the others of their name, and layers without a role.
RULES: dict[str, Rule] = {**arithmetic.RULES, **layers.RULES, **shapes.RULES}
#: Name of an ATen op -> rule of all its overloads. Pointwise ones need no entry: torch tags them.
FAMILIES: dict[str, Rule] = {
    **arithmetic.FAMILIES,
    **indexing.FAMILIES,
    **layers.FAMILIES,
    **moving.FAMILIES,
    **products.FAMILIES,
    **shapes.FAMILIES,
}


def rule_for(op: Op) -> Rule | None:
    """The rule of an op, or None where it has none."""
    if op.kind in RULES:
        return RULES[op.kind]
    if op.role is not None:
        # the scales of a stored weight do not follow
        return ROLES[op.role] if op.weight_form is None else None
    namespace, _, name = op.packet.partition(".")
    if op.layer is not None or not name:
        return None
    if torch.Tag.pointwise in getattr(overload(op.kind), "tags", ()) and op.inputs:
        return pointwise
    return FAMILIES.get(name) if namespace == "aten" else None
