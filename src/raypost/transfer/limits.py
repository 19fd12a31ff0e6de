"""The times of both state machines, in one hand."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.transfer.receiver import ReceiverLimits
from raypost.transfer.sender import SenderLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of the sender's and the receiver's machine."""

    sender: SenderLimits = SenderLimits()
    receiver: ReceiverLimits = ReceiverLimits()
