"""`compressc objectives`: every installed distillation loss, and where it comes from."""

from __future__ import annotations


def objectives() -> None:
    """List the installed objectives: formula, what each reads, and its source."""
    from compressc.cli.installed import print_installed
    from compressc.distillation import Objective
    from compressc.plugins import OBJECTIVES

    print_installed(
        Objective,  # type: ignore[type-abstract]
        OBJECTIVES,
        {
            "formula": lambda cls: cls.formula,
            "reads": lambda cls: ", ".join(sorted(cls.reads)),
            "weight": lambda cls: f"{cls.default_weight:g}",
            "source": lambda cls: cls.paper,
        },
    )
