"""What breaks in a seed: relays, sites, clocks, mailboxes, keys; drawn from the weather."""

from __future__ import annotations

import random

from raypost.lab.simulator.network import Network
from raypost.lab.simulator.relays import Outage, Relay
from raypost.lab.simulator.site import GREETING_S, Site
from raypost.model.transfer import MessageKind

FOR_EVER_S = 1e12
SEND_S = 2_400.0
"""The scanners send within about so long."""
POINTS = ("seal", "accept", "collect", "open", "file")
RENEWED_S = 7_200.0
RESTORE_S = 30.0


BACK_S = 20.0
"""So long after a relay came back everybody has noticed."""


def _take_away(network: Network, relay: Relay, outage: Outage) -> None:
    relay.outages.append(outage)
    if outage.until_s < FOR_EVER_S:
        network.world.after(outage.until_s + BACK_S, network.world.say, relay.name, "is back")


def break_things(network: Network, chance: random.Random) -> None:
    """Plan everything that goes wrong."""
    weather = network.weather
    if weather.relay_fault:
        _break_relay(network, chance)
    if weather.is_centre_dead:
        dies_s = 0.0 if chance.random() < 0.5 else chance.uniform(0.0, SEND_S)
        network.world.after(dies_s, network.centres[0].crash, None)
    if weather.is_chaos:
        _break_relays(network, chance)
        for site in network.sites.values():
            _break_site(network, site, chance)


def _break_relay(network: Network, chance: random.Random) -> None:
    """One relay that every site has is dead or swallows, from the beginning or from some moment on."""
    relay = network.relays[chance.randint(0, min(1, len(network.relays) - 1))]
    from_s = 0.0 if chance.random() < 0.3 else chance.uniform(0.0, SEND_S)
    until_s = FOR_EVER_S if chance.random() < 0.5 else from_s + chance.uniform(60.0, 3_600.0)
    if network.weather.relay_fault == "dead":
        _take_away(network, relay, Outage(from_s, until_s, hangs=chance.random() < 0.5))
    else:
        relay.swallow = (from_s, until_s)


def _break_relays(network: Network, chance: random.Random) -> None:
    for relay in network.relays:
        if chance.random() < 0.4:
            from_s = chance.uniform(0.0, SEND_S)
            until_s = from_s + chance.expovariate(1 / 600.0)
            _take_away(network, relay, Outage(from_s, until_s, hangs=chance.random() < 0.5))
        if chance.random() < 0.2:
            from_s = chance.uniform(0.0, SEND_S)
            relay.swallow = (from_s, from_s + chance.expovariate(1 / 1_200.0))
        if chance.random() < 0.2:
            relay.size_max_bytes = chance.choice((300_000, 1_000_000, 3_000_000))
        if chance.random() < 0.2:
            site = chance.choice(list(network.sites))
            relay.full[site] = chance.uniform(0.0, SEND_S)
        if chance.random() < 0.2:
            site = chance.choice(network.referring).name
            relay.withheld[site] = (MessageKind.RECEIPT, chance.uniform(0.0, 2 * SEND_S))


def _break_site(network: Network, site: Site, chance: random.Random) -> None:
    world = network.world
    for _ in range(2):
        if chance.random() < 0.3:
            down_s = chance.uniform(600.0, 7_200.0) if chance.random() < 0.1 else chance.uniform(1.0, 30.0)
            world.after(chance.uniform(0.0, SEND_S), site.crash, down_s)
        if chance.random() < 0.3:
            world.after(chance.uniform(0.0, SEND_S), _doom, site, chance.choice(POINTS))
    if chance.random() < 0.1:
        world.after(chance.uniform(0.0, SEND_S), _back_up, network, site, chance.uniform(30.0, 3_600.0))
    if chance.random() < 0.08:
        from_s = chance.uniform(0.0, SEND_S)
        site.key_expired = (from_s, from_s + RENEWED_S)
        world.after(from_s + RENEWED_S, _renewed, network, site)
    if chance.random() < 0.08:
        world.after(chance.uniform(0.0, SEND_S), _set_clock, site, chance.choice((-3_600.0, 3_600.0)))


def _doom(site: Site, point: str) -> None:
    site.doom = point


def _back_up(network: Network, site: Site, restored_after_s: float) -> None:
    """Make a backup that the site is restored from later; then everybody must hear of it."""
    if site.is_up:
        network.greet(restored_after_s)
        site.world.say(site.name, "backed up")
        site.world.after(restored_after_s, site.restore, site.ledger.backup(), site.now(), RESTORE_S)


def _set_clock(site: Site, step_s: float) -> None:
    site.skew_s += step_s
    site.was_set_back = site.was_set_back or step_s < 0
    site.world.say(site.name, f"clock set by {step_s:.0f} s")


def _renewed(network: Network, site: Site) -> None:
    """A person has renewed the certificate, and everybody orders what was refused again."""
    network.world.say(site.name, "certificate renewed")
    for other in network.sites.values():
        if other.is_up:
            other.order_refused(site.name)
    if any(one.ledger.restores for one in network.sites.values()):  # what was said of it could not be read meanwhile
        network.greet(GREETING_S)
