"""What is measured in a seed, and the budgets of each weather."""

from __future__ import annotations

from dataclasses import dataclass, field

from raypost.lab.simulator.network import Network
from raypost.lab.simulator.office import Office
from raypost.lab.simulator.rows import Incoming, Outgoing
from raypost.lab.simulator.studies import Study
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.sender import SenderState
from raypost.transfer.taking import ItemState

ARMOUR = 66 / 48
EMERGENCY = Priority.EMERGENCY


@dataclass(slots=True)
class Figures:
    """Of one seed. Times in seconds.

    Attributes:
        alarm: First image at the sender to the announcement verified at the receiver, of emergencies.
        readable: Last image of the key series at the sender to all of it filed at the receiver, without link time.
        told: How long nothing moved before a person was told, of emergencies.
        routine: Last image at the sender to delivered.
        studies: How many were sent and not recalled.
        arrived: Of these, how many are delivered whole.
    """

    weather: str
    scanned: list[Study]
    studies: int = 0
    arrived: int = 0
    alarm: list[float] = field(default_factory=list)
    readable: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    routine: list[float] = field(default_factory=list)
    transfers: int = 0
    delivered: int = 0
    unconfirmed: int = 0
    rerouted: int = 0
    emergencies: int = 0
    mails: int = 0
    doubled: int = 0
    parcels: int = 0
    events: int = 0
    ended_s: float = 0.0
    _by_uid: dict[str, Study] = field(default_factory=dict)
    _alarmed: set[tuple[str, str]] = field(default_factory=set)
    _read: set[tuple[str, str]] = field(default_factory=set)
    _rerouted_s: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_uid = {one.study_instance_uid: one for one in self.scanned}

    def hear(self, site: Office, what: str, row: Outgoing | Incoming, said: dict[str, object]) -> None:
        """Take an event into account."""
        if row.study not in self._by_uid:
            return  # a recall or redirection of which nothing else came yet
        if row.priority is not EMERGENCY:
            if what == "delivered" and isinstance(row, Outgoing):
                self.routine.append(site.now() - row.last_arrival_s)
            return
        if isinstance(row, Outgoing):
            if what in ("told", "rerouted") and row.progress_s is not None:
                self.told.append(self._stalled_s(site, row))
                if what == "rerouted":
                    deadline_s = row.reroute_after_s or 0.0
                    self._rerouted_s.setdefault(row.study, (site.world.now_s, deadline_s))
            elif what == "progress" and row.progress_s is not None and row.told_s is None:
                self.told.append(self._stalled_s(site, row))
        elif what == "announced":
            self._announced(site, row)
        elif what == "filed":
            self._filed(site, row)

    def _stalled_s(self, site: Office, row: Outgoing) -> float:
        up_since_s = site.up_since_s + site.skew_s
        return site.now() - max(row.progress_s or 0.0, up_since_s)

    def _announced(self, site: Office, row: Incoming) -> None:
        study = self._by_uid[row.study]
        word = (row.study, site.name)
        if word not in self._alarmed and row.supplement == 0 and site in study.centres:
            self._alarmed.add(word)
            self.alarm.append(site.world.now_s - study.start_s)

    def _filed(self, site: Office, row: Incoming) -> None:
        study = self._by_uid[row.study]
        word = (row.study, site.name)
        if word in self._read or any(row.items.get(one) is not ItemState.FILED for one in study.key):
            return
        self._read.add(word)
        last_s = study.start_s + study.key_last_s
        if row.study in self._rerouted_s and site not in study.centres:
            rerouted_s, _ = self._rerouted_s[row.study]
            last_s = max(last_s, rerouted_s)
        self.readable.append(site.world.now_s - last_s - self._link_s(study, site))

    def _link_s(self, study: Study, site: Office) -> float:
        """Return what the lines need for the key series while other emergencies have their fair share of them."""
        begin_s, end_s = study.start_s - 120.0, site.world.now_s
        beside = [one for one in self.scanned if one.priority is EMERGENCY and begin_s <= one.start_s <= end_s]
        up_bytes = _shared_bytes(study, [one for one in beside if one.site is study.site for _ in one.centres])
        down_bytes = _shared_bytes(study, [one for one in beside if site in one.centres])
        centre = next(one for one in (*study.centres, site) if one is site)
        up, down = study.site.up, centre.down  # type: ignore[attr-defined]
        up_s, down_s = up_bytes * ARMOUR / up.bytes_per_s, down_bytes * ARMOUR / down.bytes_per_s
        return float(max(up_s, down_s) + up.latency_s + down.latency_s)

    def finish(self, network: Network) -> None:
        """Count how everything ended."""
        self.events, self.ended_s = network.world.events, network.world.now_s
        for site in network.sites.values():
            for mine in site.ledger.outgoing.values():
                self.transfers += 1
                self.delivered += mine.state is SenderState.DELIVERED
                self.unconfirmed += mine.state is SenderState.UNCONFIRMED
                self.rerouted += mine.state is SenderState.REROUTED
                self.emergencies += mine.priority is EMERGENCY
            for (kind, is_copy, is_again), count in site.mails.items():
                if not is_copy:
                    self.mails += count
                    self.doubled += count if is_again else 0
                    self.parcels += count if kind is MessageKind.PARCEL else 0
        for study in self.scanned:
            case = study.site.ledger.cases.get(study.study_instance_uid)
            if case is None or any(one.state is SenderState.RECALLED for one in case.transfers):
                continue
            self.studies += 1
            if study.priority is EMERGENCY:
                self._count_missing(study)
            delivered = {sha256 for one in case.transfers if one.state is SenderState.DELIVERED for sha256 in one.items}
            self.arrived += all(sha256 in delivered for one in case.transfers for sha256 in one.items)
        self.scanned, self._by_uid = [], {}

    def _count_missing(self, study: Study) -> None:
        """Let what never happened at a working centre count as if it had happened at the very end."""
        for centre in study.centres:
            if centre.is_up:
                if (study.study_instance_uid, centre.name) not in self._alarmed:
                    self.alarm.append(self.ended_s - study.start_s)
                if (study.study_instance_uid, centre.name) not in self._read and study.deadline_s is None:
                    self.readable.append(self.ended_s - study.start_s)


def _shared_bytes(study: Study, beside: list[Study]) -> int:
    """Return how much passes a line until a key series has: its own in equal shares, or all that is there."""
    return max(study.key_bytes * max(1, len(beside)), sum(one.key_bytes for one in beside))
