"""pynetdicom's connection with bounds: length, kind and time of every PDU are checked before it is read.

pynetdicom 3.0.4 reads as many bytes as a stranger announces, without limit of size or time and before any check of
host or AE title (its `dul.py` passes the announced length to `recv`). This class takes the place of its
`AssociationSocket`; the version is pinned, and tests/attacks shows on every run that the bound holds.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pynetdicom.association import Association
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

ASSOCIATE_SIZE_MAX_BYTES = 256 << 10
CONTROL_SIZE_MAX_BYTES = 64
DATA_TOLERANCE_BYTES = 1024
"""Some senders count headers into the maximum length that we announced, some do not."""

_ASSOCIATE_RQ, _ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(1, 8)
# The first look for data comes before the event that leads from Sta1 (idle) to Sta2 (awaiting A-ASSOCIATE-RQ).
_BEGINNING = ("Sta1", "Sta2")
# In which states of the upper layer (PS3.8, 9.2.1) a kind may come at all.
_STATES = {
    _ASSOCIATE_RQ: _BEGINNING,
    _ASSOCIATE_AC: ("Sta5",),
    _ASSOCIATE_RJ: ("Sta5",),
    _P_DATA: ("Sta6", "Sta7"),
}
_HEAD_SIZE = 6


@dataclass(frozen=True, slots=True)
class PduBounds:
    """What one connection may send.

    Attributes:
        data_size_max_bytes: Longest P-DATA-TF PDU, as announced.
        pdu_timeout_s: Time for one PDU from its first byte to its last, and for sending one.
        idle_timeout_s: Silence after which the connection is closed; None never.
        ready_wait_s: How long a look for new data waits. 0 for a requestor, which must not be kept from sending.
    """

    data_size_max_bytes: int
    pdu_timeout_s: float
    idle_timeout_s: float | None
    ready_wait_s: float


class BoundedSocket(AssociationSocket):
    """An `AssociationSocket` that refuses before it reads."""

    def __init__(
        self,
        assoc: Association,
        bounds: PduBounds,
        *,
        client_socket: socket.socket | None = None,
        address: AddressInformation | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(assoc, client_socket=client_socket, address=address)
        self._bounds = bounds
        self._refused = refused
        self._body_size: int | None = None
        self.touch()
        if self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if client_socket is not None:
            client_socket.settimeout(bounds.pdu_timeout_s)

    def touch(self) -> None:
        """Start the idle time anew."""
        self._active_s = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether there are bytes to read; closes the connection when it was silent for too long."""
        peer = self.socket
        if peer is None or not self._is_connected:
            return False
        if isinstance(peer, ssl.SSLSocket) and peer.pending():
            return True
        try:
            poll = select.poll()
            poll.register(peer, select.POLLIN)
            if poll.poll(self._bounds.ready_wait_s * 1000):
                return True
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False
        idle_timeout_s = self._bounds.idle_timeout_s
        if idle_timeout_s is not None and time.monotonic() - self._active_s > idle_timeout_s:
            self._refuse("silent for too long")
            self.event_queue.put("Evt17")
        return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read the six bytes before a PDU, or its body.

        Raises:
            OSError: The PDU is too long, of a kind that may not come now, or takes too long.
        """
        if self._body_size is not None:
            size, self._body_size = self._body_size, None
            return self._read(size)
        head = self._read(_HEAD_SIZE)
        if len(head) == _HEAD_SIZE:
            kind, _, size = struct.unpack(">BBI", head)
            self._check(kind, size)
            self._body_size = size
        else:
            self._end_waiting()
        return head

    def send(self, bytestream: bytes) -> None:
        """Send one PDU."""
        super().send(bytestream)
        self.touch()

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect; afterwards every PDU has its time."""
        super().connect(primitive)
        if self.socket is not None:
            self.socket.settimeout(self._bounds.pdu_timeout_s)
        self.touch()

    def _check(self, kind: int, size: int) -> None:
        most = CONTROL_SIZE_MAX_BYTES
        if kind == _P_DATA:
            most = self._bounds.data_size_max_bytes + DATA_TOLERANCE_BYTES
        elif kind in (_ASSOCIATE_RQ, _ASSOCIATE_AC):
            most = ASSOCIATE_SIZE_MAX_BYTES
        state = self.assoc.dul.state_machine.current_state
        if not _ASSOCIATE_RQ <= kind <= _ABORT or state not in _STATES.get(kind, (state,)):
            self._refuse(f"PDU of type {kind} refused in this state")
            raise OSError("PDU refused")
        if size > most:
            self._refuse(f"PDU of {size} bytes refused, {most} allowed")
            raise OSError("PDU refused")

    def _read(self, size: int) -> bytearray:
        found = bytearray(size)
        view, got = memoryview(found), 0
        deadline_s = time.monotonic() + self._bounds.pdu_timeout_s
        while got < size:
            if time.monotonic() > deadline_s or self.socket is None:
                self._refuse("PDU took too long")
                raise OSError("PDU refused")
            count = self.socket.recv_into(view[got:])
            if not count:
                return found[:got]
            got += count
        self.touch()
        return found

    def _refuse(self, reason: str) -> None:
        # close() of the base class would put the event that the caller puts as well, and the second one has no
        # transition any more.
        self._shutdown_socket()
        self.socket = None
        self._is_connected = False
        if self._refused:
            self._refused(reason)
        self._end_waiting()

    def _end_waiting(self) -> None:
        # A connection that ends before its A-ASSOCIATE-RQ: pynetdicom's thread would wait for it until its time is
        # out, and keep a place. None is what it takes for a time-out.
        dul = self.assoc.dul
        if self.assoc.is_acceptor and dul.state_machine.current_state in _BEGINNING:
            dul.to_user_queue.put(None)
