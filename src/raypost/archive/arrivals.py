"""What verified messages bring: parcels, manifests and receipts are taken into the tables, each once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events, transfers
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import MessageRow, ParcelEntryRow, TransferItemRow, TransferRow
from raypost.errors import RemoteProtocolError
from raypost.model.audit import EventKind, Level
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import Priority
from raypost.transfer.control import Manifest, Parcel, Receipt
from raypost.transfer.sender import SenderEvent, SenderState, fire


@dataclass(frozen=True, slots=True)
class ToFile:
    """An instance whose blob is here and whose archive row is not yet."""

    item_id: int
    sha256: str
    sop_instance_uid: str


def take_parcel(tx: Transaction, transfer: TransferRow, parcel: Parcel, now: datetime) -> bool:
    """Take in a parcel whose whole instances are in the blob store and whose slices are in the assembly.

    Returns:
        True when it is new; False for a double, which is answered with a receipt and otherwise ignored.

    Raises:
        RemoteProtocolError: It says other things of an instance than another message did.
    """
    transfers.note_arrival(tx, transfer, now)
    known = tx.scalar(
        sa.select(MessageRow).where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "in",
            MessageRow.kind == "parcel",
            MessageRow.number == parcel.head.number,
        )
    )
    if known is not None:
        transfer.news += 1
        events.record(tx, now, EventKind.DUPLICATE, transfer=transfer, number=parcel.head.number)
        return False
    row = MessageRow(
        transfer_id=transfer.id,
        direction="in",
        kind="parcel",
        number=parcel.head.number,
        state="verified",
        planned_at=now,
    )
    tx.add(row)
    tx.flush()
    items = _items(tx, transfer, [entry.instance for entry in parcel.entries], now)
    for entry in parcel.entries:
        tx.add(
            ParcelEntryRow(
                message_id=row.id,
                item_id=items[entry.instance.sha256].id,
                offset_bytes=entry.offset_bytes,
                length_bytes=entry.length_bytes,
            )
        )
    tx.flush()
    for entry in parcel.entries:
        item = items[entry.instance.sha256]
        if item.state == "listed" and (entry.is_whole or _bytes_here(tx, item) >= item.size_bytes):
            item.state = "arrived"
    enqueue(tx, "file", once=f"file:{row.id}", rank=Priority(transfer.priority).rank, message_row=row.id)
    return True


def take_manifest(tx: Transaction, transfer: TransferRow, manifest: Manifest, now: datetime) -> None:
    """Take in the manifest; a second one (sent again) changes nothing and is answered.

    Raises:
        RemoteProtocolError: It contradicts what arrived or an earlier manifest.
    """
    transfers.note_arrival(tx, transfer, now)
    transfer.news += 1
    if transfer.manifest_instances is not None:
        if transfer.manifest_instances != len(manifest.instances):
            raise RemoteProtocolError("a second manifest of the transfer names another number of instances")
        return
    for item in _items(tx, transfer, list(manifest.instances), now).values():
        item.in_manifest = True
    tx.flush()
    transfer.manifest_parcels, transfer.manifest_instances = manifest.parcels, len(manifest.instances)
    transfer.closed_at = now


def take_receipt(tx: Transaction, transfer: TransferRow, receipt: Receipt, now: datetime) -> list[str]:
    """Take in what the partner says it has. Only a final receipt naming every instance by hash means delivered.

    Returns:
        Names of sealed files in the spool that need not be sent any more, to be discarded after the commit.
    """
    sealed = {
        row.id: row.message_file
        for row in tx.execute(
            sa.select(MessageRow.id, MessageRow.message_file)
            .where(MessageRow.transfer_id == transfer.id, MessageRow.direction == "out", MessageRow.state == "queued")
            .with_for_update(key_share=True)
        )
    }
    before = (
        tx.scalar(
            sa.select(sa.func.count()).where(
                MessageRow.transfer_id == transfer.id, MessageRow.direction == "out", MessageRow.state == "filed"
            )
        )
        or 0
    )
    confirmed = tx.execute(
        sa.update(MessageRow)
        .where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "out",
            MessageRow.kind == "parcel",
            MessageRow.number.in_(receipt.parcels_filed),
            MessageRow.state.in_(("accepted", "refused", "planned", "queued")),
        )
        .values(state="filed", filed_at=now, due=None, message_file="")
        .returning(MessageRow.number)
    ).all()
    if confirmed:
        transfer.patience_from, transfer.rounds = now, 0
    transfer.last_receipt_at, transfer.receipts = now, max(transfer.receipts, receipt.head.number)
    events.record(
        tx,
        now,
        EventKind.RECEIPTED,
        transfer=transfer,
        number=receipt.head.number,
        parcels=before + len(confirmed),
        instances=receipt.instances_filed,
        is_final=receipt.is_final,
        refused=len(receipt.refused),
    )
    if receipt.is_final:
        _take_final(tx, transfer, receipt, now)
    elif receipt.parcels_missing:
        count = transfers.send_again(tx, transfer, now, numbers=receipt.parcels_missing)
        if count:
            events.record(
                tx,
                now,
                EventKind.SENT_AGAIN,
                level=Level.NOTICE,
                transfer=transfer,
                messages=count,
                why="asked for by the partner",
            )
    done = tx.scalars(sa.select(MessageRow.id).where(MessageRow.id.in_(sealed), MessageRow.state == "filed"))
    return [sealed[message_row] for message_row in done]


def _take_final(tx: Transaction, transfer: TransferRow, receipt: Receipt, now: datetime) -> None:
    named = set(receipt.filed)
    items = tx.scalars(sa.select(TransferItemRow).where(TransferItemRow.transfer_id == transfer.id)).all()
    for item in items:
        if item.sha256 in named:
            item.state = "filed"
        elif item.sha256 in receipt.refused:
            item.state = "refused"
    state = SenderState(transfer.state)
    if state is SenderState.STREAMING:
        return  # a receipt cannot close what is still open; the manifest will be answered
    if all(item.state == "filed" for item in items):
        tx.execute(
            sa.update(MessageRow)
            .where(
                MessageRow.transfer_id == transfer.id,
                MessageRow.direction == "out",
                MessageRow.kind != "receipt",
                MessageRow.state != "replaced",
            )
            .values(state="filed", filed_at=now, due=None, message_file="")
        )
        if state is not SenderState.DELIVERED:
            transfer.finished_at = now
            events.record(
                tx,
                now,
                EventKind.TRANSFER_DELIVERED,
                transfer=transfer,
                instances=len(items),
            )
        transfer.state = fire(state, SenderEvent.RECEIPT_COMPLETE).value
    elif state is SenderState.CLOSED and all(item.state in ("filed", "refused") for item in items):
        transfer.state, transfer.finished_at = fire(state, SenderEvent.GAVE_UP).value, now
        events.record(
            tx,
            now,
            EventKind.TRANSFER_UNCONFIRMED,
            level=Level.ALARM,
            transfer=transfer,
            refused_by_partner=sum(item.state == "refused" for item in items),
        )


def instances_to_file(tx: Transaction, message_row: int) -> tuple[int, list[ToFile]] | None:
    """Return (transfer, instances) of a verified parcel whose blobs are complete; None when it was filed already."""
    message = tx.get(MessageRow, message_row)
    if message is None or message.state != "verified":
        return None
    items = tx.scalars(
        sa.select(TransferItemRow)
        .join(ParcelEntryRow, ParcelEntryRow.item_id == TransferItemRow.id)
        .where(ParcelEntryRow.message_id == message_row, TransferItemRow.state == "arrived")
        .order_by(TransferItemRow.id)
    ).all()
    return message.transfer_id, [ToFile(item.id, item.sha256, item.sop_instance_uid) for item in items]


def note_items_filed(tx: Transaction, filed: dict[int, int]) -> None:
    """Note that instances of an incoming transfer are in the archive.

    Args:
        filed: Numbers of items to numbers of instances.
    """
    for item in tx.scalars(sa.select(TransferItemRow).where(TransferItemRow.id.in_(list(filed)))):
        item.state, item.instance_id = "filed", filed[item.id]


def note_item_refused(tx: Transaction, item_id: int) -> None:
    """Note that an instance of an incoming transfer is in quarantine."""
    tx.get_one(TransferItemRow, item_id).state = "refused"


def note_parcel_filed(tx: Transaction, transfer: TransferRow, message_row: int, now: datetime) -> None:
    """Note that everything complete in a parcel is filed."""
    message = tx.get_one(MessageRow, message_row)
    if message.state == "verified":
        message.state, message.filed_at = "filed", now
        transfer.news += 1


def slices_complete(tx: Transaction, transfer: TransferRow, parcel: Parcel) -> list[ManifestEntry]:
    """Return those instances that come in slices and of which, with this parcel, every byte is here."""
    done = []
    for entry in parcel.entries:
        if not entry.is_whole:
            item = tx.scalar(
                sa.select(TransferItemRow).where(
                    TransferItemRow.transfer_id == transfer.id, TransferItemRow.sha256 == entry.instance.sha256
                )
            )
            before = _bytes_here(tx, item, without=entry.offset_bytes) if item else 0
            if before + entry.length_bytes >= entry.instance.size_bytes:
                done.append(entry.instance)
    return done


def forget_slices(tx: Transaction, transfer: TransferRow, sha256: str) -> None:
    """Forget the slices of an instance that did not add up, so that their parcels are asked for again."""
    item = tx.scalar(
        sa.select(TransferItemRow).where(TransferItemRow.transfer_id == transfer.id, TransferItemRow.sha256 == sha256)
    )
    if item is not None:
        carriers = sa.select(ParcelEntryRow.message_id).where(ParcelEntryRow.item_id == item.id)
        tx.execute(sa.delete(MessageRow).where(MessageRow.id.in_(carriers), MessageRow.direction == "in"))


def _items(
    tx: Transaction, transfer: TransferRow, entries: list[ManifestEntry], now: datetime
) -> dict[str, TransferItemRow]:
    """Return the items of these instances by hash, made when they are new."""
    values = [
        {
            "transfer_id": transfer.id,
            "sha256": entry.sha256,
            "size_bytes": entry.size_bytes,
            "sop_instance_uid": entry.sop_instance_uid,
            "state": "listed",
            "added_at": now,
        }
        for entry in entries
    ]
    tx.execute(insert(TransferItemRow).on_conflict_do_nothing(), values)
    hashes = [entry.sha256 for entry in entries]
    found = {
        item.sha256: item
        for item in tx.scalars(
            sa.select(TransferItemRow).where(
                TransferItemRow.transfer_id == transfer.id, TransferItemRow.sha256.in_(hashes)
            )
        )
    }
    for entry in entries:
        item = found[entry.sha256]
        if item.size_bytes != entry.size_bytes or item.sop_instance_uid != entry.sop_instance_uid:
            raise RemoteProtocolError("two messages of the transfer say different things of one instance")
    return found


def _bytes_here(tx: Transaction, item: TransferItemRow, without: int | None = None) -> int:
    """Count the bytes of an instance that parcels brought, each offset once."""
    offsets = (
        sa.select(ParcelEntryRow.offset_bytes, sa.func.max(ParcelEntryRow.length_bytes).label("length"))
        .join(MessageRow, MessageRow.id == ParcelEntryRow.message_id)
        .where(ParcelEntryRow.item_id == item.id, MessageRow.direction == "in")
        .group_by(ParcelEntryRow.offset_bytes)
    )
    if without is not None:
        offsets = offsets.where(ParcelEntryRow.offset_bytes != without)
    counted = offsets.subquery()
    return int(tx.scalar(sa.select(sa.func.coalesce(sa.func.sum(counted.c.length), 0))) or 0)
