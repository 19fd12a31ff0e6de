"""What verified parcels and manifests bring: taken into the tables, each once; receipts are in `receipted.py`."""

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
from raypost.model.audit import EventKind
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import Priority
from raypost.transfer import taking
from raypost.transfer.control import Manifest, Parcel
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.taking import ItemState


@dataclass(frozen=True, slots=True)
class ToFile:
    """An instance whose blob is here and whose archive row is not yet."""

    item_id: int
    sha256: str
    sop_instance_uid: str


def take_parcel(tx: Transaction, transfer: TransferRow, parcel: Parcel, now: datetime) -> bool:
    """Take in a parcel whose whole instances are in the blob store and whose slices are in the assembly.

    Returns:
        True when it brings something new; False for a double, or when the transfer was recalled: that is answered with
        a receipt and otherwise ignored.

    Raises:
        RemoteProtocolError: It says other things of an instance than another message did.
    """
    transfers.note_arrival(tx, transfer, now)
    state = ReceiverState(transfer.state)
    number, listed = parcel.head.number, [entry.instance for entry in parcel.entries]
    known = tx.scalar(_incoming(transfer, "parcel").where(MessageRow.number == number))
    if state is ReceiverState.WITHDRAWN:
        transfer.news += 1
        return False
    items = _items(tx, transfer, listed, now)
    states = {sha256: ItemState(item.state) for sha256, item in items.items()}
    found = taking.take_parcel(state, parcel.entries, is_known=known is not None, items=states)
    if found.is_double:
        transfer.news, transfer.doubles = transfer.news + 1, transfer.doubles + 1
        events.record(tx, now, EventKind.DUPLICATE, transfer=transfer, number=number)
        return False
    row = known if known is not None else _new_parcel(tx, transfer, number, now)
    row.state = "verified"
    _add_entries(tx, row.id, parcel, items)
    for entry in parcel.entries:
        item = items[entry.instance.sha256]
        is_here = entry.instance.sha256 in found.arrives if entry.is_whole else _is_covered(tx, item)
        if is_here and item.state in ("listed", "refused"):
            item.state = "arrived"
    enqueue(tx, "file", once=f"file:{row.id}", rank=Priority(transfer.priority).rank, message_row=row.id)
    return True


def _incoming(transfer: TransferRow, kind: str) -> sa.Select[MessageRow]:
    return sa.select(MessageRow).where(
        MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.kind == kind
    )


def _new_parcel(tx: Transaction, transfer: TransferRow, number: int, now: datetime) -> MessageRow:
    row = MessageRow(
        transfer_id=transfer.id,
        partner_id=transfer.partner_id,
        direction="in",
        kind="parcel",
        number=number,
        state="verified",
        planned_at=now,
    )
    tx.add(row)
    tx.flush()
    return row


def _add_entries(tx: Transaction, message_row: int, parcel: Parcel, items: dict[str, TransferItemRow]) -> None:
    values = [
        {
            "message_id": message_row,
            "item_id": items[entry.instance.sha256].id,
            "offset_bytes": entry.offset_bytes,
            "length_bytes": entry.length_bytes,
        }
        for entry in parcel.entries
    ]
    new = insert(ParcelEntryRow)
    longest = sa.func.greatest(ParcelEntryRow.length_bytes, new.excluded.length_bytes)
    tx.execute(
        new.on_conflict_do_update(
            index_elements=["message_id", "item_id", "offset_bytes"], set_={"length_bytes": longest}
        ),
        values,
    )


def take_manifest(tx: Transaction, transfer: TransferRow, manifest: Manifest, now: datetime) -> None:
    """Take in the manifest; one that was sent again changes nothing and is answered.

    One that names more than an earlier one counts too: its sender was restored from a backup and more images came.

    Raises:
        RemoteProtocolError: It says other things of an instance than another message did.
    """
    transfers.note_arrival(tx, transfer, now)
    transfer.news += 1
    transfer.doubles += transfer.manifest_instances is not None
    if transfer.state == ReceiverState.WITHDRAWN.value:
        return
    for item in _items(tx, transfer, list(manifest.instances), now).values():
        item.in_manifest = True
    tx.flush()
    named = tx.scalar(
        sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer.id, TransferItemRow.in_manifest)
    )
    transfer.manifest_parcels = max(manifest.parcels, transfer.manifest_parcels or 0)
    transfer.manifest_instances = int(named or 0)
    transfer.closed_at = transfer.closed_at or now


def instances_to_file(tx: Transaction, message_row: int) -> tuple[int, list[ToFile]] | None:
    """Return (transfer, instances) of a verified parcel whose blobs are complete; None when it was filed already."""
    message = tx.get(MessageRow, message_row)
    if message is None or message.state != "verified" or message.transfer_id is None:
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
            before = _ranges_here(tx, item) if item else []
            together = [*before, (entry.offset_bytes, entry.length_bytes)]
            if taking.bytes_covered(together) >= entry.instance.size_bytes:
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


def _is_covered(tx: Transaction, item: TransferItemRow) -> bool:
    return taking.bytes_covered(_ranges_here(tx, item)) >= item.size_bytes


def _ranges_here(tx: Transaction, item: TransferItemRow) -> list[tuple[int, int]]:
    """Return (offset, length) of every slice of an instance that parcels brought."""
    rows = tx.execute(
        sa.select(ParcelEntryRow.offset_bytes, ParcelEntryRow.length_bytes)
        .join(MessageRow, MessageRow.id == ParcelEntryRow.message_id)
        .where(ParcelEntryRow.item_id == item.id, MessageRow.direction == "in")
    )
    return [(offset, length) for offset, length in rows]
