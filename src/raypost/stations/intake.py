"""1 DICOM in: compress, compare, file the instance, answer the modality.

Success is answered only when the file is synced and its row committed (invariant 1). What cannot be used is kept in
quarantine and answered with a failure status; one bad instance never costs the association.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from raypost.archive import cases, events, partners, quarantine, scanners, urgency
from raypost.archive.cases import FiledInstance, Filing, Origin
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.site import Archive
from raypost.dicom.jobs import EXAMINE
from raypost.dicom.scp import AssociationEnd, Received, Refusal
from raypost.errors import BadInputError, NotNowError, RaypostError, TransientError
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.model.study import InstanceFacts
from raypost.sandbox.pool import Sandbox

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
"""DIMSE status codes of C-STORE (PS3.4, B.2.3)."""


log = structlog.get_logger("raypost.intake")


@dataclass(frozen=True, slots=True)
class Intake:
    """What comes in by C-STORE.

    Attributes:
        disk_free_min_bytes: Below that nothing more is taken in: the modality keeps its images and tries again.
    """

    archive: Archive
    sandbox: Sandbox
    clock: Clock
    disk_free_min_bytes: int
    _cases: dict[str, set[int]] = field(default_factory=dict)
    _site_ids: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, received: Received) -> int:
        """Take one instance; return the status for the modality."""
        try:
            if self.archive.blobs.free_bytes() < self.disk_free_min_bytes:
                raise NotNowError("the disk is nearly full")
            return self._file(received)
        except BadInputError as error:
            return self._put_aside(received, error)
        except (TransientError, NotNowError) as error:
            log.warning("instance not taken", code=error.code, what=error.what, calling=received.calling_ae_title)
            return OUT_OF_RESOURCES

    def take_file(self, file: Path, *, is_test: bool = False, who: str = "") -> FiledInstance:
        """Take a DICOM file that a person names; the caller says where it goes, no rule does.

        Raises:
            BadInputError: It cannot be used; it stays where it is.
        """
        facts = self._keep(file)
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            origin = Origin(self._own_site_id(tx), is_test=is_test)
            filed = cases.file_instance(tx, facts, origin, now)
            if filed.filing is not Filing.DUPLICATE:  # one that a modality sent is still for the rules
                cases.note_routed(tx, filed.instance_id, now)
                _record_received(tx, filed, facts, now, who=who)
        return filed

    def _keep(self, file: Path) -> InstanceFacts:
        """Examine and compress in the sandbox, and bring the file to be kept into the blob store."""
        kept = self.archive.spool.new_file("dcm")
        try:
            found = self.sandbox.run(EXAMINE, file, kept, {"compress": True})
            facts = InstanceFacts.from_json(found)
            self.archive.blobs.adopt(kept, facts.file_sha256)
        finally:
            kept.unlink(missing_ok=True)
        return facts

    def _file(self, received: Received) -> int:
        if received.problem:
            raise BadInputError(received.problem)
        facts = self._keep(received.path)
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            origin = Origin(
                self._own_site_id(tx),
                calling_ae_title=received.calling_ae_title,
                called_ae_title=received.called_ae_title,
            )
            filed = cases.file_instance(tx, facts, origin, now)
            if filed.filing is Filing.DUPLICATE:
                events.record(tx, now, EventKind.DUPLICATE, case_id=filed.case_id, calling=received.calling_ae_title)
                if not cases.note_called_anew(tx, filed.instance_id, origin):  # routed when the association ends
                    urgency.note_sent_again(tx, filed.case_id, filed.instance_id)
            else:
                calling, host = received.calling_ae_title, received.peer_host
                _record_received(tx, filed, facts, now, calling=calling, host=host)
                if not filed.is_in_burst:  # the first of a study goes at once, the rest together with the next sweep
                    enqueue(tx, "route", once=f"route:{filed.case_id}", rank=50, case_id=filed.case_id)
        with self._lock:
            self._cases.setdefault(received.association_id, set()).add(filed.case_id)
        return SUCCESS

    def _own_site_id(self, tx: Transaction) -> int:
        """Return this site's number; it never changes, so it is asked once."""
        if not self._site_ids:
            self._site_ids.append(partners.own_site(tx).site_id)
        return self._site_ids[0]

    def _put_aside(self, received: Received, error: BadInputError) -> int:
        """Keep what cannot be used, and say so; without a database the modality is told to keep it."""
        origin = f"{received.calling_ae_title} at {received.peer_host}"
        now = self.clock.now()
        try:
            with self.archive.database.transaction() as tx:
                quarantine.put(tx, self.archive.spool, received.path, error, source="dicom", origin=origin, now=now)
        except RaypostError as away:
            log.warning("instance not put into quarantine", code=away.code, what=away.what)
            return OUT_OF_RESOURCES
        return CANNOT_UNDERSTAND

    def association_ended(self, end: AssociationEnd) -> None:
        """Note that a modality released its association: its studies settle sooner."""
        with self._lock:
            touched = self._cases.pop(end.association_id, set())
        if not touched:
            return
        now = self.clock.now()
        try:
            with self.archive.database.transaction() as tx:
                cases.note_release(tx, touched, now)
                scanners.note_image(tx, end.calling_ae_title, end.peer_host, now)
                for case_id in sorted(touched):
                    enqueue(tx, "route", once=f"route:{case_id}", rank=50, case_id=case_id)
                    enqueue(tx, "release", once=f"release:{case_id}", rank=49, case_id=case_id)
        except TransientError as error:  # the longer settle time decides then
            log.warning("release not noted", code=error.code, what=error.what)

    def refused(self, refusal: Refusal) -> None:
        """Note that a peer was turned away."""
        try:
            with self.archive.database.transaction() as tx:
                events.record(
                    tx,
                    self.clock.now(),
                    EventKind.ASSOCIATION_REFUSED,
                    level=Level.NOTICE,
                    calling=refusal.calling_ae_title,
                    called=refusal.called_ae_title,
                    host=refusal.peer_host,
                    why=refusal.reason,
                )
        except TransientError as error:
            log.warning("refusal not noted", code=error.code, what=error.what)


def _record_received(
    tx: Transaction,
    filed: FiledInstance,
    facts: InstanceFacts,
    now: datetime,
    *,
    calling: str = "",
    host: str = "",
    who: str = "",
) -> None:
    """Record who brought an instance: a DICOM peer, or a person with a file."""
    events.record(
        tx,
        now,
        EventKind.RECEIVED,
        case_id=filed.case_id,
        bytes=facts.raw_size_bytes,
        stored_bytes=facts.size_bytes,
        kept_because=facts.kept_because,
        calling=calling or None,
        host=host or None,
        who=who or None,
    )
