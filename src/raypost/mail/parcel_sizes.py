"""How much fits into a mail, for those who plan parcels."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.mail.parcels import payload_size_max

ENTRY_OVERHEAD_BYTES = 500
"""Of one instance in a parcel: its line in the control part and the MIME headers of its part."""


@dataclass(frozen=True, slots=True)
class ParcelRoom:
    """What fits into one mail: so many bytes of instances, and so many instances."""

    size_max_bytes: int
    instances_max: int


def parcel_room(mail_size_max_bytes: int, instances_max: int) -> ParcelRoom | None:
    """Return what fits into one mail; None where a limit leaves no room for anything.

    Args:
        mail_size_max_bytes: The relay's limit on a mail.
        instances_max: So many instances are put into one parcel at most; fewer, where the limit is small.
    """
    try:
        payload_bytes = payload_size_max(mail_size_max_bytes)
    except ValueError:
        return None
    overhead_bytes = min(instances_max * ENTRY_OVERHEAD_BYTES, payload_bytes // 4)
    return ParcelRoom(payload_bytes - overhead_bytes, max(1, overhead_bytes // ENTRY_OVERHEAD_BYTES))
