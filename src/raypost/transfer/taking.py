"""What an incoming parcel brings: new, double, or dropped. By number and by content, so that nothing is filed twice.

A number alone proves nothing: a sender that was restored from a backup gives the same number to other instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from raypost.model.manifest import ParcelEntry
from raypost.transfer.receiver import ReceiverState


class ItemState(Enum):
    """Where an instance of an incoming transfer is."""

    LISTED = "listed"
    ARRIVED = "arrived"
    FILED = "filed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ParcelNews:
    """What a parcel changes.

    Attributes:
        is_dropped: The transfer was recalled: nothing of it is kept; a receipt says so.
        is_double: Everything in it was here; it is answered and otherwise ignored.
        arrives: SHA-256 of whole instances that are new here, or come again after they were refused.
    """

    is_dropped: bool
    is_double: bool
    arrives: frozenset[str]


def take_parcel(
    state: ReceiverState,
    entries: Iterable[ParcelEntry],
    *,
    is_known: bool,
    items: Mapping[str, ItemState],
) -> ParcelNews:
    """Say what a verified parcel changes.

    Args:
        is_known: A parcel of this number came before.
        items: Of the instances it lists, those known here, by hash.
    """
    if state is ReceiverState.WITHDRAWN:
        return ParcelNews(is_dropped=True, is_double=False, arrives=frozenset())
    fresh = (None, ItemState.LISTED, ItemState.REFUSED)
    lacking = [one for one in entries if items.get(one.instance.sha256) in fresh]
    arrives = frozenset(one.instance.sha256 for one in lacking if one.is_whole)
    return ParcelNews(is_dropped=False, is_double=is_known and not lacking, arrives=arrives)


def bytes_covered(ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many bytes slices cover together, each counted once.

    Args:
        ranges: Pairs of offset and length in bytes; they may overlap when a parcel was cut anew.
    """
    covered = end = 0
    for offset, length in sorted(ranges):
        begin = max(offset, end)
        end = max(end, offset + length)
        covered += max(0, end - begin)
    return covered
