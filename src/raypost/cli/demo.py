"""The demonstration from the command line: its folder, its end, its figures."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from raypost.cli.demo_display import DemoDisplay
from raypost.cli.output import console
from raypost.errors import NotNowError, UsageError
from raypost.node import demo as demonstration
from raypost.node import logs
from raypost.node.clock import SystemClock
from raypost.node.demo_network import DemoNetwork


def run_demo(study: Path | None, folder: Path | None, json_file: Path | None, *, once: bool, as_json: bool) -> bool:
    """Run the demonstration; say whether the study was delivered, pixels identical.

    Args:
        study: DICOM to be sent; None makes the built-in CT.
        folder: Where the sites are kept; None uses one that is removed.
        json_file: Where the figures are written.
        once: End after delivery; otherwise everything runs until Ctrl-C.
        as_json: Print the figures instead of words.

    Raises:
        UsageError: No DICOM at the path, or the folder is in use.
    """
    logs.configure("demo")
    if as_json:
        console.quiet = True
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", do="Name an empty folder, or none.")
    place = folder or Path(tempfile.mkdtemp(prefix="raypost-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        return _run(place.absolute(), study, json_file, stop, once=once, as_json=as_json)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return False
    finally:
        if folder is None:
            DemoNetwork.remove_leftovers(place)
            shutil.rmtree(place, ignore_errors=True)


def _interrupt(stop: threading.Event) -> None:
    """Ctrl-C once ends everything in order; while that happens, another one changes nothing."""
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


def _run(
    place: Path, study: Path | None, json_file: Path | None, stop: threading.Event, *, once: bool, as_json: bool
) -> bool:
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
        figures = json.dumps(demonstration.as_json(outcome), indent=2) + "\n"
        if json_file is not None:
            json_file.write_text(figures)
        if as_json:
            sys.stdout.write(figures)
        is_delivered = outcome.state == "delivered" and outcome.pixels_identical
        if not is_delivered:
            _say_why(outcome)
        if not once:
            display.invite(network)
            stop.wait()
    return is_delivered


def _say_why(outcome: demonstration.Outcome) -> None:
    what = outcome.state if outcome.state != "delivered" else "the pixels at the centre are not those of the scanner"
    error = NotNowError(
        f"the demonstration failed: {what}",
        do="; ".join(outcome.alarms) or "--folder keeps the sites and their serve.log.",
    )
    sys.stderr.write(f"{error.code} {error.what}\n  → {error.do}\n")
