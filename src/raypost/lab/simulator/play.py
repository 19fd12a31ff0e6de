"""Plays a seed: scanners send, people look, ask, recall, machines break; until all is settled."""

from __future__ import annotations

import random

from raypost.lab.simulator import cases, hellos, outgoing
from raypost.lab.simulator.desk import Times
from raypost.lab.simulator.faults import break_things
from raypost.lab.simulator.figures import Figures
from raypost.lab.simulator.network import build
from raypost.lab.simulator.office import Office
from raypost.lab.simulator.promises import BrokenPromiseError, Promises
from raypost.lab.simulator.rows import CaseRow, Incoming, Outgoing
from raypost.lab.simulator.site import Site
from raypost.lab.simulator.studies import Item, Study, draw_studies
from raypost.lab.simulator.weather import Weather, weather_of
from raypost.lab.simulator.world import World
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.sender import SenderState

HORIZON_S = 40 * 86_400.0
AGAIN_S = 10.0
HELLO_SEEDS = 8
"""One in so many seeds has signs of life from the beginning; where a site is restored they begin with that."""
GREETS_S = 2_400.0
LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


class Play:
    """One seed."""

    def __init__(
        self, seed: int, weather: Weather | None = None, *, is_traced: bool = False, times: Times | None = None
    ):
        self.weather = weather or weather_of(seed)
        self.world = World(seed, is_traced=is_traced)
        self.network = build(self.world, self.weather, times or Times())
        self.studies = draw_studies(self.network)
        self.people = random.Random(seed + 1)
        self.figures = Figures(self.weather.name, self.studies)
        self.promises = Promises(self.network)
        self.recalled: set[str] = set()
        self.keys = 0
        self.greets_until_s = 0.0
        self.network.greet = self._begin_greeting
        for site in self.network.sites.values():
            site.on_note = self._hear
            site.on_arm = self.promises.check_due
            site.uses_wire = seed % 10 == 0
            site.greets = self._greets
            site.greet = self._begin_greeting

    def run(self) -> Figures:
        """Play it.

        Raises:
            BrokenPromiseError: Something the product promises was not kept.
            RunawayError: It did not come to an end.
        """
        for study in self.studies:
            self.world.after(study.start_s, self._scan, study, 0)
            if self.people.random() < (0.15 if self.weather.is_chaos else 0.06):
                self.world.after(study.start_s + self.people.uniform(2.0, 120.0), self._recall, study)
        break_things(self.network, self.people)
        if self.world.seed % HELLO_SEEDS == 0:
            self._begin_greeting()
        if not self.world.run(HORIZON_S):
            raise BrokenPromiseError(f"something still waits after {HORIZON_S / 86_400:.0f} days")
        self.promises.check_end(self.studies)
        self.figures.finish(self.network)
        return self.figures

    # signs of life

    def _greets(self) -> bool:
        return self.world.now_s < self.greets_until_s

    def _begin_greeting(self, for_s: float = GREETS_S) -> None:
        self.greets_until_s = max(self.greets_until_s, self.world.now_s + for_s)
        self.world.after(for_s, self.world.say, "network", "signs of life end")
        for site in self.network.sites.values():
            if site.is_up:
                for partner in site.ledger.contacts:
                    hellos.arm_contact(site, partner)

    # scanners

    def _scan(self, study: Study, batch: int) -> None:
        site = study.site
        if study.study_instance_uid in self.recalled:
            return
        if not site.is_up:
            self.world.after(AGAIN_S, self._scan, study, batch)
            return
        self._take_in(study, study.batches[batch][1])
        at_s = self.world.now_s - study.start_s
        if batch + 1 < len(study.batches):
            self.world.after(max(0.05, study.batches[batch + 1][0] - at_s), self._scan, study, batch + 1)
        for released_s in study.releases:
            if (
                study.batches[batch][0]
                < released_s
                <= (study.batches[batch + 1][0] if batch + 1 < len(study.batches) else 1e9)
            ):
                self.world.after(0.2, self._release, study)

    def _take_in(self, study: Study, items: list[Item]) -> None:
        site = study.site
        case = site.ledger.cases.get(study.study_instance_uid)
        if case is None:
            case = site.ledger.cases[study.study_instance_uid] = CaseRow(study.study_instance_uid, study.priority)
        for centre in study.centres:
            partner = case.goes_to.get(centre.name, centre.name)
            latest = cases.latest_by_partner(case).get(partner)
            if latest is None or latest.state not in (SenderState.ANNOUNCED, SenderState.STREAMING):
                latest = self._open(site, case, study, partner)
            cases.add_instances(site, latest, items)

    def _open(self, site: Office, case: CaseRow, study: Study, partner: str) -> Outgoing:
        return cases.open_outgoing(site, case, partner, self._new_key(), study.priority, study.deadline_s)

    def _new_key(self) -> str:
        self.keys += 1
        chance = random.Random(self.world.seed * 1_000 + self.keys)
        return "".join(chance.choices(LETTERS, k=20))

    def _release(self, study: Study) -> None:
        case = study.site.ledger.cases.get(study.study_instance_uid)
        if study.site.is_up and case is not None:
            cases.release(study.site, case)

    # people and rules

    def _recall(self, study: Study) -> None:
        site = study.site
        case = site.ledger.cases.get(study.study_instance_uid)
        if case is None or not site.is_up:
            return
        self.recalled.add(study.study_instance_uid)
        for partner in cases.latest_by_partner(case):
            cases.recall(site, case, partner)

    def _hear(self, site: Office, what: str, row: Outgoing | Incoming, said: dict[str, object]) -> None:
        self.figures.hear(site, what, row, said)
        self.promises.hear(site, what, row, said)
        if isinstance(row, Incoming):
            if what == "announced" and row.priority is Priority.EMERGENCY and self.people.random() < 0.5:
                kind = MessageKind.TAKE if self.people.random() < 0.5 else MessageKind.OPENED
                self.world.after(self.people.uniform(5.0, 120.0), self._say, site, row, kind)
        elif what == "rerouted":
            self._reroute(site, row)

    def _say(self, site: Site, row: Incoming, kind: MessageKind) -> None:
        if site.is_up and site.ledger.incoming.get((row.partner, row.transfer_key)) is row:
            site.open_study(row, kind)

    def _reroute(self, site: Office, transfer: Outgoing) -> None:
        case = site.ledger.cases[transfer.study]
        partner = outgoing.next_centre(site, case, transfer.partner)
        if partner is not None:
            study = next(one for one in self.studies if one.study_instance_uid == transfer.study)
            cases.reroute(site, case, transfer, self._open(site, case, study, partner))
