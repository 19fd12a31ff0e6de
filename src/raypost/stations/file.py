"""8 Into the archive, once; the receipt is written from the same commit.

An instance that the sandbox cannot read is refused: the receipt names it, so that the sender is told, and the file is
kept in quarantine.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raypost.archive import arrivals, cases, corrections, events, openings, quarantine, recalls, transfers
from raypost.archive.arrivals import ToFile
from raypost.archive.cases import Filing, Origin
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.dicom.jobs import EXAMINE
from raypost.errors import BadInputError, SandboxCrashError
from raypost.model.audit import EventKind
from raypost.model.clock import Clock
from raypost.model.study import InstanceFacts
from raypost.sandbox.pool import Sandbox
from raypost.transfer.limits import Limits

EXAMINED_AT_ONCE = 2
"""Instances of a parcel that are looked at side by side; the sandbox bounds it too."""


@dataclass(frozen=True, slots=True)
class FileParcel:
    """Files what verified parcels brought."""

    archive: Archive
    sandbox: Sandbox
    clock: Clock
    limits: Limits

    def file(self, message_row: int) -> None:
        """File every complete instance of a parcel, in the transaction that the receipt is written from."""
        with self.archive.database.transaction() as tx:
            found = arrivals.instances_to_file(tx, message_row)
        if found is None:
            return
        transfer_id, waiting = found
        with ThreadPoolExecutor(EXAMINED_AT_ONCE) as threads:
            examined = list(zip(waiting, threads.map(self._examine, waiting), strict=True))
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, transfer_id)
            if transfer is None or arrivals.instances_to_file(tx, message_row) is None:
                return  # filed by another worker meanwhile
            readable: list[tuple[ToFile, InstanceFacts]] = []
            for one, facts in examined:
                if isinstance(facts, InstanceFacts) and facts.study_instance_uid == transfer.study_instance_uid:
                    readable.append((one, facts))
                elif isinstance(facts, BadInputError):
                    self._refuse(tx, transfer, one, facts)
                else:
                    wrong = BadInputError("an instance belongs to another study than its transfer")
                    self._refuse(tx, transfer, one, wrong)
            new = self._into_archive(tx, transfer, readable)
            arrivals.note_parcel_filed(tx, transfer, message_row, now)
            if transfer.case_id is not None:
                openings.apply_answer(tx, transfer, now)
                corrections.apply_waiting(tx, transfer, now)
                enqueue(tx, "route", once=f"route:{transfer.case_id}", rank=20, case_id=transfer.case_id)
            events.record(
                tx,
                now,
                EventKind.FILED,
                transfer=transfer,
                instances=len(examined),
                new=new,
            )
            rearm(tx, transfer, self.limits, now)

    def _into_archive(
        self, tx: Transaction, transfer: TransferRow, readable: list[tuple[ToFile, InstanceFacts]]
    ) -> int:
        """File what can be read; return how many instances were not here before."""
        if not readable:
            return 0
        origin = Origin(transfer.partner_id, is_test=transfer.is_test)
        filed = cases.file_instances(tx, [facts for _, facts in readable], origin, self.clock.now())
        transfer.case_id = filed[0].case_id
        pairs = zip(readable, filed, strict=True)
        arrivals.note_items_filed(tx, {one.item_id: done.instance_id for (one, _), done in pairs})
        recalls.show_again(tx, transfer.case_id, [done.instance_id for done in filed])
        return sum(done.filing is not Filing.DUPLICATE for done in filed)

    def _refuse(self, tx: Transaction, transfer: TransferRow, one: ToFile, error: BadInputError) -> None:
        """Keep in quarantine what cannot be filed; the receipt names it."""
        now, blob = self.clock.now(), self.archive.blobs.path(one.sha256)
        quarantine.put(tx, self.archive.spool, blob, error, source="mail", origin="partner", now=now, transfer=transfer)
        arrivals.note_item_refused(tx, one.item_id)

    def _examine(self, one: ToFile) -> InstanceFacts | BadInputError:
        """Look at a file in the sandbox; it must be the instance that the signed list names."""
        try:
            facts = InstanceFacts.from_json(self._look_at(one))
            if facts.sop_instance_uid != one.sop_instance_uid or facts.file_sha256 != one.sha256:
                raise BadInputError("an instance is not the one that its parcel lists")
        except BadInputError as error:
            return error
        return facts

    def _look_at(self, one: ToFile) -> dict[str, Any]:
        """Have the sandbox look; a busy machine may need a second try."""
        for is_last in (False, True):
            try:
                return self.sandbox.run(EXAMINE, self.archive.blobs.path(one.sha256), None, {"compress": False})
            except SandboxCrashError:
                if is_last:
                    raise
        raise AssertionError("unreachable")
