"""`compressc objectives`: every installed distillation loss, and where it comes from."""

from __future__ import annotations


def objectives() -> None:
    """List the installed objectives: formula, what each reads, and its source."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from compressc.distillation import Objective
    from compressc.errors import CompresscError
    from compressc.plugins import OBJECTIVES, distribution, find
    from compressc.spec import load_class

    table = Table(title="objectives", title_justify="left")
    for column in ("objective", "formula", "reads", "weight", "source", "from"):
        table.add_column(column)
    for name in find(OBJECTIVES):
        where = distribution(OBJECTIVES, name)
        try:
            cls: type[Objective] = load_class(Objective, name)  # type: ignore[type-abstract]
        except CompresscError as error:  # one broken plugin must not hide the others
            table.add_row(name, escape(str(error)), "-", "-", "-", where)
            continue
        facts = (escape(cls.formula), ", ".join(sorted(cls.reads)), f"{cls.default_weight:g}")
        table.add_row(name, *facts, escape(cls.paper), where)
    Console().print(table)
