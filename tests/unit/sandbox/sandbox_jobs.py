"""Jobs that behave well and badly, run by the sandbox's workers."""

import ctypes
import encodings.idna  # noqa: F401  (nobody may be unable to read Python's own files later)
import os
import pathlib
import resource
import signal
import socket

from raypost.errors import BadInputError, IntegrityError, SandboxCrashError

HOARD: list[bytes] = []


def measure(source, target, **arguments):
    if target is not None:
        target.write(bytes(source)[::-1])
    return {"size": len(source), "arguments": arguments, "pid": os.getpid()}


def identity(source, target):
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return {
        "uid": os.geteuid(),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "parent": os.getppid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "descriptors": len(list(pathlib.Path("/proc/self/fd").iterdir())),
        "environment": dict(os.environ),
        "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
    }


def use_network(source, target, *, port):
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return {}


def refuse(source, target):
    raise BadInputError("not an image")


def refuse_harder(source, target):
    raise SandboxCrashError("bomb")


def blame(source, target):
    raise IntegrityError("Doe^John")


def leak(source, target):
    raise ValueError("Doe^John")


def eat_memory(source, target):
    return {"size": len(bytearray(4 << 30))}


def hoard(source, target):
    HOARD.append(b"x" * (120 << 20))
    return {"pid": os.getpid()}


def spin(source, target):
    while True:
        pass


def hang(source, target):
    signal.pause()


def crash(source, target):
    ctypes.string_at(8)


def leave(source, target):
    os._exit(3)


def write_much(source, target):
    target.write(bytes(8 << 20))
    return {}


def answer_much(source, target):
    return {"text": "x" * (5 << 20)}


def answer_nothing(source, target):
    return None


def answer_nan(source, target):
    return {"value": float("nan")}
