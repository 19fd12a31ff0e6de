"""The weathers: how mails fare, and what breaks besides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weather:
    """What a seed's mails and machines go through.

    Attributes:
        loss: Share of the mails that a relay takes and nobody sees again.
        doubled: Share that arrives twice.
        corrupt: Share that arrives damaged: quarantine, as good as lost.
        deferred: Share that a relay does not take now, with a 4xx reply.
        bounce: Share that is lost and comes back as a report hours later.
        delay_s: Mean time a mail lies in a relay.
        late: Share that lies there for `late_s` on average: hours, days.
        relay_fault: One relay is "dead" or "swallows".
        is_centre_dead: One centre answers nothing.
        is_chaos: Everything else too: kills, restores, wrong clocks, full mailboxes, expired keys, recalls.
    """

    name: str
    loss: float = 0.0
    doubled: float = 0.0
    corrupt: float = 0.0
    bounce: float = 0.0
    deferred: float = 0.0
    delay_s: float = 0.1
    late: float = 0.0
    late_s: float = 0.0
    relay_fault: str = ""
    is_centre_dead: bool = False
    is_chaos: bool = False


WEATHERS: dict[str, Weather] = {
    one.name: one
    for one in (
        Weather("fair"),
        Weather("mild", loss=0.05, doubled=0.02, delay_s=0.3),
        Weather("storm", loss=0.30, doubled=0.05, corrupt=0.01, bounce=0.01, delay_s=1.0),
        Weather("relay-dead", relay_fault="dead"),
        Weather("relay-swallows", relay_fault="swallows"),
        Weather("centre-dead", is_centre_dead=True),
        Weather(
            "chaos",
            loss=0.10,
            doubled=0.10,
            corrupt=0.03,
            bounce=0.02,
            deferred=0.05,
            delay_s=2.0,
            late=0.03,
            late_s=20_000.0,
            is_chaos=True,
        ),
    )
}

TURNS = ("fair", "mild", "storm", "relay-dead", "relay-swallows", "centre-dead", "chaos", "fair")
"""The weather of a seed is its number's place in this list: each comes as often, fair twice."""


def weather_of(seed: int) -> Weather:
    """Return the weather in which a seed is played when no other is ordered."""
    return WEATHERS[TURNS[seed % len(TURNS)]]
