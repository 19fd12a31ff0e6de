"""A pool of worker processes that run named functions on untrusted bytes.

The calling side opens the files and passes their descriptors; a worker never opens a path. One process (`worker.py`)
imports the parsers once and forks the workers from itself, so that a pool costs little more memory than one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from raypost.errors import BadInputError, LocalProtocolError, SandboxCrashError, TransientError
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.messages import BrokenMessageError, Json, receive_message, send_message

__all__ = ["Json", "Sandbox", "SandboxLimits"]

JOBS_PER_WORKER_MAX = 1000
GROWTH_MAX_BYTES = 96 << 20
"""A worker whose resident memory grew by more than this since its start is replaced after the job."""
START_TIMEOUT_S = 60.0
CONTROL_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
BAD_INPUT_TEXT_LENGTH_MAX = 500


class _Gone(Exception):
    """The process at the other end of a socket ended or talks nonsense."""


class _Worker:
    """One worker process, seen from the pool."""

    def __init__(self, peer: socket.socket, pid: int, pidfd: int) -> None:
        self.peer = peer
        self.pid = pid
        self.pidfd = pidfd
        self.jobs = 0

    def call(self, job: Mapping[str, Json], descriptors: Sequence[int], wall_max_s: float) -> dict[str, Json]:
        """Run one job; `TimeoutError` beyond the wall time, `_Gone` when the worker died."""
        deadline_s = time.monotonic() + wall_max_s
        self.jobs += 1
        try:
            self.peer.settimeout(wall_max_s)
            send_message(self.peer, job, descriptors)
            return receive_message(self.peer, deadline_s=deadline_s)[0]
        except TimeoutError:
            raise
        except (EOFError, OSError, BrokenMessageError) as error:
            raise _Gone from error

    def close(self, kill: bool) -> None:
        """Let the worker end by itself, or end it now."""
        if kill:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)
        self.peer.close()


class _Zygote:
    """The process that imports once and forks the workers, seen from the pool."""

    def __init__(self, limits: SandboxLimits, preload: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raypost.sandbox.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                umask=0o077,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        order: dict[str, Json] = {"limits": dataclasses.asdict(limits), "preload": list(preload)}
        try:
            answer, _ = self._ask(order, START_TIMEOUT_S)
        except _Gone:
            self.close()
            raise
        self.has_private_network = bool(answer.get("private_network"))
        if "failed" in answer:
            self.close()
            raise LocalProtocolError(f"the sandbox does not start: {answer['failed']}")

    def fork(self) -> _Worker:
        """Return a fresh worker."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, self._lock:
            answer, descriptors = self._ask({}, CONTROL_TIMEOUT_S, theirs.fileno())
        pid = answer.get("pid")
        if len(descriptors) != 1 or not isinstance(pid, int):
            raise _Gone
        return _Worker(ours, pid, descriptors[0])

    def reap(self, pid: int) -> int:
        """Return the exit code of a worker that ended; minus the signal's number if one ended it."""
        with self._lock:
            answer, _ = self._ask({"reap": pid}, CONTROL_TIMEOUT_S)
        found = answer.get("exit")
        return found if isinstance(found, int) else 1

    def close(self) -> None:
        """End the process; its workers die with it."""
        self._control.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(
        self,
        order: Mapping[str, Json],
        timeout_s: float,
        *descriptors: int,
    ) -> tuple[dict[str, Json], list[int]]:
        try:
            self._control.settimeout(timeout_s)
            send_message(self._control, order, descriptors)
            return receive_message(self._control, 1, time.monotonic() + timeout_s)
        except (EOFError, OSError, BrokenMessageError) as error:
            raise _Gone from error


class Sandbox:
    """Runs named functions on untrusted bytes in other processes; many threads may share it.

    Args:
        limits: Bounds of every job.
        processes: Most workers at a time; callers wait for a free one.
        preload: Modules to import before the first job, each as "module" or "module:function", where the function is
            called without arguments to load what its module loads late. Jobs can name only functions of modules
            that were loaded then.
    """

    def __init__(self, limits: SandboxLimits, processes: int, preload: Sequence[str]) -> None:
        if processes < 1:
            raise ValueError("a sandbox needs at least one process")
        self._limits = limits
        self._processes = processes
        self._preload = tuple(preload)
        self._changed = threading.Condition()
        self._starting = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._count = 0
        self._zygote: _Zygote | None = None
        self._closed = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the pool; jobs that still run fail with `SandboxCrashError`."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
            self._changed.notify_all()
        for worker in busy:
            with contextlib.suppress(OSError):
                worker.peer.shutdown(socket.SHUT_RDWR)
        for worker in idle:
            worker.close(kill=True)
        with self._starting:
            zygote, self._zygote = self._zygote, None
        if zygote:
            zygote.close()

    def start(self) -> None:
        """Load everything and fork a first worker now, so that the first job does not wait for it.

        Raises:
            LocalProtocolError: The pool is closed or cannot start.
        """
        worker = self._take()
        with self._changed:
            self._busy.discard(worker)
            self._idle.append(worker)
            self._changed.notify()

    def run(
        self,
        function: str,
        source: Path,
        target: Path | None = None,
        arguments: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """Run `function(source, target, **arguments)` in a worker and return its dictionary.

        Args:
            function: "module:name" of a function `(memoryview, BinaryIO | None, **arguments) -> dict`.
            source: File that the function gets as bytes.
            target: File to be made and written by the function; must not exist. It is removed when the job fails.
            arguments: Keyword arguments, JSON.

        Raises:
            BadInputError: The function cannot use these bytes.
            SandboxCrashError: The worker crashed or ran into its memory, CPU time, wall time or output limit.
            TransientError: A file could not be opened.
            LocalProtocolError: The pool is closed, cannot start, or does not know the function.
        """
        with _opened(source, target) as descriptors:
            job: dict[str, Json] = {"function": function, "arguments": dict(arguments or {})}
            for others_left in range(self._processes, -1, -1):
                worker = self._take()
                try:
                    answer = worker.call(job, descriptors, self._limits.wall_max_s)
                except TimeoutError:
                    self._bury(worker)
                    raise SandboxCrashError("the parser ran into its wall time limit") from None
                except _Gone:
                    exit_code = self._bury(worker)
                    if not others_left or self._closed or exit_code != -signal.SIGKILL:
                        raise SandboxCrashError(f"the parser {_cause(exit_code)}") from None
                    _empty(descriptors[1:])
                    continue  # killed from outside, which says nothing about the bytes; the idle ones may be dead, too
                except BaseException:
                    self._bury(worker)
                    raise
                self._give_back(worker, answer)
                return _result(answer)
        raise LocalProtocolError("the sandbox gave no answer")

    def _take(self) -> _Worker:
        with self._changed:
            while not (self._closed or self._idle or self._count < self._processes):
                self._changed.wait()
            if self._closed:
                raise LocalProtocolError("the sandbox is closed")
            if self._idle:
                worker = self._idle.pop()
                self._busy.add(worker)
                return worker
            self._count += 1
        try:
            worker = self._start_worker()
        except BaseException:
            self._forget(None)
            raise
        with self._changed:
            self._busy.add(worker)
        return worker

    def _start_worker(self) -> _Worker:
        # A zygote that was killed (out of memory, an administrator) is replaced once, then it is an error.
        for last in (False, True):
            with self._starting:
                if self._closed:
                    break
                try:
                    self._zygote = self._zygote or _Zygote(self._limits, self._preload)
                    return self._zygote.fork()
                except _Gone:
                    broken, self._zygote = self._zygote, None
                    if broken:
                        broken.close()
                    if last:
                        break
        raise LocalProtocolError("the sandbox's processes do not start")

    def _give_back(self, worker: _Worker, answer: Mapping[str, Json]) -> None:
        grown_bytes = answer.get("grown_bytes")
        is_worn = not isinstance(grown_bytes, int) or grown_bytes > GROWTH_MAX_BYTES or "out_of" in answer
        if is_worn or worker.jobs >= JOBS_PER_WORKER_MAX:
            self._bury(worker)
            return
        with self._changed:
            if not self._closed:
                self._busy.discard(worker)
                self._idle.append(worker)
                self._changed.notify()
                return
        self._bury(worker)

    def _bury(self, worker: _Worker) -> int:
        """End a worker for good and return its exit code."""
        exit_code = -int(signal.SIGKILL)  # as a worker dies whose mother process is gone
        with self._starting:
            zygote = self._zygote
        if zygote:
            with contextlib.suppress(_Gone):
                exit_code = zygote.reap(worker.pid)
        worker.close(kill=True)
        self._forget(worker)
        return exit_code

    def _forget(self, worker: _Worker | None) -> None:
        with self._changed:
            if worker:
                self._busy.discard(worker)
            self._count -= 1
            self._changed.notify()


@contextlib.contextmanager
def _opened(source: Path, target: Path | None) -> Iterator[list[int]]:
    descriptors: list[int] = []
    made = False
    try:
        try:
            descriptors.append(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
            if target is not None:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptors.append(os.open(target, flags, 0o600))
                made = True
        except OSError as error:
            raise TransientError(f"a file for the sandbox cannot be opened: {os.strerror(error.errno or 0)}") from error
        yield descriptors
    except BaseException:
        if made and target is not None:
            target.unlink(missing_ok=True)
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _empty(targets: Sequence[int]) -> None:
    for descriptor in targets:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)


def _result(answer: Mapping[str, Json]) -> dict[str, Json]:
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    if "unknown_function" in answer:
        raise LocalProtocolError("the sandbox does not know this function")
    if "out_of" in answer:
        raise SandboxCrashError(f"the parser ran into its {answer['out_of']} limit")
    raise BadInputError(str(answer.get("bad_input", "the parser gave no result"))[:BAD_INPUT_TEXT_LENGTH_MAX])


def _cause(exit_code: int) -> str:
    if exit_code == -signal.SIGXCPU:
        return "ran into its CPU time limit"
    return f"crashed (signal {-exit_code})" if exit_code < 0 else "crashed"


def _environment() -> dict[str, str]:
    """Return an environment without secrets: what Python needs to find the same modules, and single-threaded BLAS."""
    return {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(one for one in sys.path if one),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
