"""One process of a site, forked from the supervisor: how it starts, speaks, and ends with its parent.

Forked and not executed anew, because what all of them load is then in memory once and a restart takes milliseconds.
The supervisor has one thread and no open connection when it forks.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import NoReturn

import structlog

from raypost.errors import RaypostError
from raypost.node import logs
from raypost.settings import Settings

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
FAILED = 70
"""Exit code of a process that ended by an error (EX_SOFTWARE of sysexits.h)."""


@dataclass(frozen=True, slots=True)
class SiteProcess:
    """A kind of process.

    Attributes:
        name: For people and logs.
        module: Has `run(settings, stop, *arguments)`; loaded in the process, so that the others stay small.
        niceness: How much it lets others go first (nice(2)).
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    niceness: int = 0


def fork_process(kind: SiteProcess, settings: Settings, *, is_verbose: bool) -> tuple[int, int]:
    """Start a process; return its pid and the descriptor of what it says, one JSON object a line."""
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writing)
        os.set_blocking(reading, False)
        return child, reading
    os.close(reading)
    _become(kind, settings, parent, writing, is_verbose=is_verbose)


def _become(kind: SiteProcess, settings: Settings, parent: int, writing: int, *, is_verbose: bool) -> NoReturn:
    """Be the new process, to its end."""
    exit_code = FAILED
    try:
        _die_with(parent)
        _show_as(f"raypost {kind.name}")
        os.dup2(writing, 1)
        os.close(writing)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        os.nice(kind.niceness)
        logs.configure(kind.name, is_verbose=is_verbose)
        importlib.import_module(kind.module).run(settings, stop, *kind.arguments)
        exit_code = 0
    except RaypostError as error:
        structlog.get_logger("raypost.node").error("process ends", code=error.code, what=error.what, do=error.do)
    except BaseException:  # noqa: BLE001 the outermost frame of a process: said, and answered by a restart
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def say(what: dict[str, object]) -> None:
    """Tell the supervisor something."""
    os.write(1, json.dumps(what).encode() + b"\n")


def _show_as(name: str) -> None:
    """Have `top` and `ps -o comm` tell the processes of a site apart; the kernel keeps 15 bytes."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(FAILED)
