"""`compressc doctor`: what this installation has, and which kernels it will use."""

from __future__ import annotations


def doctor() -> None:
    """Show versions, kernels and plugins, with the reason for each choice."""
    from rich.table import Table

    from compressc.backend import Backend
    from compressc.kernels import dispatch
    from compressc.plugins import BACKENDS, GROUPS, find
    from compressc.report.console import Console
    from compressc.report.machine import describe_machine, library_versions
    from compressc.spec import load_class

    console = Console()
    versions = Table("library", "version", title="versions", title_justify="left")
    for name, version in library_versions().items():
        versions.add_row(name, version)
    console.print(versions)
    kernels = Table("operator", "runs", "why", title="kernels", title_justify="left")
    for row in dispatch.table():
        kernels.add_row(*row)
    console.print(kernels)
    for group in GROUPS:
        names = ", ".join(find(group)) or "none"
        console.print(f"{group.nouns}: {names}")
    for name in find(BACKENDS):
        lacks = load_class(Backend, name).missing()  # type: ignore[type-abstract]
        if lacks:
            console.print(f"back end {name} cannot write here: {lacks}")
    facts = ", ".join(f"{key} {value}" for key, value in describe_machine().items())
    console.print(f"machine: {facts}")
