"""`compressc importances`: every installed score of a channel, and where it comes from."""

from __future__ import annotations


def importances() -> None:
    """List the installed importances: formula, what each reads on calibration data, its source."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from compressc.errors import CompresscError
    from compressc.importance import Importance
    from compressc.plugins import IMPORTANCES, distribution, find
    from compressc.spec import load_class

    table = Table(title="importances", title_justify="left")
    for column in ("importance", "formula", "reads", "source", "from"):
        table.add_column(column)
    for name in find(IMPORTANCES):
        where = distribution(IMPORTANCES, name)
        try:
            cls: type[Importance] = load_class(Importance, name)  # type: ignore[type-abstract]
        except CompresscError as error:  # one broken plugin must not hide the others
            table.add_row(name, escape(str(error)), "-", "-", where)
            continue
        reads = ", ".join(sorted(cls.reads)) or "weights alone"
        table.add_row(name, escape(cls.formula), reads, escape(cls.paper), where)
    Console().print(table)
