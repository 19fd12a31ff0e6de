"""How much fits into a mail, for those who plan parcels."""

from __future__ import annotations

from raypost.mail.parcels import payload_size_max

ENTRY_OVERHEAD_BYTES = 500
"""Of one instance in a parcel: its line in the control part and the MIME headers of its part."""


def instances_size_max(mail_size_max_bytes: int, instances_max: int) -> int | None:
    """Return how many bytes of instances fit into one mail; None where a limit leaves no room for anything.

    Args:
        mail_size_max_bytes: The relay's limit on a mail.
        instances_max: So many instances are put into one parcel at most.
    """
    try:
        payload_bytes = payload_size_max(mail_size_max_bytes)
    except ValueError:
        return None
    room = payload_bytes - instances_max * ENTRY_OVERHEAD_BYTES
    return room if room > 0 else payload_bytes // 2
