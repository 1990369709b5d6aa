"""A table of all that is installed of one family: objectives, importances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from compressc.plugins import Group
    from compressc.spec import Configured

C = TypeVar("C", bound="Configured")


def print_installed(
    family: type[C], group: Group, columns: Mapping[str, Callable[[type[C]], str]]
) -> None:
    """Print a row for each, by name, with the distribution that it is from.

    Args:
        family: the base class of all.
        group: of entry points.
        columns: title -> what a class has there. The first column is its name, the last where it
            is from.
    """
    from rich.table import Table

    from compressc.errors import CompresscError
    from compressc.plugins import distribution, find
    from compressc.report.console import Console
    from compressc.spec import load_class

    what = family.__name__.lower()
    table = Table(title=f"{what}s", title_justify="left")
    for title in (what, *columns, "from"):
        table.add_column(title)
    for name in find(group):
        try:
            cls = load_class(family, name)
        except CompresscError as error:  # one broken plugin must not hide the others
            facts = [str(error), *["-"] * (len(columns) - 1)]
        else:
            facts = [fact(cls) for fact in columns.values()]
        table.add_row(name, *facts, distribution(group, name))
    Console().print(table)
