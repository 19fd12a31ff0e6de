"""Small messages are repeated until the other side says that it heard them.

The sender's (announce, recall, redirect, correct, taken) are heard when a receipt names them; the receiver's (opened,
take, recalled) when a `taken` names them. An answer is not answered in turn, so that nothing goes round for ever.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from raypost.model.transfer import MessageKind, Priority

NOTES = frozenset(
    {
        MessageKind.ANNOUNCE,
        MessageKind.OPENED,
        MessageKind.TAKE,
        MessageKind.TAKEN,
        MessageKind.RECALL,
        MessageKind.RECALLED,
        MessageKind.REDIRECT,
        MessageKind.CORRECT,
    }
)


@dataclass(frozen=True, slots=True)
class NoteLimits:
    """Times in seconds.

    Attributes:
        emergency_first_s: A small message of an emergency that was not heard is repeated after so long.
        first_s: The same for others.
        wait_max_s: The wait doubles with each repetition up to this.
        attempts_max: So often it is sent; then a person was told long ago.
    """

    emergency_first_s: float = 4.0
    first_s: float = 20.0
    wait_max_s: float = 900.0
    attempts_max: int = 16


@dataclass(frozen=True, slots=True)
class Note:
    """A small message that the relay took and of which nothing was heard.

    Attributes:
        accepted_s: When the relay took its latest attempt.
        attempt: How often it was sent, this one included.
        priority: Of its transfer.
    """

    accepted_s: float
    attempt: int
    priority: Priority


def jitter(seed: str, attempt: int) -> float:
    """Return a number from 0 to 1 that is the same whenever it is asked for: the spread of repeated attempts.

    Taken from what is repeated and not from a random generator, so that looking twice never moves a time-out.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{attempt}".encode()).digest()[:4]) / 0xFFFFFFFF


def note_due_s(note: Note, seed: str, limits: NoteLimits) -> float | None:
    """Return when a note is repeated; None when it was repeated often enough."""
    if note.attempt >= limits.attempts_max:
        return None
    first_s = limits.emergency_first_s if note.priority is Priority.EMERGENCY else limits.first_s
    wait_s = min(first_s * 2.0 ** min(note.attempt - 1, 16), limits.wait_max_s)
    return note.accepted_s + wait_s * (1 + jitter(seed, note.attempt) / 4)
