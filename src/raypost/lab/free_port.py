"""A port on this machine that is free, and stays so until somebody listens there."""

from __future__ import annotations

import random
import socket
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORTS = range(15_000, 32_000)
"""Below what Linux, as delivered, gives to outgoing connections: `bind` to port 0 offers just those, and one of them
may be in use for a connection by the time a server wants to listen."""
TRIES_MAX = 200


def free_port() -> int:
    """Return a TCP port on which nobody listens.

    Raises:
        OSError: None was found.
    """
    taken_by_system = _ephemeral()
    for _ in range(TRIES_MAX):
        port = random.SystemRandom().choice(PORTS)
        if port in taken_by_system:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")


def _ephemeral() -> range:
    try:
        first, last = map(int, EPHEMERAL.read_text().split())
    except (OSError, ValueError):  # not Linux
        return range(0)
    found = range(first, last + 1)
    return found if any(port not in found for port in PORTS) else range(0)
