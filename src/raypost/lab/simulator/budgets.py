"""What each weather may cost: the budgets, and how a run kept them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from raypost.lab.simulator.figures import Figures

TOLD_S = 180.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one weather. Times in seconds; None: not budgeted.

    Attributes:
        alarm_s: 99 % of the emergencies are announced at the receiver within so long.
        readable_s: 99 % of their key series are filed so long after the last image and the link time.
        told_s: Nothing stands still longer before a person is told.
        routine_s: 99 % of the others are delivered so long after their last image.
        delivered: Share that is delivered within a day.
        doubled: Share of the mails that are sent again.
    """

    alarm_s: float | None = None
    readable_s: float | None = None
    told_s: float | None = TOLD_S
    routine_s: float | None = None
    delivered: float = 1.0
    doubled: float = 1.0


BUDGETS: dict[str, Budget] = {
    "fair": Budget(alarm_s=5, readable_s=10, routine_s=900, doubled=0.02),
    "mild": Budget(alarm_s=15, readable_s=120, routine_s=900),
    "storm": Budget(alarm_s=60, readable_s=600, routine_s=DAY_S, delivered=0.999),
    "relay-dead": Budget(alarm_s=5, readable_s=30, routine_s=900),
    "relay-swallows": Budget(alarm_s=5, readable_s=30, routine_s=900),
    "centre-dead": Budget(readable_s=40),
    "chaos": Budget(told_s=None, delivered=0.0),
}


@dataclass(slots=True)
class Tally:
    """All seeds of one weather together."""

    weather: str
    seeds: int = 0
    transfers: int = 0
    studies: int = 0
    arrived: int = 0
    unconfirmed: int = 0
    mails: int = 0
    doubled: int = 0
    events: int = 0
    alarm: list[float] = field(default_factory=list)
    readable: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    routine: list[float] = field(default_factory=list)
    worst: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, seed: int, one: Figures) -> None:
        """Add a seed."""
        self.seeds += 1
        for name in ("transfers", "studies", "arrived", "unconfirmed", "mails", "doubled", "events"):
            setattr(self, name, getattr(self, name) + getattr(one, name))
        for name in ("alarm", "readable", "told", "routine"):
            values = getattr(one, name)
            getattr(self, name).extend(values)
            if values:
                self.worst[name] = max(self.worst.get(name, (0.0, seed)), (max(values), seed))

    def broken(self) -> list[str]:
        """Say which budgets were not kept; each names the seed to look at."""
        budget, found = BUDGETS[self.weather], list[str]()
        for name, limit, measured in (
            ("alarm", budget.alarm_s, percentile(self.alarm, 0.99)),
            ("readable", budget.readable_s, percentile(self.readable, 0.99)),
            ("told", budget.told_s, percentile(self.told, 1.0)),
            ("routine", budget.routine_s, percentile(self.routine, 0.99)),
        ):
            if limit is not None and measured > limit:
                found.append(
                    f"{self.weather}: {name} {measured:.1f} s, budget {limit:.0f} s; worst: "
                    f"make seed S={self.worst[name][1]} WEATHER={self.weather}"
                )
        if self.arrived < budget.delivered * self.studies:
            found.append(f"{self.weather}: {self.arrived} of {self.studies} studies arrived within a day")
        if self.doubled > budget.doubled * self.mails:
            found.append(f"{self.weather}: {self.doubled} of {self.mails} mails were sent again")
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of the values does not exceed; 0 without values."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


HEADER = (
    f"{'weather':<15}{'seeds':>6}{'transfers':>10}{'arrived':>9}{'unconf.':>8}{'mails':>8}{'again':>7}"
    f"{'alarm 50/99':>14}{'readable 50/99':>17}{'told max':>10}{'routine 50/99':>16}"
)


def table(tallies: Iterable[Tally]) -> str:
    """Return the figures of a run as text; times in seconds."""
    lines = [HEADER]
    for one in tallies:
        pairs = [
            f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f}"
            for values in (one.alarm, one.readable, one.routine)
        ]
        again = one.doubled / one.mails if one.mails else 0.0
        arrived = one.arrived / one.studies if one.studies else 0.0
        lines.append(
            f"{one.weather:<15}{one.seeds:>6}{one.transfers:>10}{arrived:>9.2%}{one.unconfirmed:>8}{one.mails:>8}"
            f"{again:>7.1%}{pairs[0]:>14}{pairs[1]:>17}{percentile(one.told, 1.0):>10.1f}{pairs[2]:>16}"
        )
    return "\n".join(lines)
