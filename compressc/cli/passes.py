"""`compressc passes`: every installed pass, and where it comes from."""

from __future__ import annotations


def passes() -> None:
    """List the installed passes: ours and those of other distributions."""
    from rich.table import Table

    from compressc.errors import CompresscError
    from compressc.pipeline import load_pass
    from compressc.plugins import PASSES, distribution, find
    from compressc.report.console import Console

    table = Table(title="passes", title_justify="left")
    for column in ("pass", "effect", "needs", "what it does", "from"):
        table.add_column(column)
    for name in find(PASSES):
        try:
            cls = load_pass(name)
        except CompresscError as error:  # one broken plugin must not hide the others
            table.add_row(name, "-", "-", str(error), distribution(PASSES, name))
            continue
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        needs = ", ".join(sorted(cls.needs)) or "-"
        table.add_row(name, cls.effect, needs, summary, distribution(PASSES, name))
    Console().print(table)
