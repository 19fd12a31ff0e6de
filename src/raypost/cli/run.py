"""Commands that run something: serve, demo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from raypost.cli.demo_display import DemoDisplay
from raypost.cli.output import DEFAULT_CONFIG, ConfigOption, JsonOption, console, guarded
from raypost.errors import NotNowError
from raypost.node import demo as demonstration
from raypost.node import logs
from raypost.node.clock import SystemClock
from raypost.node.demo_network import DemoNetwork
from raypost.settings import load


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("serve")(serve)
    app.command("demo")(demo)


@guarded
def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option(help="Log what goes well, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run this site until it is told to stop; restarts whatever dies.

    Example: raypost serve -c /srv/raypost/raypost.toml
    """
    load(config)
    flags = [flag for flag, is_set in (("--verbose", verbose), ("--json", as_json)) if is_set]
    command = [sys.executable, "-m", "raypost.node.supervisor", str(config.absolute()), *flags]
    os.execv(sys.executable, command)


@guarded
def demo(
    study: Annotated[
        Path | None, typer.Option(help="Send this DICOM file or folder instead of the built-in CT.")
    ] = None,
    once: Annotated[bool, typer.Option(help="End after delivery; exit code 0 means delivered.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write the figures to this file.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the two sites here; default: a folder that is removed.")
    ] = None,
) -> None:
    """Two hospitals and a relay on this machine: a CT of the head is scanned, sealed, sent, filed and receipted.

    Example: raypost demo --once --json-file figures.json
    """
    logs.configure("demo")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupted(stop))
    place = folder or Path(tempfile.mkdtemp(prefix="raypost-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    is_delivered = False
    try:
        is_delivered = _demo(place, study, once, json_file, stop)
    except KeyboardInterrupt:
        console.print("Stopped.")
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
            DemoNetwork.remove_leftovers(place)
    if once and not is_delivered:
        raise typer.Exit(1)


def _interrupted(stop: threading.Event) -> None:
    if stop.is_set():
        return
    stop.set()
    raise KeyboardInterrupt


def _demo(place: Path, study: Path | None, once: bool, json_file: Path | None, stop: threading.Event) -> bool:
    clock = SystemClock()
    console.print("Making the study …" if study is None else f"Reading {study} …", markup=False)
    scanned = place / "scanner"
    scanned.mkdir()
    files = demonstration.files_to_send(study, scanned, clock)
    console.print("Starting a database, a mail relay and two hospitals …")
    with DemoNetwork(place) as network:
        with DemoDisplay(console, len(files)) as display:
            run = demonstration.Demo(network, display.show)
            try:
                outcome = run.run(files)
            finally:
                run.close()
        display.summarise(outcome)
        if json_file is not None:
            json_file.write_text(json.dumps(demonstration.as_json(outcome), indent=2) + "\n")
        is_delivered = outcome.state == "delivered" and outcome.pixels_identical
        if not is_delivered and once:
            error = NotNowError(
                f"not delivered: {outcome.state}",
                meaning="The demonstration failed.",
                do="; ".join(outcome.alarms) or "Look into serve.log of both sites (--folder keeps them).",
            )
            sys.stderr.write(f"{error.code} {error.what}\n  → {error.do}\n")
        if not once:
            display.invite(network)
            stop.wait()
    return is_delivered
