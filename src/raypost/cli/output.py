"""How commands answer: JSON with --json, else a table or a few plain lines; errors as code, what, meaning, do."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from raypost.errors import RaypostError
from raypost.model.person import DISPLAY_NAME_LENGTH_MAX
from raypost.model.units import size_text
from raypost.node import logs
from raypost.settings import Settings, load

P = ParamSpec("P")
R = TypeVar("R")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", envvar="RAYPOST_CONFIG", help="The site's raypost.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
DEFAULT_CONFIG = Path("raypost.toml")
PIPED_WIDTH = 250
"""Columns where nobody's terminal says how many there are: nothing is cut off in a pipe."""

GAP = 2
"""Columns between two columns."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def answer(as_json: bool, shape: Any, show: Callable[[], None]) -> None:
    """Print a command's result."""
    if as_json:
        sys.stdout.write(json.dumps(shape, indent=2, ensure_ascii=False) + "\n")
    else:
        show()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print rows as a table, or one sentence when there are none.

    Where the terminal is too narrow for it, each row is a few lines of name and value: no word is broken.
    """
    if not rows:
        console.print(empty, markup=False)
        return
    cells = [["" if cell is None else str(cell).replace("[", "\\[") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + GAP * (len(columns) - 1) > console.width:
        _show_blocks(columns, cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _show_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as lines of name and value, with an empty line between rows."""
    for number, row in enumerate(rows):
        if number:
            console.print()
        block = Table.grid(padding=(0, GAP, 0, 0))
        block.add_column(style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for name, cell in zip(columns, row, strict=True):
            if cell:
                block.add_row(name, cell)
        console.print(block)


def settings_of(file: Path) -> Settings:
    """Read the configuration and set up logging."""
    logs.configure("raypost")
    return load(file)


def person() -> str:
    """Return who gives the order: the login name on this machine, also of somebody who types it through sudo.

    It is written down, not proven: whoever may type commands here may do everything (docs/explanation/who-may-what.md).
    """
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def full_name(login: str) -> str:
    """Return the name for people that this machine knows of a login name, else that name itself."""
    try:
        said = pwd.getpwnam(login).pw_gecos.split(",")[0].strip()
    except KeyError:
        return login
    return said if said and said.isprintable() and len(said) <= DISPLAY_NAME_LENGTH_MAX else login


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of ours into their text and exit code."""

    @wraps(command)
    def _guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except RaypostError as error:
            if kwargs.get("as_json"):
                sys.stdout.write(json.dumps({"error": error.as_json()}, indent=2, ensure_ascii=False) + "\n")
            else:
                sys.stderr.write(f"{error.code} {error.what}\n  {error.meaning}\n  → {error.do}\n")
            raise typer.Exit(error.exit_code) from error

    return _guarded


def bytes_text(count: int | None) -> str:
    """Write a size for people."""
    return "" if count is None else size_text(count)
