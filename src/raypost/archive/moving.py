"""Which relay a message goes by, and how messages leave a relay that does not let us in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import relays
from raypost.archive.database import Transaction
from raypost.archive.packing import PlannedMessage
from raypost.archive.planning import OUT, REFUSED_BY, plan_again
from raypost.archive.tables import MessageRow, RelayRow, TransferRow
from raypost.model.transfer import TO_RECEIVER, MessageKind
from raypost.transfer import failover
from raypost.transfer.failover import RelayState
from raypost.transfer.notes import NOTES

REPEATED_WITH_COPIES = NOTES | {MessageKind.MANIFEST}


@dataclass(slots=True)
class Left:
    """What became of the messages that were sealed for a relay.

    Attributes:
        transfers: Their messages are planned for another relay.
        files: Names of sealed files in the spool, to be discarded after the commit.
    """

    transfers: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def relay_for(tx: Transaction, planned: PlannedMessage, *, is_late: bool) -> str | None:
    """Return the relay by which a planned message goes; None when the partner is reached by none of ours.

    A copy for a relay that is away or unknown goes by none: None, too.

    Args:
        is_late: The transfer will miss its deadline: its messages go by all well relays in turn.
    """
    known = relays.of_partner(tx, planned.partner_site_id)
    by_name = {one.name: one for one in known}
    if planned.copy:
        is_usable = planned.relay in by_name and by_name[planned.relay].state is not RelayState.AWAY
        return planned.relay if is_usable and planned.relay not in planned.refused_by else None
    willing = [one for one in known if one.name not in planned.refused_by] or known
    if planned.kind in REPEATED_WITH_COPIES and planned.attempt > 1 and _goes_by_all(tx, planned):
        # Its copies go again by the other relays; it must not follow them.
        if any(one.name == planned.relay and one.state is RelayState.WELL for one in willing):
            return planned.relay
    if planned.attempt == 1:
        preset = planned.relay or _came_by(tx, planned)
        return failover.choose(willing, prefer=preset, turn=planned.number, is_late=is_late)
    avoid = planned.relay if planned.was_offered else ""
    return failover.choose(willing, avoid=avoid, turn=planned.number, is_late=is_late)


def relay_for_parcels(tx: Transaction, site_id: int) -> list[str]:
    """Return the relays by which new parcels may go, the likeliest first: their size limits count."""
    ordered = failover.in_order(relays.of_partner(tx, site_id))
    usable = [one.name for one in ordered if one.state is not RelayState.AWAY]
    return usable or [one.name for one in ordered]


def has_other(
    tx: Transaction, site_id: int, relay: str, refused_by: Collection[str] = (), *, also_away: bool = False
) -> bool:
    """Say whether a partner is reached by another relay that lets us in and did not refuse the message.

    Args:
        also_away: One that does not let us in at the moment counts, too.
    """
    return any(
        one.name != relay and (also_away or one.state is not RelayState.AWAY) and one.name not in refused_by
        for one in relays.of_partner(tx, site_id)
    )


def leave_relay(tx: Transaction, relay: str, now: datetime) -> Left:
    """Plan what is sealed for a relay once more, for another one: it is away, or not ours any more.

    Messages stay whose partner is reached by no other relay that lets us in. Copies and signs of life are given up:
    they were for this relay alone. A transaction of its own: it locks transfers, and no relay's row may be locked.
    """
    rows = tx.execute(
        sa.select(MessageRow.id, MessageRow.transfer_id, MessageRow.partner_id, MessageRow.copy, MessageRow.body).where(
            MessageRow.relay == relay, MessageRow.direction == "out", MessageRow.state == "queued"
        )
    ).all()
    reached = {site_id: relays.of_partner(tx, site_id) for site_id in {row.partner_id for row in rows}}
    left, needless, by_transfer = Left(), [], dict[int, list[int]]()
    for row in rows:
        refused_by = (row.body or {}).get(REFUSED_BY, ())
        elsewhere = any(
            one.name != relay and one.state is not RelayState.AWAY and one.name not in refused_by
            for one in reached[row.partner_id]
        )
        if row.transfer_id is None or (row.copy and elsewhere):
            needless.append(row.id)
        elif elsewhere:
            by_transfer.setdefault(row.transfer_id, []).append(row.id)
    for transfer_id in sorted(by_transfer):
        transfer = tx.get(TransferRow, transfer_id, with_for_update={"key_share": True})
        if transfer is None:
            continue
        mine = [MessageRow.id.in_(by_transfer[transfer_id]), OUT, MessageRow.state == "queued"]
        left.files += tx.scalars(sa.select(MessageRow.message_file).where(*mine).with_for_update(key_share=True))
        if plan_again(tx, transfer, mine, now, keeps_tries=True):
            left.transfers.append(transfer_id)
    left.files += _give_up(tx, needless)
    return left


def _give_up(tx: Transaction, message_rows: list[int]) -> list[str]:
    chosen = [MessageRow.id.in_(message_rows), MessageRow.state == "queued"]
    files = tx.scalars(sa.select(MessageRow.message_file).where(*chosen).with_for_update(key_share=True)).all()
    tx.execute(sa.update(MessageRow).where(*chosen).values(state="replaced", due=None, message_file=""))
    return [name for name in files if name]


def not_ours(tx: Transaction) -> list[str]:
    """Return relays for which messages are sealed and on which this site has no account any more.

    Called when no session runs: what such a session had in hand is taken back.
    """
    ours = sa.select(RelayRow.name).where(RelayRow.position.is_not(None))
    chosen = [MessageRow.direction == "out", MessageRow.relay.not_in(ours)]
    tx.execute(sa.update(MessageRow).where(*chosen, MessageRow.state == "sending").values(state="queued", slot=None))
    return sorted(tx.scalars(sa.select(MessageRow.relay).where(*chosen, MessageRow.state == "queued").distinct()))


def note_came_by(tx: Transaction, transfer: TransferRow, kind: MessageKind, number: int, relay: str) -> None:
    """Note by which relay a message of the other side came: answers go the same way, as it carries mails."""
    tx.execute(
        sa.update(MessageRow)
        .where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "in",
            MessageRow.kind == kind.value,
            MessageRow.number == number,
        )
        .values(relay=relay)
        .execution_options(synchronize_session="fetch")
    )


def _goes_by_all(tx: Transaction, planned: PlannedMessage) -> bool:
    copies = sa.select(MessageRow.id).where(
        MessageRow.transfer_id == planned.transfer_id,
        MessageRow.direction == "out",
        MessageRow.kind == planned.kind.value,
        MessageRow.number == planned.number,
        MessageRow.copy > 0,
        MessageRow.state != "replaced",
    )
    return tx.scalar(copies.limit(1)) is not None


def _came_by(tx: Transaction, planned: PlannedMessage) -> str:
    """Return the relay by which the latest message came that a receipt or an answer speaks of: it carries mails."""
    if planned.kind in TO_RECEIVER or planned.kind is MessageKind.HELLO:
        return ""
    latest = (
        sa.select(MessageRow.relay)
        .where(MessageRow.transfer_id == planned.transfer_id, MessageRow.direction == "in", MessageRow.relay != "")
        .order_by(MessageRow.id.desc())
        .limit(1)
    )
    return tx.scalar(latest) or ""
