"""What a receipt says, and what it changes at the sender: the same functions for rows and for the simulator."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer.control import Head, Numbers, Receipt
from raypost.transfer.receiver import ReceiverState

UNFILED = frozenset(
    {
        MessageState.PLANNED,
        MessageState.QUEUED,
        MessageState.SENDING,
        MessageState.ACCEPTED,
        MessageState.REFUSED,
    }
)
"""What a receipt can confirm: also what is on its way once more."""

RESENDABLE = frozenset({MessageState.ACCEPTED, MessageState.FILED})
"""What a receiver that asks for it gets again; what is in hand comes anyway."""

EARLY_RECEIPT_MAX = 4_000
"""Numbers of receipts that are remembered; far more than a transfer has."""


@dataclass(frozen=True, slots=True)
class ReceiptNews:
    """What a receipt changes.

    Attributes:
        confirmed: Parcels that are filed at the partner and were not known to be.
        heard: Small messages that arrived and were not known to.
        ask_again: Parcels to be sent once more.
        seen: Parcels that are at the partner or in its mailbox and not filed yet: not lost. Of the latest receipt; one
            that an earlier receipt saw and this one does not is as if nothing had been heard of it.
        is_progress: Something new is there: patience begins anew.
    """

    confirmed: frozenset[int]
    heard: frozenset[tuple[MessageKind, int]]
    ask_again: frozenset[int]
    is_progress: bool
    seen: frozenset[int] = frozenset()


def read_receipt(
    receipt: Receipt,
    *,
    parcels: Mapping[int, MessageState],
    notes: Mapping[tuple[MessageKind, int], MessageState],
    seen_before: Collection[int] = (),
    just_sent: Collection[int] = (),
) -> ReceiptNews:
    """Say what a receipt that was not read before changes.

    A parcel that is asked for is sent again even where an earlier receipt confirmed it: the partner may have been
    restored from a backup, and slices that did not add up are asked for anew.

    Args:
        parcels: Our parcels by number.
        notes: Our small messages, and the manifest: it is heard like them, and no parcel.
        seen_before: Parcels that any receipt saw since the last one was confirmed: being seen is progress once.
        just_sent: Parcels that the relay accepted less than a round trip ago: a receipt that asks for one crossed it.
    """
    filed = receipt.parcels_filed - receipt.parcels_missing
    confirmed = frozenset(number for number in filed if parcels.get(number) in UNFILED)
    heard = frozenset(
        (kind, number)
        for kind, numbers in receipt.heard.items()
        for number in numbers
        if notes.get((kind, number)) in UNFILED
    )
    if receipt.is_final:  # whoever has everything needs no announcement any more, though its version may not know any
        heard |= {one for one, state in notes.items() if one[0] is MessageKind.ANNOUNCE and state in UNFILED}
    missing = receipt.parcels_missing - frozenset(just_sent)
    ask_again = frozenset(number for number in missing if parcels.get(number) in RESENDABLE)
    seen = frozenset(number for number in receipt.parcels_seen if parcels.get(number) in UNFILED) - confirmed
    # A repeated manifest is heard again and a final receipt comes again without anything new at the partner.
    said = any(kind is not MessageKind.MANIFEST for kind, _ in heard)
    is_progress = bool(confirmed or said or not seen <= frozenset(seen_before))
    return ReceiptNews(confirmed, heard, ask_again, is_progress, seen)


@dataclass(frozen=True, slots=True)
class FinalVerdict:
    """What a final receipt says of our instances, by hash."""

    filed: frozenset[str]
    refused: frozenset[str]
    unnamed: frozenset[str]

    @property
    def is_delivered(self) -> bool:
        """Say whether every instance is named as filed (invariant 3)."""
        return not self.refused and not self.unnamed


def judge_final(receipt: Receipt, instances: frozenset[str]) -> FinalVerdict:
    """Compare a final receipt with what the transfer holds.

    Args:
        instances: SHA-256 of every instance of the transfer.
    """
    filed = instances & receipt.filed
    refused = (instances & receipt.refused) - filed
    return FinalVerdict(filed, refused, instances - filed - refused)


def missing_parcels(arrived: frozenset[int], manifest_parcels: int | None) -> frozenset[int]:
    """Return which parcels are not here: below the highest seen, and up to the manifest's number; at least the first.

    Args:
        arrived: Numbers of parcels that are here, filed or not.
        manifest_parcels: How many there are; None before the manifest.
    """
    last = max([manifest_parcels or 1, *arrived])
    return frozenset(range(1, last + 1)) - arrived


def gap_since_s(
    arrived: Mapping[int, float], seen: frozenset[int], manifest: tuple[int, float] | None = None
) -> float | None:
    """Return since when it is known that a parcel is missing; None while none is.

    Args:
        arrived: When each parcel came that is here.
        seen: Parcels that lie in our mailboxes.
        manifest: How many parcels there are, and when the manifest came; None before.
    """
    if not arrived and manifest is None:
        return None
    missing = missing_parcels(frozenset(arrived) | seen, manifest[0] if manifest else None)
    if not missing:
        return None
    first = min(missing)
    known_s = [at_s for number, at_s in arrived.items() if number > first]
    if manifest is not None and manifest[0] >= first:
        known_s.append(manifest[1])
    return min(known_s, default=None)


def write_receipt(
    head: Head,
    *,
    state: ReceiverState,
    parcels: Mapping[int, MessageState],
    manifest_parcels: int | None,
    filed: frozenset[str],
    refused: frozenset[str],
    heard: Numbers,
    asks: bool,
    seen: frozenset[int] = frozenset(),
    first_arrival_at: datetime | None = None,
    last_filed_at: datetime | None = None,
) -> Receipt:
    """Return the receipt that says what is committed here.

    Args:
        parcels: Incoming parcels by number.
        filed: SHA-256 of the instances in the archive.
        refused: Of those in quarantine.
        asks: Name what is missing: only after a wait, what is late may still be on its way.
        seen: Parcels that lie in our mailboxes and will be fetched: neither filed nor missing.
    """
    is_final = state is ReceiverState.COMPLETE
    filed_parcels = frozenset(number for number, one in parcels.items() if one is MessageState.FILED)
    here = frozenset(parcels) | seen
    asks = asks and state in (ReceiverState.EXPECTED, ReceiverState.ARRIVING)
    return Receipt(
        head,
        parcels_filed=filed_parcels,
        parcels_missing=missing_parcels(here, manifest_parcels) if asks else frozenset(),
        instances_filed=len(filed),
        filed=filed if is_final else frozenset(),
        refused=refused,
        is_final=is_final,
        heard=heard,
        is_withdrawn=state is ReceiverState.WITHDRAWN,
        first_arrival_at=first_arrival_at,
        last_filed_at=last_filed_at,
        parcels_seen=frozenset() if is_final else here - filed_parcels,
    )
