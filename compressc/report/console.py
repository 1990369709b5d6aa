"""The terminal: what is printed is text, whatever is in it."""

from __future__ import annotations

from typing import Any

import rich.console


class Console(rich.console.Console):
    """rich's, that takes no string for markup: names, errors and paths are full of brackets.

    `compressc[litert]` would lose them, `:x:` become a picture, and `[/]` be an error. Style is
    given by tables and `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        """With rich's own options, but for those that read strings."""
        super().__init__(**options, markup=False, emoji=False, highlight=False)
