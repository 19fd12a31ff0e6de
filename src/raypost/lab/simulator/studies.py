"""What scanners send: a key series, late series, one image that fits into no parcel; by the seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from raypost.lab.simulator.network import Network
from raypost.lab.simulator.site import Site
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import Priority

Item = tuple[ManifestEntry, int]
"""An instance and its reading rank: 0 is the key series."""

STUDIES_MIN = 8
STUDIES_MAX = 9
LATE_S = (60.0, 600.0, 3_600.0)
KEY_RANK = 0
NO_IMAGES = "1.2.826.0.1.3680043.10.1"

_pool: list[ManifestEntry] = []
"""Instances that are made once for all seeds; a seed takes them from the beginning."""

SIZES_BYTES = (70_000, 110_000, 150_000, 190_000, 260_000)


@dataclass(slots=True)
class Study:
    """A study that a scanner sends.

    Attributes:
        centres: To whom it goes by rule.
        batches: What comes when, in seconds after the start.
        releases: When the modality lets go of its association.
        key: Hashes of the key series.
        key_last_s: When the last of it comes.
        deadline_s: The rule that sends it elsewhere after so long without progress; None: no rule.
    """

    number: int
    study_instance_uid: str
    site: Site
    centres: list[Site]
    priority: Priority
    start_s: float
    deadline_s: float | None
    batches: list[tuple[float, list[Item]]] = field(default_factory=list)
    releases: list[float] = field(default_factory=list)
    key: frozenset[str] = frozenset()
    key_last_s: float = 0.0
    key_bytes: int = 0


class Shelf:
    """Hands out instances, each once in a seed."""

    def __init__(self) -> None:
        self.taken = 0
        self.large = 0

    def take(self) -> ManifestEntry:
        """Return an instance of ordinary size."""
        if self.taken == len(_pool):
            name = hashlib.sha256(f"instance {self.taken}".encode()).hexdigest()
            _pool.append(ManifestEntry(name, SIZES_BYTES[self.taken // 7 % 5], f"1.2.3.{self.taken + 1}"))
        self.taken += 1
        return _pool[self.taken - 1]

    def take_large(self, size_bytes: int) -> ManifestEntry:
        """Return an instance that goes in slices."""
        self.large += 1
        name = hashlib.sha256(f"large {self.large} {size_bytes}".encode()).hexdigest()
        return ManifestEntry(name, size_bytes, f"1.2.4.{self.large}")


def draw_studies(network: Network) -> list[Study]:
    """Draw what the scanners of all sites send within an hour."""
    chance, weather = network.world.random, network.weather
    shelf, found = Shelf(), list[Study]()
    for number in range(chance.randint(STUDIES_MIN, STUDIES_MAX)):
        site = chance.choice(network.referring)
        centres = chance.sample(network.centres, k=len(network.centres))
        if weather.is_centre_dead and chance.random() < 0.6:
            centres.sort(key=lambda one: one is not network.centres[0])
        draw = chance.random()
        priority = Priority.EMERGENCY if draw < 0.45 else Priority.URGENT if draw < 0.6 else Priority.ROUTINE
        deadline_s = None
        if len(centres) > 1 and (weather.is_centre_dead or (weather.is_chaos and chance.random() < 0.3)):
            short = priority is Priority.EMERGENCY
            deadline_s = chance.uniform(60.0, 120.0) if short else chance.uniform(300.0, 900.0)
        to_two = len(centres) > 1 and chance.random() < 0.15 and not weather.is_centre_dead
        study = Study(
            number,
            f"1.2.826.0.1.{number + 1}",
            site,
            centres[: 2 if to_two else 1],
            priority,
            chance.uniform(0.0, 1_800.0),
            deadline_s,
        )
        _draw_series(network, study, shelf)
        found.append(study)
    return found


def _draw_series(network: Network, study: Study, shelf: Shelf) -> None:
    chance = network.world.random
    at_s = 0.0
    is_emergency = study.priority is Priority.EMERGENCY
    series = [(chance.randint(6, 20), KEY_RANK)]
    if is_emergency:
        series.insert(chance.randint(0, 1), (chance.randint(8, 30), 1))
    elif chance.random() < 0.5:
        series.append((chance.randint(5, 25), 1))
    key: list[ManifestEntry] = []
    for count, reading_rank in series:
        rate = chance.uniform(5.0, 30.0)
        at_s = _scan(study, [(shelf.take(), reading_rank) for _ in range(count)], at_s, rate)
        if reading_rank == KEY_RANK:
            key = [one for batch in study.batches for one, rank in batch[1] if rank == KEY_RANK]
            study.key_last_s = at_s
        at_s += chance.uniform(0.0, 8.0)
    if chance.random() < 0.05:
        study.batches.append((at_s, [(shelf.take_large(chance.randint(3, 8) * 1_000_000), 1)]))
    if chance.random() < 0.7:
        study.releases.append(at_s + 0.2)
    for late_s in LATE_S:
        if chance.random() < (0.12 if is_emergency else 0.04):
            end_s = _scan(study, [(shelf.take(), 2) for _ in range(chance.randint(5, 15))], at_s + late_s, 20.0)
            study.releases.append(end_s + 0.2)
    study.key = frozenset(one.sha256 for one in key)
    study.key_bytes = sum(one.size_bytes for one in key)


def _scan(study: Study, items: list[Item], from_s: float, rate: float) -> float:
    """Add a series in batches of about a second; return when its last instance comes."""
    a_batch = max(1, round(rate))
    for begin in range(0, len(items), a_batch):
        study.batches.append((from_s + begin / rate, items[begin : begin + a_batch]))
    return study.batches[-1][0]
