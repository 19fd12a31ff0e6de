"""Answers C-ECHO and C-STORE on one association: fragments go straight into a spool file, counted.

It takes the place of pynetdicom's `DIMSEServiceProvider`, which keeps a whole instance in memory (or in a temporary
file that stays behind when the sender goes away), has no bound for its size, and gives no answer, or aborts, for an
empty or over-long SOP Instance UID. It runs in the thread that reads the connection, so that a sender who does not
wait for answers is held back by TCP and fills nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from raypost.dicom import command_set as cs
from raypost.dicom.part10 import make_meta
from raypost.model.identifiers import is_dicom_uid

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
STATUS_MAX = 0xFFFF
FRAGMENT_SIZE_MIN_BYTES = 128

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Received:
    """One instance that came by C-STORE and stands in a spool file.

    Attributes:
        path: Part 10 file; removed after `receive` returned, if it is still there.
        sop_class_uid: As the sender said in the command, not checked against the data set.
        sop_instance_uid: Likewise.
        problem: Why it can only go into quarantine; '' if nothing is wrong so far. The sender is answered C000H
            whatever `receive` returns.
        association_id: Random, the same for all instances of an association.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer_host: str
    association_id: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of an association."""

    calling_ae_title: str
    called_ae_title: str
    peer_host: str
    association_id: str


class _Incoming:
    """One instance on its way into its spool file."""

    def __init__(self, path: Path, context_id: int, command: dict[int, bytes], size_max_bytes: int) -> None:
        self.path = path
        self.context_id = context_id
        self.command = command
        self.failure = ""
        self.size_bytes = 0
        self._size_max_bytes = size_max_bytes
        self._file: BinaryIO | None = None

    def open(self, head: bytes) -> None:
        """Make the file; a full disk is answered when the instance is through, so that the association goes on."""
        try:
            self._file = self.path.open("xb", buffering=0)
            self._file.write(head)
        except OSError as error:
            self._fail(f"the spool cannot be written ({type(error).__name__})")

    def write(self, fragment: memoryview) -> bool:
        """Take one fragment; False when the sender goes on for too long after the limit."""
        self.size_bytes += len(fragment)
        if self.size_bytes > self._size_max_bytes:
            self._fail("instance larger than allowed")
            return self.size_bytes <= 2 * self._size_max_bytes
        if self._file:
            try:
                while fragment:
                    fragment = fragment[self._file.write(fragment) :]
            except OSError as error:
                self._fail(f"the spool cannot be written ({type(error).__name__})")
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and remove the file, if it is still there."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _fail(self, reason: str) -> None:
        if not self.failure:
            self.failure = reason
            self.remove()


class StoringProvider(DIMSEServiceProvider):
    """The DIMSE side of one accepted association.

    Args:
        assoc: The association.
        spool: Folder for files that are being received.
        instance_size_max_bytes: Larger instances are refused while they come.
        receive: Called with every complete instance; returns the DIMSE status.
        refused: Called with the reason when an instance or the association is refused.
        waited: Called after `receive`: the sender was not idle, it waited for us.
    """

    def __init__(
        self,
        assoc: Association,
        spool: Path,
        instance_size_max_bytes: int,
        receive: Callable[[Received], int],
        refused: Callable[[str], None],
        waited: Callable[[], None],
    ) -> None:
        super().__init__(assoc)
        self.caller = Caller("", "", "", secrets.token_hex(8))
        self.stored_count = 0
        self._spool = spool
        self._size_max_bytes = instance_size_max_bytes
        self._receive = receive
        self._refused = refused
        self._waited = waited
        self._command = bytearray()
        self._incoming: _Incoming | None = None
        self._count = 0
        self._ended = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one P-DATA PDU; called by pynetdicom's reactor."""
        for context_id, value in primitive.presentation_data_value_list:
            if self._ended:
                return
            try:
                self._take(context_id, value)
            except ValueError as error:
                self._end(str(error))
            except OSError as error:
                self._end(f"the spool does not work ({type(error).__name__})")

    def close(self) -> None:
        """Drop an instance whose sender went away in its middle."""
        self._ended = True
        if self._incoming:
            self._incoming.remove()
            self._incoming = None

    def _take(self, context_id: int, value: bytes) -> None:
        """Take one fragment: bit 0 of its first byte says command or data, bit 1 says last (PS3.8, E.2)."""
        if not value:
            raise ValueError("empty fragment")
        is_command, is_last = value[0] & 1, value[0] & 2
        if is_command:
            if self._incoming or len(self._command) + len(value) > cs.COMMAND_SIZE_MAX_BYTES:
                raise ValueError("a command where none may be, or too long a one")
            self._command += value[1:]
            if is_last:
                command, self._command = bytes(self._command), bytearray()
                self._serve(context_id, cs.parse_command(command))
            return
        incoming = self._incoming
        if not incoming or incoming.context_id != context_id:
            raise ValueError("data without a command")
        if not incoming.write(memoryview(value)[1:]):
            raise ValueError(incoming.failure)
        if is_last:
            self._incoming = None
            self._finish(incoming)

    def _serve(self, context_id: int, command: dict[int, bytes]) -> None:
        context = self.assoc._accepted_cx.get(context_id)
        if context is None:
            raise ValueError("a presentation context that was not accepted")
        field = cs.command_number(command, cs.COMMAND_FIELD)
        if field == cs.C_CANCEL_RQ:
            return
        cs.command_number(command, cs.MESSAGE_ID)
        has_data = cs.command_number(command, cs.DATA_SET_TYPE) != cs.NO_DATA_SET
        if field == cs.C_ECHO_RQ and not has_data:
            self._answer(context_id, cs.response(command, cs.C_ECHO_RSP, SUCCESS))
        elif field == cs.C_STORE_RQ and not has_data:
            self._answer(context_id, cs.response(command, cs.C_STORE_RSP, CANNOT_UNDERSTAND))
        elif field == cs.C_STORE_RQ:
            self._count += 1
            path = self._spool / f"{self.caller.association_id}-{self._count}.dcm"
            self._incoming = _Incoming(path, context_id, command, self._size_max_bytes)
            self._incoming.open(
                make_meta(
                    cs.command_text(command, cs.AFFECTED_SOP_CLASS),
                    cs.command_text(command, cs.AFFECTED_SOP_INSTANCE),
                    str(context.transfer_syntax[0]),
                    self.caller.calling_ae_title,
                )
            )
        else:
            raise ValueError("an operation that is not served here")

    def _finish(self, incoming: _Incoming) -> None:
        try:
            incoming.close()
            if incoming.failure:
                self._refused(incoming.failure)
                dimse_status = OUT_OF_RESOURCES
            else:
                dimse_status = self._hand_over(incoming)
        finally:
            incoming.remove()
        self._waited()
        self._answer(incoming.context_id, cs.response(incoming.command, cs.C_STORE_RSP, dimse_status))

    def _hand_over(self, incoming: _Incoming) -> int:
        sop_class_uid = cs.command_text(incoming.command, cs.AFFECTED_SOP_CLASS)
        sop_instance_uid = cs.command_text(incoming.command, cs.AFFECTED_SOP_INSTANCE)
        problem = ""
        for name, dicom_uid in (("Class", sop_class_uid), ("Instance", sop_instance_uid)):
            if not is_dicom_uid(dicom_uid):
                problem = problem or f"Affected SOP {name} UID is no UID (PS3.5, 9.1)"
        caller = self.caller
        received = Received(
            incoming.path,
            sop_class_uid,
            sop_instance_uid,
            caller.calling_ae_title,
            caller.called_ae_title,
            caller.peer_host,
            caller.association_id,
            problem,
        )
        try:
            dimse_status = self._receive(received)
        except Exception as error:  # noqa: BLE001  (the sender gets a failure and keeps the image; the association goes on)
            log.warning("receive_failed", association=caller.association_id, error=type(error).__name__)
            return PROCESSING_FAILURE
        if problem:
            return CANNOT_UNDERSTAND
        if dimse_status == SUCCESS:
            self.stored_count += 1
        return dimse_status if 0 <= dimse_status <= STATUS_MAX else PROCESSING_FAILURE

    def _answer(self, context_id: int, command: bytes) -> None:
        most = self.maximum_pdu_size or len(command) + 6
        step = max(FRAGMENT_SIZE_MIN_BYTES, most - 6)
        for at in range(0, len(command), step):
            is_last = at + step >= len(command)
            primitive = P_DATA()
            fragment = (b"\3" if is_last else b"\1") + command[at : at + step]
            primitive.presentation_data_value_list.append((context_id, fragment))
            self.dul.send_pdu(primitive)

    def _end(self, reason: str) -> None:
        self.close()
        self._refused(reason)
        self.dul.event_queue.put("Evt19")  # invalid PDU: pynetdicom sends A-P-ABORT
