"""Processes of the demonstration: what they say as JSON lines, and how they end, in order or by kill -9."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psutil

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 20.0
LOOK_S = 0.02


def first_word(process: subprocess.Popen[str], hear: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the first JSON line of a process and hear the others in a thread; empty when it ends or stays silent."""
    first: queue.Queue[dict[str, Any]] = queue.Queue()

    def _listen() -> None:
        assert process.stdout is not None
        is_first = True
        for line in process.stdout:
            try:
                said = json.loads(line)
            except json.JSONDecodeError:
                continue
            if is_first:
                first.put(said)
                is_first = False
            else:
                hear(said)
        first.put({})

    threading.Thread(target=_listen, daemon=True).start()
    try:
        return first.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        return {}


def stop(processes: Iterable[subprocess.Popen[str] | None]) -> None:
    """End processes in order, all at once; one that does not end is killed."""
    running = [one for one in processes if one is not None and one.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill_tree(process: subprocess.Popen[str]) -> int:
    """Kill a process and all its descendants with -9, as a power cut does; return how many there were.

    When it returns they are dead: their ports, locks and connections are free.
    """
    try:
        mother = psutil.Process(process.pid)
        tree = [mother, *mother.children(recursive=True)]
    except psutil.Error:
        tree = []
    for one in tree:  # the mother first: she would start the others again
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()
    pause = threading.Event()
    for _ in range(int(KILL_TIMEOUT_S / LOOK_S)):
        if not any(map(_lives, tree)):
            break
        pause.wait(LOOK_S)
    return len(tree)


def _lives(process: psutil.Process) -> bool:
    """Say whether a process runs; in a container nobody may collect a dead one."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
