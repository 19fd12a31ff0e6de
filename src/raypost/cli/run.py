"""Commands that run something: serve, demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from raypost.cli.output import DEFAULT_CONFIG, ConfigOption, JsonOption, guarded
from raypost.node.start_checks import refuse_unsafe
from raypost.settings import load


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("serve")(serve)
    app.command("demo")(demo)


@guarded
def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option(help="Log what goes well, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say in one line of JSON when it is ready.")] = False,
) -> None:
    """Run this site until it is told to stop; restarts whatever dies. Unsafe settings are refused with what to change.

    Example: raypost serve -c /srv/raypost/raypost.toml
    """
    refuse_unsafe(config, load(config))
    flags = [flag for flag, is_set in (("--verbose", verbose), ("--json", as_json)) if is_set]
    command = [sys.executable, "-m", "raypost.node.supervisor", str(config.absolute()), *flags]
    os.execv(sys.executable, command)


@guarded
def demo(
    study: Annotated[
        Path | None, typer.Option(help="Send this DICOM file or folder instead of the built-in CT.")
    ] = None,
    once: Annotated[bool, typer.Option(help="End after delivery; exit code 0 means delivered.")] = False,
    json_file: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the two sites here; default: a folder that is removed.")
    ] = None,
    faults: Annotated[
        str, typer.Option(help="Let something go wrong: relay-dies, lossy, site-killed or centre-silent.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Two hospitals and a relay on this machine: a CT of the head is scanned, sealed, sent, filed and receipted.

    Example: raypost demo --once --faults relay-dies --json-file figures.json
    """
    from raypost.cli.demo import run_demo  # loaded here alone: images and relay would double the time of every command

    if not run_demo(study, folder, json_file, faults, once=once, as_json=as_json) and once:
        raise typer.Exit(1)
