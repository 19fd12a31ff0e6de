"""One association that we asked for, as a plain blocking conversation over one socket.

pynetdicom encodes and decodes the negotiation; the data go from the file to the socket piece by piece. Its own
requestor puts a whole instance into a queue between two polling threads, which is neither flat in memory nor fast.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from raypost.dicom import command_set as cs
from raypost.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from raypost.errors import RefusedError, TransientError, UnreachableError

CONTEXTS_MAX = 128
"""Presentation contexts of one association: their ids are the odd numbers of one byte (PS3.8, 9.3.2.2)."""
PDU_SIZE_MAX_BYTES = 256 << 10
PDU_SIZE_MIN_BYTES = 64
ANSWER_FRAGMENTS_MAX = 64
RELEASE_TIMEOUT_S = 10.0

_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(2, 8)
_PERMANENT = 1
# What pynetdicom raises for a damaged PDU.
_DECODING_ERRORS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, struct.error)


@dataclass(frozen=True, slots=True)
class DicomNode:
    """A DICOM application entity that we call.

    Attributes:
        name: What people call it, for messages.
        ae_title: Its AE title.
        calling_ae_title: Ours, as it knows us.
        answer_timeout_s: Time for one answer, and for the peer to take one piece of data.
        tls: Context to speak DICOM over TLS with; None for plain TCP.
    """

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 120.0
    tls: ssl.SSLContext | None = None


class RequestedAssociation:
    """An association with a node; released at the end of the `with` block, aborted when that fails.

    Attributes:
        accepted: (abstract syntax, transfer syntax) to the id of its presentation context.

    Raises:
        UnreachableError: No connection, no answer in time, or it was ended by the peer.
        RefusedError: The peer rejects the association for good.
    """

    def __init__(self, node: DicomNode, proposals: Sequence[tuple[str, str]]) -> None:
        if not 1 <= len(proposals) <= CONTEXTS_MAX:
            raise ValueError("1 to 128 presentation contexts")
        self._node = node
        self._message_id = 0
        self._peer = self._connect()
        try:
            self.accepted, announced = self._negotiate(proposals)
        except BaseException:
            self._peer.close()
            raise
        self._step = max(PDU_SIZE_MIN_BYTES, min(announced or PDU_SIZE_MAX_BYTES, PDU_SIZE_MAX_BYTES)) - 6

    def __enter__(self) -> RequestedAssociation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._peer.settimeout(RELEASE_TIMEOUT_S)
            if kind is None:
                self._peer.sendall(struct.pack(">BBII", _RELEASE_RQ, 0, 4, 0))
                self._read_pdu(RELEASE_TIMEOUT_S)
            else:
                self._peer.sendall(struct.pack(">BBIBBBB", _ABORT, 0, 4, 0, 0, 0, 0))
        except (OSError, UnreachableError):
            return  # everything sent was answered before; how the peer takes the farewell changes nothing
        finally:
            self._peer.close()

    def echo(self, context_id: int, sop_class_uid: str) -> int:
        """Send a C-ECHO and return its status."""
        return self._ask(context_id, cs.C_ECHO_RQ, sop_class_uid, {}, None)

    def store(self, context_id: int, sop_class_uid: str, sop_instance_uid: str, file: Path, offset: int) -> int:
        """Send a C-STORE with the data set that begins at an offset of a file, and return its status."""
        more = {cs.AFFECTED_SOP_INSTANCE: _even(sop_instance_uid), cs.PRIORITY: struct.pack("<H", 0)}
        return self._ask(context_id, cs.C_STORE_RQ, sop_class_uid, more, (file, offset))

    def _connect(self) -> socket.socket:
        node = self._node
        try:
            peer = socket.create_connection((node.host, node.port), timeout=node.connect_timeout_s)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if node.tls:
                peer = node.tls.wrap_socket(peer, server_hostname=node.host)
            peer.settimeout(node.answer_timeout_s)
        except OSError as error:
            raise self._unreachable("does not answer", error) from error
        return peer

    def _negotiate(self, proposals: Sequence[tuple[str, str]]) -> tuple[dict[tuple[str, str], int], int]:
        self._send(_associate_request(self._node, proposals))
        kind, body = self._read_pdu(self._node.answer_timeout_s)
        raw = struct.pack(">BBI", kind, 0, len(body)) + body
        try:
            if kind == _ASSOCIATE_RJ:
                rejection = A_ASSOCIATE_RJ()
                rejection.decode(raw)
                self._reject(rejection)
            if kind != _ASSOCIATE_AC:
                raise UnreachableError(f"{self._node.name} ended the association")
            acceptance = A_ASSOCIATE_AC()
            acceptance.decode(raw)
            answer = acceptance.to_primitive()
            results = {one.context_id: one for one in answer.presentation_context_definition_results_list}
            announced = answer.maximum_length_received or 0
        except _DECODING_ERRORS as error:
            raise UnreachableError(f"{self._node.name} answered with a damaged PDU") from error
        accepted: dict[tuple[str, str], int] = {}
        for index, proposal in enumerate(proposals):
            result = results.get(2 * index + 1)
            if result is not None and result.result == 0:
                accepted[proposal] = 2 * index + 1
        return accepted, announced

    def _reject(self, rejection: A_ASSOCIATE_RJ) -> None:
        reason = str(rejection.reason_str)
        if rejection.result == _PERMANENT:
            raise RefusedError(
                f"{self._node.name} rejects the association: {reason}",
                peer_code=rejection.reason_diagnostic,
                peer_text=reason,
            )
        raise UnreachableError(f"{self._node.name} rejects the association for now: {reason}")

    def _ask(
        self,
        context_id: int,
        command_field: int,
        sop_class_uid: str,
        more: Mapping[int, bytes],
        data: tuple[Path, int] | None,
    ) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        command = cs.request(command_field, self._message_id, _even(sop_class_uid), more, has_data=data is not None)
        self._send_fragments(context_id, command)
        if data:
            self._send_file(context_id, *data)
        answer = self._read_answer()
        try:
            if cs.command_number(answer, cs.MESSAGE_ID_RESPONDED_TO) != self._message_id:
                raise ValueError("an answer to another message")
            return cs.command_number(answer, cs.STATUS)
        except ValueError as error:
            raise UnreachableError(f"{self._node.name} answered out of order") from error

    def _send_fragments(self, context_id: int, command: bytes) -> None:
        for at in range(0, len(command), self._step):
            part = command[at : at + self._step]
            is_last = at + self._step >= len(command)
            self._send(_fragment_head(context_id, len(part), 3 if is_last else 1) + part)

    def _send_file(self, context_id: int, file: Path, offset: int) -> None:
        try:
            source = file.open("rb")
        except OSError as error:
            raise TransientError(f"a file to be sent cannot be read: {error.strerror}") from error
        with source:
            left = os.fstat(source.fileno()).st_size - source.seek(offset)
            while left > 0:
                part = source.read(min(left, self._step))
                if not part:
                    raise TransientError("a file to be sent became shorter meanwhile")
                left -= len(part)
                self._send(_fragment_head(context_id, len(part), 0 if left else 2) + part)

    def _read_answer(self) -> dict[int, bytes]:
        command = b""
        for _ in range(ANSWER_FRAGMENTS_MAX):
            kind, body = self._read_pdu(self._node.answer_timeout_s)
            if kind != _P_DATA:
                raise UnreachableError(f"{self._node.name} ended the association")
            at = 0
            while at + 6 <= len(body):
                size, _, flags = struct.unpack_from(">IBB", body, at)
                if not flags & 1 or size < 2:
                    raise UnreachableError(f"{self._node.name} answered with a damaged PDU")
                command += body[at + 6 : at + 4 + size]
                at += 4 + size
                if flags & 2:
                    return self._parsed(command)
        raise UnreachableError(f"{self._node.name} does not end its answer")

    def _parsed(self, command: bytes) -> dict[int, bytes]:
        try:
            return cs.parse_command(command)
        except ValueError as error:
            raise UnreachableError(f"{self._node.name} answered with a damaged PDU") from error

    def _read_pdu(self, timeout_s: float) -> tuple[int, bytes]:
        deadline_s = time.monotonic() + timeout_s
        kind, _, size = struct.unpack(">BBI", self._read(6, deadline_s))
        if size > PDU_SIZE_MAX_BYTES + 6:
            raise UnreachableError(f"{self._node.name} sends PDUs longer than we announced")
        return kind, self._read(size, deadline_s)

    def _read(self, size: int, deadline_s: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise UnreachableError(f"{self._node.name} does not answer in time")
            try:
                self._peer.settimeout(left_s)
                part = self._peer.recv(size - len(found))
            except OSError as error:
                raise self._unreachable("does not answer", error) from error
            if not part:
                raise UnreachableError(f"{self._node.name} closed the connection")
            found += part
        return bytes(found)

    def _send(self, raw: bytes) -> None:
        try:
            self._peer.settimeout(self._node.answer_timeout_s)
            self._peer.sendall(raw)
        except OSError as error:
            raise self._unreachable("takes no more data", error) from error

    def _unreachable(self, what: str, error: OSError) -> UnreachableError:
        why = "time-out" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
        return UnreachableError(f"{self._node.name} {what}: {why}")


def _associate_request(node: DicomNode, proposals: Sequence[tuple[str, str]]) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = APPLICATION_CONTEXT_NAME
    request.calling_ae_title, request.called_ae_title = node.calling_ae_title, node.ae_title
    contexts = []
    for index, (abstract_syntax, transfer_syntax) in enumerate(proposals):
        context = build_context(abstract_syntax, [transfer_syntax])
        context.context_id = 2 * index + 1
        contexts.append(context)
    request.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    length.maximum_length_received = PDU_SIZE_MAX_BYTES
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    request.user_information = [length, implementation, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return bytes(pdu.encode())


def _fragment_head(context_id: int, size: int, flags: int) -> bytes:
    return struct.pack(">BBIIBB", _P_DATA, 0, size + 6, size + 2, context_id, flags)


def _even(dicom_uid: str) -> bytes:
    raw = dicom_uid.encode("ascii")
    return raw + b"\0" * (len(raw) & 1)
