"""The command line as a whole: groups of commands, and those that stand alone."""

from __future__ import annotations

from typing import Annotated

import typer

from raypost import __version__
from raypost.cli import (
    address_book,
    archive,
    audit,
    backup,
    case_messages,
    keys,
    rules,
    run,
    site,
    status,
    transfers,
    users,
)

app = typer.Typer(
    name="raypost",
    help="Moves medical images between hospitals as encrypted, signed e-mail, and brings the proof of delivery back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run.register(app)
site.register(app)
transfers.register(app)
archive.register(app)
case_messages.register(app)
status.register(app)
backup.register(app)
address_book.register(app)
keys.register(app)
rules.register(app)
audit.register(app)
users.register(app)


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"raypost {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Moves medical images between hospitals as encrypted, signed e-mail, and brings the proof of delivery back."""


def main() -> None:
    """Run the command line."""
    app()
