"""Bounces: a relay says that a mail which was taken could not be delivered.

Nobody signed it, so it is a hint: what it names by our random Message-ID is sent again sooner, by another relay or cut
smaller, a few times at most. Receipts decide as before.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events, moving, outbox, planning, relays, transfers
from raypost.archive.database import Transaction
from raypost.archive.planning import BULK
from raypost.archive.rearm import rearm
from raypost.archive.tables import MessageRow, ParcelEntryRow, TransferRow
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind
from raypost.transfer.limits import Limits
from raypost.transfer.refusals import Remedy
from raypost.transfer.sender import OPEN

ATTEMPTS_MAX = 4
"""A bounce of a later attempt only stands in the log: then the time-outs of receipts decide alone."""
CUT_MIN_BYTES = 30_000
"""A parcel that holds less is not cut: its size is not what was disliked."""
SAID_LENGTH_MAX = 200
_OPEN_WORDS = frozenset(state.value for state in OPEN)


def take_bounce(
    tx: Transaction, message_row: int, remedy: Remedy | None, said: str, limits: Limits, now: datetime
) -> None:
    """Take in a bounce of a mail of ours.

    Args:
        message_row: Of the message that it names by its latest Message-ID.
        remedy: What helps (`mail.smtp_replies.judge_bounce`); None: nothing is wrong yet.
        said: The other server's words.
    """
    found = tx.get_one(MessageRow, message_row)
    transfer = None if found.transfer_id is None else transfers.lock(tx, found.transfer_id)
    row = tx.get_one(MessageRow, message_row, with_for_update={"key_share": True}, populate_existing=True)
    done, level = "noted", Level.NOTICE
    if remedy is not None and row.state == "accepted" and transfer is not None:
        done, level = _mend(tx, transfer, row, remedy, limits, now)
    events.record(
        tx,
        now,
        EventKind.BOUNCED,
        level=level,
        transfer=transfer,
        site_id=row.partner_id,
        message=row.kind,
        number=row.number,
        relay=row.relay,
        said=said[:SAID_LENGTH_MAX],
        done=done,
    )
    if transfer is not None:
        rearm(tx, transfer, limits, now)


def _mend(
    tx: Transaction, transfer: TransferRow, row: MessageRow, remedy: Remedy, limits: Limits, now: datetime
) -> tuple[str, Level]:
    """Do what helps; return what was done, and who should notice."""
    if row.copy:
        row.state = "replaced"  # the message itself goes by another relay
        return "copy given up", Level.INFO
    is_over = row.kind in BULK and transfer.direction == "out" and transfer.state not in _OPEN_WORDS
    if is_over or row.attempt >= ATTEMPTS_MAX:
        return "noted", Level.NOTICE
    if remedy is Remedy.CUT_SMALLER and _cut(tx, transfer, row, now):
        return "cut smaller", Level.NOTICE
    if moving.has_other(tx, row.partner_id, row.relay):
        relays.set_back(tx, row.relay, limits.relays, now)
        planning.plan_again(tx, transfer, [MessageRow.id == row.id], now)
        return "sent by another relay", Level.NOTICE
    if remedy is Remedy.RETRY or transfer.told_at is not None:
        return "noted", Level.NOTICE
    transfer.told_at = now
    return "told a person", Level.ALARM


def _cut(tx: Transaction, transfer: TransferRow, row: MessageRow, now: datetime) -> bool:
    """Cut a parcel and make mails half as large for a while; False for what is small already."""
    size_bytes = tx.scalar(
        sa.select(sa.func.sum(ParcelEntryRow.length_bytes)).where(ParcelEntryRow.message_id == row.id)
    )
    if row.kind != MessageKind.PARCEL.value or int(size_bytes or 0) < CUT_MIN_BYTES:
        return False
    relays.note_size_limit(tx, row.relay, row.size_bytes // 2, now)
    return outbox.cut_smaller(tx, transfer, row, int(size_bytes or 0) // 2, now)
