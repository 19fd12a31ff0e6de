"""Names and values below each other, folded to the width of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from raypost.cli.output import console


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print one fact a line, long ones folded below themselves; what is None or empty is left out.

    A name that is empty goes on with the fact above.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value is not None and value != "":
            grid.add_row(name, escape(str(value)))
    console.print(grid)
