"""The simulated CT scanner: sends instances by C-STORE as a modality does, in one association."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

from raypost.errors import BadInputError, LocalProtocolError, RefusedError, UnreachableError, UsageError
from raypost.model.identifiers import is_ae_title

FILES_MAX = 100_000
CONTEXTS_MAX = 128
"""Presentation contexts of one association (PS3.8, 9.3.2.2: odd numbers up to 255)."""
CONNECT_TIMEOUT_S = 10.0
RESPONSE_TIMEOUT_S = 60.0
PREAMBLE_SIZE_BYTES = 128

SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance the other side answered for.

    Attributes:
        number: From 1, in the order sent.
        part10_bytes: Size as a Part 10 file.
        peer_status: Status of the C-STORE response (PS3.4, B.2.3); 0 and Bxxx mean stored.
        answered_at_s: By the clock given to `scan`.
    """

    number: int
    part10_bytes: int
    peer_status: int
    answered_at_s: float

    @property
    def is_stored(self) -> bool:
        """Say whether the other side has it."""
        return self.peer_status == SUCCESS or self.peer_status >> 12 == 0xB


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What was sent.

    Attributes:
        instances: How many were sent and answered.
        raw_part10_bytes: Their size together, as Part 10 files.
        first_store_at_s: When the first C-STORE began, by the clock given to `scan`.
        last_stored_at_s: When the last was answered.
        stored: One entry an instance.
    """

    instances: int
    raw_part10_bytes: int
    first_store_at_s: float
    last_stored_at_s: float
    stored: tuple[StoredInstance, ...]

    @property
    def refused(self) -> tuple[StoredInstance, ...]:
        """Return the instances the other side did not store."""
        return tuple(one for one in self.stored if not one.is_stored)


def find_dicom_files(path: Path) -> list[Path]:
    """Return the Part 10 files (PS3.10, 7.1) at or below a path, sorted; leave out all else, and DICOMDIRs.

    Raises:
        UsageError: Nothing there, or too much.
    """
    if not path.exists():
        raise UsageError(f"There is nothing at {path}.")
    found = []
    for number, candidate in enumerate(_walk(path)):
        if number >= FILES_MAX:
            raise UsageError(f"There are more than {FILES_MAX} files below {path}.")
        if _is_instance(candidate):
            found.append(candidate)
    if not found:
        raise UsageError(f"There is no DICOM file at or below {path}.")
    return sorted(found)


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def _is_instance(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            stream.seek(PREAMBLE_SIZE_BYTES)
            if stream.read(4) != b"DICM":
                return False
        return _read_kind(path)[0] != MediaStorageDirectoryStorage
    except (OSError, BadInputError):
        return False


def _read_kind(instance: Path | Dataset) -> tuple[str, str]:
    """Return SOP class and transfer syntax."""
    try:
        meta = (
            dcmread(instance, specific_tags=[], stop_before_pixels=True) if isinstance(instance, Path) else instance
        ).file_meta
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise BadInputError("One of the files to be sent is no complete DICOM file.") from error


def scan(
    instances: Sequence[Path | Dataset],
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    on_stored: Callable[[StoredInstance], None] | None = None,
    pace_s: float = 0.0,
    monotonic: Callable[[], float] = time.monotonic,
) -> ScanResult:
    """Send instances to a Storage SCP, as they are, in one association (PS3.4, B).

    A failure status is recorded, not raised: a scanner goes on with the next image.

    Args:
        instances: Files or data sets with file meta information; of any SOP classes and transfer syntaxes.
        on_stored: Called after every answer.
        pace_s: Pause between two instances, as a scanner that reconstructs meanwhile.
        monotonic: The clock of all times in the result.

    Raises:
        UsageError: An AE title that cannot be, nothing to send.
        BadInputError: One of the files is no DICOM.
        UnreachableError: Nobody answers, or the connection broke in between.
        RefusedError: The association was refused, or a kind of instance is not accepted.
    """
    if not is_ae_title(calling_ae_title) or not is_ae_title(called_ae_title) or not instances:
        raise UsageError("A scan needs two AE titles and at least one instance.")
    kinds = list(dict.fromkeys(_read_kind(instance) for instance in instances))
    association = _associate(host, port, calling_ae_title, called_ae_title, kinds)
    pause = threading.Event()
    stored: list[StoredInstance] = []
    try:
        first_at_s = monotonic()
        for number, instance in enumerate(instances, start=1):
            if pace_s > 0 and number > 1:
                pause.wait(pace_s)
            size_bytes, dataset = _load(instance)
            peer_status = _store(association, dataset, (number - 1) % 65_535 + 1)
            answered = StoredInstance(number, size_bytes, peer_status, monotonic())
            stored.append(answered)
            if on_stored is not None:
                on_stored(answered)
        association.release()
    finally:
        if association.is_alive():
            association.abort()
    return ScanResult(
        instances=len(stored),
        raw_part10_bytes=sum(one.part10_bytes for one in stored),
        first_store_at_s=first_at_s,
        last_stored_at_s=stored[-1].answered_at_s,
        stored=tuple(stored),
    )


def _associate(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    kinds: Sequence[tuple[str, str]],
) -> Association:
    if len(kinds) > CONTEXTS_MAX:
        raise UsageError(f"More than {CONTEXTS_MAX} kinds of instances do not fit into one association.")
    entity = AE(ae_title=calling_ae_title)
    entity.connection_timeout = CONNECT_TIMEOUT_S
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = RESPONSE_TIMEOUT_S
    for sop_class_uid, transfer_syntax_uid in kinds:
        entity.add_requested_context(sop_class_uid, [transfer_syntax_uid])
    reached = threading.Event()

    def note_connection(event: evt.Event) -> None:
        """Remember that somebody answered at all."""
        reached.set()
        connection = event.assoc.dul.socket
        wire = connection.socket if connection is not None else None
        if wire is not None:  # many small PDUs: Nagle's algorithm would hold each back for 40 ms
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    association = entity.associate(
        host, port, ae_title=called_ae_title, evt_handlers=[(evt.EVT_CONN_OPEN, note_connection)]
    )
    where = f"{called_ae_title} at {host}:{port}"
    if not association.is_established:
        if association.is_rejected:
            raise RefusedError(
                f"{where} refused the association of {calling_ae_title}.",
                do="Check the AE titles, and whether this scanner is on the list of that site.",
            )
        if reached.is_set():
            raise RefusedError(
                f"{where} answered but did not agree to an association.",
                do="Check that a DICOM Storage SCP listens there and knows this scanner.",
            )
        raise UnreachableError(f"Nobody answers at {host}:{port}.")
    accepted = {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts}
    lacking = len(set(kinds) - accepted)
    if lacking:
        association.release()
        raise RefusedError(
            f"{where} does not accept {lacking} of {len(kinds)} kinds of instances (SOP class with "
            "transfer syntax); nothing was sent."
        )
    return association


def _load(instance: Path | Dataset) -> tuple[int, Dataset]:
    """Return the size as a Part 10 file, and what to send."""
    if isinstance(instance, Path):
        try:
            return instance.stat().st_size, dcmread(instance)
        except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, NotImplementedError) as error:
            raise BadInputError("One of the files to be sent is no complete DICOM file.") from error
    written = BytesIO()
    instance.save_as(written, enforce_file_format=True)
    return written.tell(), instance


def _store(association: Association, dataset: Dataset, message_id: int) -> int:
    try:
        answer = association.send_c_store(dataset, msg_id=message_id)
    except RuntimeError as error:
        raise UnreachableError("The connection broke while an instance was sent.") from error
    except (ValueError, AttributeError) as error:
        raise BadInputError("One of the instances cannot be encoded.") from error
    if "Status" not in answer:
        raise UnreachableError("The other side did not answer for an instance in time, or broke the connection.")
    peer_status = answer.Status
    if not isinstance(peer_status, int):
        raise LocalProtocolError("pynetdicom returned a status that is no number.")
    return peer_status
