"""Runs GnuPG as a subprocess: own home, own status channel, time-out, bounded memory and output."""

from __future__ import annotations

import os
import resource
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from raypost.errors import TransientError, UsageError

STATUS_MAX_BYTES = 262_144
"""A message with thousands of recipients or signatures would say more; gpg is ended then."""
OUTPUT_MAX_BYTES = 4_194_304
"""What is captured of a listing or of a certificate."""
LOG_MAX_BYTES = 16_384
"""The end of gpg's messages that is kept; the rest is read and dropped."""
READ_SIZE_BYTES = 65_536
MEMORY_MAX_BYTES = 2 << 30
"""Address space of one gpg (it needs 11 MB); wide, because an agent started by this gpg inherits the limit."""

STATUS_PREFIX = b"[GNUPG:] "

BASE_OPTIONS = (
    "--no-options",
    "--batch",
    "--no-tty",
    "--quiet",
    "--yes",
    "--disable-dirmngr",
    "--no-auto-key-locate",
    "--no-auto-key-retrieve",
    "--no-auto-check-trustdb",
    "--trust-model",
    "always",
    "--charset",
    "utf-8",
    "--utf8-strings",
    # A wrong clock on either side is shown and flagged, never a reason to refuse an image (invariant 10).
    "--ignore-time-conflict",
    "--ignore-valid-from",
)


@dataclass(frozen=True, slots=True)
class GpgOutcome:
    """What one run of gpg said.

    Attributes:
        exit_code: 0 only when everything went well.
        status_lines: The lines of the status channel (DETAILS of GnuPG), split at blanks, keyword first.
        output: Captured standard output; empty when it went to a file.
        log: The end of gpg's messages for people, for our log only.
        overflowed: It said more than the limits and was ended.
    """

    exit_code: int
    status_lines: tuple[tuple[str, ...], ...]
    output: bytes
    log: str
    overflowed: bool = False

    @property
    def keywords(self) -> list[str]:
        """Return the keywords of the status lines, in their order."""
        return [line[0] for line in self.status_lines]

    def lines(self, keyword: str) -> list[tuple[str, ...]]:
        """Return the status lines of one keyword."""
        return [line for line in self.status_lines if line[0] == keyword]


def find_gpg() -> str:
    """Return the path of gpg.

    Raises:
        UsageError: It is not installed.
    """
    path = shutil.which("gpg")
    if path is None or shutil.which("gpgconf") is None or shutil.which("gpg-agent") is None:
        raise UsageError("GnuPG is not installed on this machine.", do="Install it: apt-get install gnupg")
    return path


def run_gpg(
    home: Path,
    arguments: Sequence[str],
    *,
    source: Path | bytes | None = None,
    target: Path | None = None,
    timeout_s: float,
) -> GpgOutcome:
    """Run gpg once, from a file or bytes to a file or to captured bytes.

    Nothing in the message can speak on the status channel: it is a pipe of its own, and gpg escapes file names and
    user IDs there.

    Args:
        home: The prepared GNUPGHOME.
        arguments: Command and options, after the ones every run has.
        source: Standard input; none means empty.
        target: Written with mode 0600, flushed to the disk; none means captured.
        timeout_s: After this gpg is killed.

    Raises:
        UsageError: gpg is not installed.
        TransientError: Out of time, or the operating system did not let it run.
    """
    command = [find_gpg(), *BASE_OPTIONS]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment |= {"GNUPGHOME": str(home), "LC_ALL": "C"}
    try:
        with ExitStack() as stack:
            status_read, status_write = os.pipe()
            status_reader = stack.enter_context(os.fdopen(status_read, "rb", buffering=0))
            status_writer = stack.enter_context(os.fdopen(status_write, "wb", buffering=0))
            standard_input = _open_source(stack, home, source)
            output = stack.enter_context(_open_private(target)) if target else None
            child = subprocess.Popen(
                [*command, "--status-fd", str(status_write), *arguments],
                stdin=standard_input,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(status_write,),
                env=environment,
            )
            stack.callback(_end, child)
            status_writer.close()
            _limit_memory(child.pid)
            outcome = _collect(child, status_reader, timeout_s)
            if output:
                os.fsync(output.fileno())
            return outcome
    except OSError as error:
        raise TransientError(f"gpg could not be run: {error.strerror}.") from error


def _open_source(stack: ExitStack, home: Path, source: Path | bytes | None) -> IO[bytes] | int:
    if source is None:
        return subprocess.DEVNULL
    if isinstance(source, Path):
        return stack.enter_context(source.open("rb"))
    spool = stack.enter_context(tempfile.TemporaryFile(dir=home))
    spool.write(source)
    spool.seek(0)
    return spool


@contextmanager
def _open_private(path: Path) -> Iterator[IO[bytes]]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
        yield stream


def _limit_memory(pid: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_MAX_BYTES, MEMORY_MAX_BYTES))
    except ProcessLookupError:
        return


def _collect(child: subprocess.Popen[bytes], status_reader: IO[bytes], timeout_s: float) -> GpgOutcome:
    deadline_s = time.monotonic() + timeout_s
    said: dict[str, bytearray] = {"status": bytearray(), "output": bytearray(), "log": bytearray()}
    limits = {"status": STATUS_MAX_BYTES, "output": OUTPUT_MAX_BYTES}
    overflowed = False
    with selectors.DefaultSelector() as selector:
        for stream, name in ((status_reader, "status"), (child.stdout, "output"), (child.stderr, "log")):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map() and not overflowed:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TransientError(f"gpg did not finish within {timeout_s:.0f} s and was ended.")
            for ready, _ in selector.select(left_s):
                chunk = os.read(ready.fd, READ_SIZE_BYTES)
                if not chunk:
                    selector.unregister(ready.fileobj)
                    continue
                kept = said[ready.data]
                kept += chunk
                if ready.data == "log":
                    del kept[:-LOG_MAX_BYTES]
                elif len(kept) > limits[ready.data]:
                    overflowed = True
                    child.kill()
                    del kept[limits[ready.data] :]
    try:
        exit_code = child.wait(max(0.1, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"gpg did not finish within {timeout_s:.0f} s and was ended.") from error
    return GpgOutcome(
        exit_code=exit_code,
        status_lines=_parse_status(bytes(said["status"])),
        output=bytes(said["output"]),
        log=said["log"].decode("utf-8", "replace"),
        overflowed=overflowed,
    )


def _parse_status(channel: bytes) -> tuple[tuple[str, ...], ...]:
    # Split at LF alone: splitlines() would also break a line at the odd separators a user ID may hold.
    lines = (line[len(STATUS_PREFIX) :] for line in channel.split(b"\n") if line.startswith(STATUS_PREFIX))
    fields = (tuple(line.decode("utf-8", "replace").split(" ")) for line in lines)
    return tuple(line for line in fields if line[0])


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
