"""What a sandbox worker gives up: network, privileges, memory, descriptors, core dumps, life after its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from raypost.sandbox.limits import SandboxLimits

DESCRIPTORS_MAX = 64
NOBODY = 65534
"""User and group that a worker of root becomes; there need be no entry in /etc/passwd."""

# linux/prctl.h and linux/sched.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> bool:
    """Move into a network of our own without any interface; say whether the kernel allowed it.

    Must run while there is one thread: an ordinary user needs a user name space, and only a process with a single
    thread may enter one (unshare(2)).
    """
    wanted = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    return bool(_libc.unshare(wanted) == 0)


def drop_privileges() -> None:
    """Give up root for good, and the way back through set-user-ID programs.

    Raises:
        OSError: The kernel refused; the caller must not go on.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with(parent_pid: int) -> None:
    """End this process when its parent ends.

    Must run after the change of user, which clears the setting (prctl(2)), and in a child of a parent that forks in
    its main thread: the signal comes when the *thread* that forked ends.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_worker(limits: SandboxLimits) -> None:
    """Bound address space, output, descriptors and core dumps of this process.

    Raises:
        OSError: The kernel refused.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    # Python ignores SIGXFSZ from the start, so that writing beyond the limit is an OSError in the job.
    memory_bytes = memory_used_bytes()[0] + limits.memory_max_bytes
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, limits.output_max_bytes),
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def allow_cpu(more_s: int) -> None:
    """Let this process use so many more seconds of processor time; beyond them SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime) + 1 + more_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def memory_used_bytes() -> tuple[int, int]:
    """Return the address space and the resident memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  (no pathlib in a process that was just forked)
        pages = file.read().split()
    size_bytes = os.sysconf("SC_PAGE_SIZE")
    return int(pages[0]) * size_bytes, int(pages[1]) * size_bytes


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
