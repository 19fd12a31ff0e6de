"""How large the next parcel may be and whether it goes now: first small and early, then larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority

ROUND_TRIP_WEIGHT = 0.25
ROUND_TRIP_MAX_S = 60.0
"""Longer ones are not round trips: a receipt was held back for hours, or the partner was away."""

SHARED_LINK = 3
"""A mail may take so many times longer than it would alone."""
SLOW_LINK_BYTES_PER_S = 100_000.0
"""What a link is thought to carry before it was measured."""

FIRST_PARCEL_MIN_BYTES = 100_000
"""No link is so slow that the first parcel is made smaller than this."""


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """Sizes of payload, before armour.

    Attributes:
        first_parcel_max_bytes: The first parcel, so that something readable arrives early.
        parcel_min_bytes: A later parcel waits for so much, or for `parcel_wait_s`.
        parcel_max_bytes: No parcel is larger, whatever the relay allows.
        growth: Each parcel may be so many times larger than the one before.
        first_parcel_link_s: The first parcel is no larger than what the link carries in so many seconds, but for one
            whole instance: for an emergency it goes by every relay.
        parcel_link_s: What the slower of our link and the partner's carries in so many seconds is as large as a parcel
            gets: nothing urgent waits longer behind it.
        path_s: Where the partner's link is known, no more is on its way to it than that carries in so many seconds:
            what is read first, and comes later from the scanner, does not queue up behind it.
        unheard_s: What the relay took so long ago, and the partner does not speak of, does not count any more.
        in_hand_max: So many parcels of a transfer are packed ahead of the relay.
        instances_max: So many instances in one parcel.
    """

    first_parcel_max_bytes: int = 400_000
    parcel_min_bytes: int = 1_000_000
    parcel_max_bytes: int = 6_000_000
    parcel_wait_s: float = 1.0
    growth: int = 3
    first_parcel_link_s: float = 0.7
    parcel_link_s: float = 2.0
    path_s: float = 8.0
    unheard_s: float = 10.0
    in_hand_max: int = 2
    instances_max: int = 500


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance, or the rest of one, that is in no parcel yet."""

    instance: ManifestEntry
    offset_bytes: int = 0

    @property
    def rest_bytes(self) -> int:
        """Return how much of it is still to be packed."""
        return self.instance.size_bytes - self.offset_bytes


def message_rank(kind: MessageKind, priority: Priority, *, is_read_first: bool = False) -> int:
    """Return the number that outgoing messages are sorted by, highest first: small ones, then what is read first.

    Args:
        is_read_first: A parcel with something of what makes the study readable.
    """
    if kind is not MessageKind.PARCEL:
        return priority.rank + 2
    return priority.rank + is_read_first


def sent_by_s(sending_s: float, size_bytes: int, link_bytes_per_s: float | None) -> float:
    """Return when a message that is being sent should be through: if it is not, the relay hangs.

    Args:
        sending_s: When a session took it.
        link_bytes_per_s: What the link was measured to carry; it may be shared with others.
    """
    return sending_s + SHARED_LINK * size_bytes / (link_bytes_per_s or SLOW_LINK_BYTES_PER_S)


def smoothed_round_trip_s(before_s: float | None, measured_s: float) -> float:
    """Return the smoothed time from "the relay took it" to the receipt that speaks of it, with one more measured.

    Bounded, as time-outs are made of it: hours in one of them would stop repair for hours.

    Args:
        measured_s: Of a message that was sent once (a repeated one says nothing: which attempt was heard?).
    """
    bounded_s = min(max(measured_s, 0.0), ROUND_TRIP_MAX_S)
    return bounded_s if before_s is None else before_s + ROUND_TRIP_WEIGHT * (bounded_s - before_s)


def parcel_size_max(
    parcels_before: int,
    limits: PacingLimits,
    relay_payload_max_bytes: int,
    link_bytes_per_s: float | None = None,
    instance_bytes: int = 0,
) -> int:
    """Return how many payload bytes parcel number `parcels_before` + 1 may hold.

    Args:
        instance_bytes: Size of the instance that is to go first: the first parcel carries it whole where limits allow.
        link_bytes_per_s: What the slower of our link to the relay and the partner's was measured to carry; None before.
    """
    grown = limits.first_parcel_max_bytes * int(limits.growth ** min(parcels_before, 12))
    sizes = [grown, limits.parcel_max_bytes, relay_payload_max_bytes]
    if link_bytes_per_s is not None:  # armour makes four bytes of three
        if parcels_before:
            sizes.append(max(limits.first_parcel_max_bytes, int(link_bytes_per_s * limits.parcel_link_s * 3 / 4)))
        else:
            carried = int(link_bytes_per_s * limits.first_parcel_link_s * 3 / 4)
            sizes.append(max(FIRST_PARCEL_MIN_BYTES, instance_bytes, carried))
    return max(1, min(sizes))


def parcel_goes_now(
    *,
    waiting_bytes: int,
    oldest_wait_s: float,
    parcels_before: int,
    in_hand: int,
    is_closed: bool,
    size_max_bytes: int,
    limits: PacingLimits,
    under_way_bytes: int = 0,
    path_bytes_per_s: float | None = None,
) -> bool:
    """Say whether the next parcel is made now or waits: for more instances, or because the partner is slower than we.

    Args:
        under_way_bytes: Of the parcels that are in hand, or seen by the partner and not filed, or accepted by the relay
            within the last `unheard_s`.
        path_bytes_per_s: What the partner's link carries, by its hello; None: unknown.
    """
    if waiting_bytes <= 0 or in_hand >= limits.in_hand_max:
        return False
    next_bytes = min(waiting_bytes, size_max_bytes) * 11 // 8  # armour makes 66 bytes of 48
    if path_bytes_per_s and under_way_bytes and under_way_bytes + next_bytes > path_bytes_per_s * limits.path_s:
        return False
    if is_closed or parcels_before == 0 or waiting_bytes >= size_max_bytes:
        return True
    if in_hand:
        return False
    return waiting_bytes >= limits.parcel_min_bytes or oldest_wait_s >= limits.parcel_wait_s


def cut_smaller(entries: Sequence[ParcelEntry], size_max_bytes: int) -> tuple[list[ParcelEntry], list[Waiting]]:
    """Cut a parcel that a relay found too large: it keeps its number and what fits, the rest is to be packed anew.

    It keeps its number so that no number is missing at the receiver, which would ask for it in vain.

    Args:
        size_max_bytes: Payload that fits now.

    Returns:
        What the parcel carries from now on, and what waits again.
    """
    kept: list[ParcelEntry] = []
    rest: list[Waiting] = []
    room = size_max_bytes
    for one in entries:
        if not rest and one.length_bytes <= room:
            kept.append(one)
            room -= one.length_bytes
        elif not kept:
            kept.append(ParcelEntry(one.instance, one.offset_bytes, max(1, min(one.length_bytes, room))))
            rest.append(Waiting(one.instance, one.offset_bytes + kept[0].length_bytes))
        else:
            rest.append(Waiting(one.instance, one.offset_bytes))
    return kept, [one for one in rest if one.rest_bytes]


def fill_parcel(waiting: list[Waiting], size_max_bytes: int, instances_max: int) -> list[ParcelEntry]:
    """Take as many whole instances as fit, in order; one that fits into no parcel alone is cut into slices.

    Args:
        waiting: What is not packed yet, in the order of sending; only the first may be begun.
        size_max_bytes: Payload of this parcel.
    """
    entries: list[ParcelEntry] = []
    room = size_max_bytes
    for one in waiting[:instances_max]:
        if one.rest_bytes <= room and one.offset_bytes == 0:
            entries.append(ParcelEntry(one.instance, 0, one.rest_bytes))
            room -= one.rest_bytes
        elif not entries:
            entries.append(ParcelEntry(one.instance, one.offset_bytes, min(one.rest_bytes, room)))
            break
        else:
            break
    return entries
