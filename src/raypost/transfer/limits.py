"""The times of all state machines, in one hand."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.transfer.failover import FailoverLimits
from raypost.transfer.hello import HelloLimits
from raypost.transfer.receiver import ReceiverLimits
from raypost.transfer.sender import SenderLimits

DUE_HORIZON_S = 1_800.0
"""Nothing is ever due later than so long from now: what seems to be was written before the clock was set back."""


def is_due(due_s: float, now_s: float) -> bool:
    """Say whether a row must be looked at: its time has come, or the clock was set back since it was written."""
    return due_s <= now_s or due_s > now_s + DUE_HORIZON_S


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of the sender's, the receiver's, the relays' and the partners' machines."""

    sender: SenderLimits = SenderLimits()
    receiver: ReceiverLimits = ReceiverLimits()
    relays: FailoverLimits = FailoverLimits()
    hello: HelloLimits = HelloLimits()
