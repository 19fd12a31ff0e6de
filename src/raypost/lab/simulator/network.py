"""A whole network of one seed: sites, centres, relays, and how their rows lie when all is settled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raypost.lab.simulator.desk import Times
from raypost.lab.simulator.links import Link
from raypost.lab.simulator.office import Office
from raypost.lab.simulator.relays import Relay
from raypost.lab.simulator.rows import Incoming, Outgoing
from raypost.lab.simulator.site import Site
from raypost.lab.simulator.weather import Weather
from raypost.lab.simulator.world import World

EPOCH_S = 1_800_000_000.0
"""What a right clock shows when a seed begins: POSIX seconds."""
BANDWIDTH_MIN_BPS = 2e6
BANDWIDTH_MAX_BPS = 50e6
LATENCY_MIN_S = 0.05
LATENCY_MAX_S = 0.5


@dataclass(slots=True)
class Network:
    """Sites and relays.

    Attributes:
        referring: Hospitals that send.
        centres: Hospitals that receive.
        greet: Lets signs of life begin, for so many seconds.
    """

    world: World
    weather: Weather
    times: Times
    relays: list[Relay] = field(default_factory=list)
    referring: list[Site] = field(default_factory=list)
    centres: list[Site] = field(default_factory=list)
    greet: Callable[[float], None] = lambda _: None

    @property
    def sites(self) -> dict[str, Site]:
        """Return every site by name."""
        return {one.name: one for one in [*self.referring, *self.centres]}

    def is_anything_open(self) -> bool:
        """Say whether any transfer waits for anything."""
        return any(
            transfer.due_s is not None
            for site in (*self.referring, *self.centres)
            for transfers in (site.ledger.outgoing, site.ledger.incoming)
            for transfer in transfers.values()
        )


def build(world: World, weather: Weather, times: Times) -> Network:
    """Draw a network: who there is, on which relays, behind which lines, with which clocks."""
    chance = world.random
    network = Network(world, weather, times)
    relays_min = 2 if weather.relay_fault or weather.name == "mild" and world.seed % 3 else 1
    relay_count = chance.randint(relays_min, 3)
    network.relays = [Relay(f"relay-{n + 1}", world, weather) for n in range(relay_count)]
    referring_count, centre_count = chance.randint(2, 4), chance.randint(2 if weather.is_centre_dead else 1, 3)
    for n in range(referring_count + centre_count):
        latency_s = chance.uniform(LATENCY_MIN_S, LATENCY_MAX_S)
        skew_s = chance.choice((3_600.0, -3_600.0, 31_536_000.0, -31_536_000.0)) if chance.random() < 0.15 else 0.0
        is_centre = n >= referring_count
        relays = network.relays if is_centre or chance.random() < 0.7 else network.relays[:2]
        site = Site(
            f"{'centre' if is_centre else 'site'}-{n + 1}",
            world,
            times,
            relays,
            Link(_bytes_per_s(chance.random()), latency_s),
            Link(_bytes_per_s(chance.random()), latency_s),
            EPOCH_S + skew_s,
        )
        (network.centres if is_centre else network.referring).append(site)
    for one in network.referring:
        for other in network.centres:
            shared = [name for name in one.relays if name in other.relays]
            one.meet(other.name, shared, other.down.bytes_per_s * chance.uniform(0.7, 1.1))
            other.meet(one.name, shared, one.down.bytes_per_s * chance.uniform(0.7, 1.1))
            one.neighbours[other.name], other.neighbours[one.name] = other, one
    return network


def _bytes_per_s(draw: float) -> float:
    low, high = math.log(BANDWIDTH_MIN_BPS), math.log(BANDWIDTH_MAX_BPS)
    return math.exp(low + draw * (high - low)) / 8


def listen(network: Network, ear: Any) -> None:
    """Have every event of every site heard.

    Args:
        ear: Called with site, what, row and what else was said.
    """

    def _hear(site: Office, what: str, row: Outgoing | Incoming, said: dict[str, Any]) -> None:
        ear(site, what, row, said)

    for site in network.sites.values():
        site.on_note = _hear
