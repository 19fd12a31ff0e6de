"""The sandbox's own processes: one that imports everything once, and the workers it forks.

`python -m raypost.sandbox.worker N` is started by the pool with a control socket as descriptor N. It imports what the
pool asks for, gives up network and privileges, and then forks a worker for every socket it is handed. Forking here and
not in the pool's process keeps threads and secrets out of the workers, and lets them share the imported pages.
Its end follows from the end of the control socket; a worker's end from the end of this process.
"""

from __future__ import annotations

import errno
import gc
import importlib
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import BinaryIO

from raypost.errors import BadInputError
from raypost.sandbox import confinement
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.messages import BrokenMessageError, Json, receive_message, send_message

Function = Callable[..., dict[str, Json]]


def serve_zygote(control: socket.socket) -> None:
    """Import, confine ourselves, then fork and reap workers until the pool closes the control socket."""
    settings, _ = receive_message(control)
    limits = SandboxLimits(**settings["limits"])  # type: ignore[arg-type]
    private_network = confinement.leave_network()
    try:
        for name in settings["preload"]:  # type: ignore[union-attr]
            _preload(str(name))
        confinement.drop_privileges()
    except Exception as error:  # noqa: BLE001  (whatever it is, the pool must hear it; nothing untrusted was read yet)
        send_message(control, {"failed": f"{type(error).__name__}: {error}"})
        return
    gc.collect()
    gc.freeze()  # the collector then does not write into the pages that workers share
    send_message(control, {"ready": True, "private_network": private_network})
    while True:
        order, descriptors = receive_message(control, descriptors_max=1)
        if "reap" in order:
            send_message(control, {"exit": _reap(int(order["reap"]))})  # type: ignore[arg-type]
        elif descriptors:
            _fork_worker(control, descriptors[0], limits)


def _preload(name: str) -> None:
    module, _, function = name.partition(":")
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()


def _fork_worker(control: socket.socket, descriptor: int, limits: SandboxLimits) -> None:
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        exit_code = 1
        try:
            control.close()
            confinement.die_with(parent_pid)
            confinement.limit_worker(limits)
            with socket.socket(fileno=descriptor) as peer:
                serve_jobs(peer, limits)
            exit_code = 0
        finally:
            os._exit(exit_code)
    os.close(descriptor)
    pidfd = os.pidfd_open(pid)
    send_message(control, {"pid": pid}, [pidfd])
    os.close(pidfd)


def _reap(pid: int) -> int:
    # A dead worker keeps the status it died with; one that only closed its socket must not keep us waiting.
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve_jobs(peer: socket.socket, limits: SandboxLimits) -> None:
    """Run one job after the other until the pool closes the socket."""
    resident_at_start_bytes = confinement.memory_used_bytes()[1]
    while True:
        try:
            job, descriptors = receive_message(peer, descriptors_max=2)
        except EOFError:
            return
        answer = run_job(job, descriptors, limits)
        answer["grown_bytes"] = confinement.memory_used_bytes()[1] - resident_at_start_bytes
        try:
            send_message(peer, answer)
        except BrokenMessageError:
            send_message(peer, {"bad_input": "the parser's answer is too large"})


def run_job(job: Mapping[str, Json], descriptors: list[int], limits: SandboxLimits) -> dict[str, Json]:
    """Call the named function on the mapped source; its result or what went wrong is the answer.

    Texts of foreign exceptions may carry patient data, so that only their class goes back.
    """
    function = _find(str(job["function"]))
    target: BinaryIO | None = os.fdopen(descriptors[1], "w+b") if len(descriptors) > 1 else None
    try:
        if function is None:
            return {"unknown_function": True}
        confinement.allow_cpu(limits.cpu_max_s)
        source = _map(descriptors[0])
        result = function(source, target, **job["arguments"])  # type: ignore[arg-type]
        if target is not None:
            target.flush()
        return {"result": result}
    except BadInputError as error:
        return {"bad_input": error.what}
    except MemoryError:
        return {"out_of": "memory"}
    except OSError as error:
        return {"out_of": "output"} if error.errno == errno.EFBIG else {"bad_input": _failed(error)}
    except Exception as error:  # noqa: BLE001  (hostile bytes raise anything; the object is quarantined, we go on)
        return {"bad_input": _failed(error)}
    finally:
        if target is not None:
            _close(target)
        os.close(descriptors[0])


def _failed(error: Exception) -> str:
    return f"the parser failed with {type(error).__name__}"


def _close(target: BinaryIO) -> None:
    try:
        target.close()
    except OSError:
        return  # what could not be flushed was answered as an error already, and the pool removes the file


def _map(descriptor: int) -> memoryview:
    if os.fstat(descriptor).st_size == 0:  # mmap refuses an empty file
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _find(name: str) -> Function | None:
    module, _, function = name.partition(":")
    found: Function | None = getattr(sys.modules.get(module), function, None)
    return found


if __name__ == "__main__":
    try:
        serve_zygote(socket.socket(fileno=int(sys.argv[1])))
    except (EOFError, OSError):
        sys.exit(0)  # the pool is gone; the workers follow by their death signal
