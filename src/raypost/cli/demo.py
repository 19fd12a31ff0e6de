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
from raypost.node.demo_faults import Fault, cast, fault_named
from raypost.node.demo_network import DemoNetwork
from raypost.node.demo_outcome import Outcome
from raypost.node.demo_outcome import as_json as as_shape


def run_demo(
    study: Path | None, folder: Path | None, json_file: Path | None, faults: str = "", *, once: bool, as_json: bool
) -> bool:
    """Run the demonstration; say whether a centre has the study, pixels identical.

    Args:
        study: DICOM to be sent; None makes the built-in CT.
        folder: Where the sites are kept; None uses one that is removed.
        json_file: Where the figures are written.
        faults: Name of what goes wrong; empty: nothing.
        once: End after delivery; otherwise everything runs until Ctrl-C.
        as_json: Print the figures instead of words.

    Raises:
        UsageError: No DICOM at the path, the folder is in use, or there is no such fault.
    """
    fault = fault_named(faults) if faults else None
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
        return _run(place.absolute(), study, json_file, fault, stop, once=once, as_json=as_json)
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
    place: Path,
    study: Path | None,
    json_file: Path | None,
    fault: Fault | None,
    stop: threading.Event,
    *,
    once: bool,
    as_json: bool,
) -> bool:
    clock = SystemClock()
    console.print("Making the study …" if study is None else f"Reading {study} …", markup=False)
    scanned = place / "scanner"
    scanned.mkdir()
    files = demonstration.files_to_send(study, scanned, clock)
    console.print(f"Starting {cast(fault)} …")
    if fault is not None:
        console.print(f"Fault: {fault.summary}.", markup=False)
    with _network(place, fault) as network:
        console.print("")
        with DemoDisplay(console, len(files), list(network.sites)) as display:
            run = demonstration.Demo(network, display.show, display.tell, fault)
            try:
                outcome = run.run(files)
            finally:
                run.close()
        display.summarise(outcome)
        figures = json.dumps(as_shape(outcome), indent=2, ensure_ascii=False) + "\n"
        if json_file is not None:
            json_file.write_text(figures, encoding="utf-8")
        if as_json:
            sys.stdout.write(figures)
        if not outcome.is_good:
            _say_why(outcome)
        if not once:
            display.invite(network)
            stop.wait()
    return outcome.is_good


def _network(place: Path, fault: Fault | None) -> DemoNetwork:
    if fault is None:
        return DemoNetwork(place)
    return DemoNetwork(
        place,
        transfer_lines=fault.transfer_lines,
        relay_count=fault.relay_count,
        has_second_centre=fault.has_second_centre,
    )


def _say_why(outcome: Outcome) -> None:
    is_there = outcome.state in ("delivered", "rerouted")
    what = "the pixels at the centre are not those of the scanner" if is_there else outcome.state
    error = NotNowError(
        f"the demonstration failed: {what}",
        do="; ".join(outcome.alarms) or "--folder keeps the sites and their serve.log.",
    )
    sys.stderr.write(f"{error.code} {error.what}\n  → {error.do}\n")
