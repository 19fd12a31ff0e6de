"""Writes what a hostile DICOM sender writes (PS3.7, PS3.8), byte by byte; only ever to this machine."""

import contextlib
import socket
import struct

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=15)


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def associate_rq(calling: str = "ATTACKER", contexts: int = 1) -> bytes:
    proposed = b"".join(
        item(0x20, bytes([(2 * k + 1) % 256, 0, 0, 0]) + item(0x30, CT_IMAGE.encode()) + item(0x40, EXPLICIT.encode()))
        for k in range(contexts)
    )
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"2.25.1")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + proposed + item(0x50, user)
    return pdu(1, struct.pack(">HH", 1, 0) + b"RAYPOST".ljust(16) + calling.encode().ljust(16) + bytes(32) + items)


def fragment(raw: bytes, flags: int) -> bytes:
    return pdu(4, struct.pack(">IBB", len(raw) + 2, 1, flags) + raw)


def implicit(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_rq(sop_instance_uid: bytes) -> bytes:
    command = implicit(2, CT_IMAGE.encode() + b"\0") + implicit(0x100, b"\1\0") + implicit(0x110, b"\1\0")
    command += implicit(0x700, b"\0\0") + implicit(0x800, b"\0\0") + implicit(0x1000, sop_instance_uid)
    return fragment(implicit(0, struct.pack("<I", len(command))) + command, 3)


def read_pdu(peer: socket.socket) -> tuple[int, bytes]:
    """Return kind and body of the next PDU; kind 0 when the peer hung up."""

    def exactly(count: int) -> bytes:
        found = b""
        with contextlib.suppress(ConnectionError):
            while len(found) < count and (more := peer.recv(count - len(found))):
                found += more
        return found

    head = exactly(6)
    return (head[0], exactly(struct.unpack(">I", head[2:])[0])) if len(head) == 6 else (0, b"")


def associate(port: int) -> socket.socket:
    peer = connect(port)
    peer.sendall(associate_rq())
    assert read_pdu(peer)[0] == 2
    return peer


def dimse_status(body: bytes) -> int:
    at = body.find(struct.pack("<HHI", 0, 0x900, 2))
    return struct.unpack("<H", body[at + 8 : at + 10])[0] if at >= 0 else -1
