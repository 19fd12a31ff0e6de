"""Instances into parcels, by the pace of the line; as `archive/planning.py` does it with tables."""

from __future__ import annotations

from collections.abc import Iterable

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.planned import add_message, plan_again
from raypost.lab.simulator.rows import MessageRow, Outgoing, WaitingRow
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer import failover, pacing
from raypost.transfer.pacing import Waiting
from raypost.transfer.sender import SenderState


def add_items(transfer: Outgoing, items: Iterable[tuple[ManifestEntry, int]], now_s: float) -> None:
    """Put instances into an outgoing transfer, each once."""
    for item, reading_rank in items:
        if item.sha256 not in transfer.items:
            transfer.waiting.append(WaitingRow(item, reading_rank, len(transfer.items), now_s))
            transfer.items[item.sha256] = item
            transfer.ranks[item.sha256] = reading_rank
    transfer.waiting.sort(key=_reading_order)
    transfer.last_arrival_s = now_s


def plan_parcels(desk: Desk, transfer: Outgoing) -> None:
    """Put waiting instances into parcels as far as the pace allows."""
    limits, now_s = desk.times.pacing, desk.now()
    if not transfer.waiting:
        return
    relay = failover.choose(desk.relays_of(transfer.partner))
    row = desk.ledger.relays.get(relay or "")
    path_bytes_per_s = desk.ledger.contacts[transfer.partner].path_bytes_per_s
    payload_max_bytes = payload_size_max(row.mail_size_max_bytes if row else None)
    for _ in range(limits.in_hand_max):
        if not transfer.waiting:
            return
        waiting = transfer.waiting
        in_hand = under_way_bytes = 0
        before = transfer.parcels
        for one in transfer.live:
            if one.is_bulk and one.copy == 0:
                in_hand += one.is_in_hand
                is_recent = one.is_seen or now_s - (one.accepted_s or now_s) < limits.unheard_s
                if one.is_in_hand or (one.state is MessageState.ACCEPTED and is_recent):
                    under_way_bytes += one.size_bytes or sum(entry.length_bytes for entry in one.entries) * 11 // 8
        if in_hand >= limits.in_hand_max:
            return
        rates = [one for one in (row.rate_bytes_per_s if row else None, path_bytes_per_s) if one]
        size_max_bytes = pacing.parcel_size_max(
            before, limits, payload_max_bytes, min(rates, default=None), waiting[0].item.size_bytes
        )
        is_released = transfer.released_s is not None and transfer.released_s >= transfer.last_arrival_s
        if not pacing.parcel_goes_now(
            waiting_bytes=sum(item.item.size_bytes - item.packed_bytes for item in waiting),
            oldest_wait_s=now_s - min(item.added_s for item in waiting),
            parcels_before=before,
            in_hand=in_hand,
            is_closed=transfer.state is SenderState.CLOSED or is_released,
            size_max_bytes=size_max_bytes,
            limits=limits,
            under_way_bytes=under_way_bytes,
            path_bytes_per_s=path_bytes_per_s,
        ):
            return
        candidates = [Waiting(item.item, item.packed_bytes) for item in waiting[: limits.instances_max]]
        entries = tuple(pacing.fill_parcel(candidates, size_max_bytes, limits.instances_max))
        add_message(
            desk, transfer, MessageKind.PARCEL, before + 1, reading_rank=waiting[0].reading_rank, entries=entries
        )
        for item, entry in zip(waiting, entries, strict=False):
            item.packed_bytes = entry.offset_bytes + entry.length_bytes
        transfer.waiting = [item for item in waiting if item.packed_bytes < item.item.size_bytes]


def take_apart(desk: Desk, transfer: Outgoing, row: MessageRow) -> None:
    """Take a parcel apart that a relay found too large: its instances go in smaller ones."""
    relay = desk.ledger.relays[row.relay]
    kept, rest = pacing.cut_smaller(row.entries, payload_size_max(relay.mail_size_max_bytes))
    waiting = {one.item.sha256: one for one in transfer.waiting}
    for again in rest:
        sha256 = again.instance.sha256
        if sha256 in waiting:
            waiting[sha256].packed_bytes = min(waiting[sha256].packed_bytes, again.offset_bytes)
        else:
            rank = transfer.ranks[sha256]
            transfer.waiting.append(WaitingRow(again.instance, rank, 0, desk.now(), again.offset_bytes))
    transfer.waiting.sort(key=_reading_order)
    row.entries = tuple(kept)
    plan_again(desk, transfer, [row])


def payload_size_max(mail_size_max_bytes: int | None) -> int:
    """Return how many bytes of instances fit into a mail; armour makes 66 bytes of 48."""
    return 1 << 40 if mail_size_max_bytes is None else max(1, (mail_size_max_bytes - 8_000) * 48 // 66)


def _reading_order(one: WaitingRow) -> tuple[bool, int, int]:
    return (one.packed_bytes == 0, one.reading_rank, one.serial)
