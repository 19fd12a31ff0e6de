"""2 Notice that nothing new has come for a study, that a receipt is overdue, or that a job was lost.

Waiting is a row with a due instant, never a parked thread; the sweep runs every second and costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from raypost.archive import (
    audit_events,
    audit_spool,
    collected,
    forwards,
    greetings,
    listed,
    outbox,
    overdue,
    packing,
    relays,
    transfers,
)
from raypost.archive.queue import enqueue
from raypost.archive.rearm import rearm, send_elsewhere
from raypost.archive.site import Archive
from raypost.model.clock import Clock
from raypost.transfer.limits import Limits

SWEEP_MAX = 200
FORGET_AFTER = timedelta(days=30)
"""Longer than any mail queue keeps a mail: until then a mail that comes twice is recognised."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Looks at everything whose time has come."""

    archive: Archive
    clock: Clock
    limits: Limits
    dispatch_slots: int

    def sweep(self) -> None:
        """Hand out what is due; a lost job is asked for again.

        Raises:
            UnreachableError: The database is away.
        """
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            if audit_events.is_due(tx) or audit_spool.is_due(tx, now):
                enqueue(tx, "audit", once="audit", unless_running=True)
            if not overdue.is_anything_due(tx, now):
                return
            for transfer_id in overdue.due_transfers(tx, now, SWEEP_MAX):
                enqueue(tx, "check", once=f"check:{transfer_id}", rank=60, transfer_id=transfer_id)
            for relay in outbox.due_relays(tx, now):
                outbox.wake_dispatch(tx, relay, self.dispatch_slots)
            for relay in relays.due_relays(tx, now):
                outbox.wake_dispatch(tx, relay, self.dispatch_slots)
            for transfer_id in packing.stale_planned(tx, now):
                enqueue(tx, "pack", once=f"pack:{transfer_id}", transfer_id=transfer_id)
            for collected_id, rank in collected.due_mails(tx, now, SWEEP_MAX):
                enqueue(tx, "open", once=f"open:{collected_id}", rank=rank, collected_id=collected_id)
            for node_id in forwards.due_nodes(tx, now):
                enqueue(tx, "forward", once=f"forward:{node_id}", node_id=node_id)
            for case_id in overdue.cases_unrouted(tx, SWEEP_MAX):
                enqueue(tx, "route", once=f"route:{case_id}", unless_running=True, case_id=case_id)
            for site_id in greetings.due_partners(tx, now):
                enqueue(tx, "greet", once=f"greet:{site_id}", site_id=site_id)
            for message_row in overdue.parcels_unfiled_since(tx, now - timedelta(seconds=60), SWEEP_MAX):
                enqueue(tx, "file", once=f"file:{message_row}", message_row=message_row)

    def check(self, transfer_id: int) -> None:
        """Decide what a transfer waits for now; when a rule for a silent centre has its time, do what it says."""
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, transfer_id)
            if transfer is None or not rearm(tx, transfer, self.limits, self.clock.now()):
                return
        with self.archive.database.transaction() as tx:  # anew: the case is locked before its transfers
            transfer = transfers.lock_with_case(tx, transfer_id)
            needless = [] if transfer is None else send_elsewhere(tx, transfer, self.limits, self.clock.now())
        for name in needless:
            self.archive.spool.discard(name)

    def release(self, case_id: int) -> None:
        """Look at the open transfers of a case whose modality released its association."""
        with self.archive.database.transaction() as tx:
            transfers.lock_case(tx, case_id)  # as routing does: whoever locks several transfers of a case goes alone
            for transfer_id in overdue.streaming_of_case(tx, case_id):
                transfer = transfers.lock(tx, transfer_id)
                if transfer is not None:
                    rearm(tx, transfer, self.limits, self.clock.now())

    def tidy(self) -> None:
        """Remove files and rows that nothing needs any more; run once an hour."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            collected.forget_old(tx, now - FORGET_AFTER)
            listed.forget_stale(tx, now)
            named = overdue.files_in_use(tx)
        self.archive.spool.sweep_orphans(now, named)
