"""The times of all state machines, in one hand."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.transfer.failover import FailoverLimits
from raypost.transfer.hello import HelloLimits
from raypost.transfer.receiver import ReceiverLimits
from raypost.transfer.sender import SenderLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of the sender's, the receiver's, the relays' and the partners' machines."""

    sender: SenderLimits = SenderLimits()
    receiver: ReceiverLimits = ReceiverLimits()
    relays: FailoverLimits = FailoverLimits()
    hello: HelloLimits = HelloLimits()
