"""A site's line: how long a mail takes; what is small slips past the bulk."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.lab.simulator.relays import SMALL_BYTES


@dataclass(slots=True)
class Link:
    """One direction of a line.

    Attributes:
        bytes_per_s: What it carries.
        latency_s: What the commands of one mail cost besides its bytes.
        free_s: When the bulk that is on it now is through: several bulk mails at once share the line.
    """

    bytes_per_s: float
    latency_s: float
    free_s: float = 0.0

    def carry(self, size_bytes: int, now_s: float) -> float:
        """Return how many seconds a mail takes that begins now."""
        if size_bytes <= SMALL_BYTES:
            return self.latency_s + 2 * size_bytes / self.bytes_per_s
        self.free_s = max(self.free_s, now_s) + size_bytes / self.bytes_per_s
        return self.free_s - now_s + self.latency_s
