"""`compressc importances`: every installed score of a channel, and where it comes from."""

from __future__ import annotations


def importances() -> None:
    """List the installed importances: formula, what each reads on calibration data, its source."""
    from compressc.cli.installed import print_installed
    from compressc.importance import Importance
    from compressc.plugins import IMPORTANCES

    print_installed(
        Importance,  # type: ignore[type-abstract]
        IMPORTANCES,
        {
            "formula": lambda cls: cls.formula,
            "reads": lambda cls: ", ".join(sorted(cls.reads)) or "weights alone",
            "source": lambda cls: cls.paper,
        },
    )
