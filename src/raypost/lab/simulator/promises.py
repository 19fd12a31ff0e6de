"""What the product promises, watched while a seed is played and when it is over (ARCHITECTURE.md, Invariants)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from raypost.lab.simulator.network import Network
from raypost.lab.simulator.office import Office
from raypost.lab.simulator.rows import Incoming, MessageRow, Outgoing
from raypost.lab.simulator.studies import Study
from raypost.transfer.limits import DUE_HORIZON_S
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.sender import OPEN, SenderState

SENT_MAX = 40
"""No message is sent more often, whatever happens."""
RECEIPTS_BASE = 40
ANSWERS_S = 4.9
"""Receipts of a transfer that has ended keep so much distance."""
CAME = frozenset({"filed", "duplicate", "dropped", "heard again"})
WAITING_IN = frozenset({ReceiverState.EXPECTED, ReceiverState.ARRIVING})


TOLD_GRACE_S = 60.0
"""A person is told so much later at most than the limits say: somebody looks once in so long."""


class BrokenPromiseError(Exception):
    """A seed in which the product did not keep what it promises."""


class Promises:
    """Watches a network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.told: set[str] = set()
        self.came: Counter[str] = Counter()
        self.responsible: set[str] = set()
        self.answered_s: dict[str, float] = {}

    def hear(self, site: Office, what: str, row: Outgoing | Incoming, said: dict[str, Any]) -> None:
        """Look at an event that just happened."""
        if what == "told" and isinstance(row, Outgoing):
            self.told.add(row.transfer_key)
        elif what == "delivered" and isinstance(row, Outgoing):
            if not self.network.sites[row.partner].ledger.restores:
                self._check_delivered(site.name, row)
        elif what == "filed" and isinstance(row, Incoming):
            filings, number = site.ledger.filings, said["parcel"]
            entries = row.entries[number]
            twice = [one for one in entries if filings.get((row.transfer_key, one.instance.sha256), 0) > 1]
            self._need(not twice, f"{len(twice)} instances were filed twice at {site.name}")
            word = f"something recalled was filed at {site.name}"
            self._need(row.state is not ReceiverState.WITHDRAWN, word)
        elif what == "receipt" and isinstance(row, Incoming):
            self._check_distance(site, row)
        elif what == "responsible":
            self._need(row.study not in self.responsible, "the case of one centre was given to another one")
            self.responsible.add(row.study)
        if what in CAME:
            self.came[row.transfer_key] += 1

    def check_due(self, site: Office, row: Outgoing | Incoming) -> None:
        """Check that what is not final will be looked at again."""
        is_open = row.state in OPEN if isinstance(row, Outgoing) else row.state in WAITING_IN
        self._need(
            not is_open or row.due_s is not None, f"a {row.state.value} transfer at {site.name} waits for nothing"
        )
        word = f"a {row.state.value} transfer at {site.name} is not looked at for too long"
        self._need(row.due_s is None or row.due_s <= site.now() + DUE_HORIZON_S, word)
        if isinstance(row, Outgoing) and row.state in OPEN and row.told_s is None and row.progress_s is not None:
            silent_s = min(site.now() - row.progress_s, site.world.now_s - site.up_since_s)
            limit_s = site.times.limits.sender.silent_s(row.priority) + TOLD_GRACE_S
            self._need(silent_s <= limit_s, f"nobody at {site.name} is told of {silent_s:.0f} s of silence")

    def _check_distance(self, site: Office, row: Incoming) -> None:
        """Check that whoever has everything answers doubles at a bounded rate."""
        if row.state in (ReceiverState.COMPLETE, ReceiverState.WITHDRAWN):
            word, now_s = row.transfer_key + site.name, site.world.now_s
            last_s = self.answered_s.get(word)
            is_soon = last_s is not None and now_s - last_s < ANSWERS_S and site.up_since_s <= last_s
            self._need(not is_soon, f"{site.name} answers doubles without bound")
            self.answered_s[word] = now_s

    def check_end(self, studies: Iterable[Study]) -> None:
        """Check how everything ended."""
        sites = self.network.sites
        for site in sites.values():
            if not site.is_up:
                continue
            for mine in site.ledger.outgoing.values():
                self._check_outgoing(site, mine)
            for theirs in site.ledger.incoming.values():
                word = f"{theirs.transfer_key[:6]} is still {theirs.state.value} at {site.name}"
                self._need(theirs.state not in WAITING_IN, word)
                self._check_mails(theirs.messages)
                receipts_max = RECEIPTS_BASE + 2 * self.came[theirs.transfer_key]
                word = f"{theirs.receipts_written} receipts of one transfer at {site.name}"
                self._need(theirs.receipts_written <= receipts_max, word)
        for study in studies:
            self._check_responsible(study)

    def _check_outgoing(self, site: Office, mine: Outgoing) -> None:
        word = f"{mine.transfer_key[:6]} of {site.name} is {mine.state.value}"
        self._need(mine.state not in OPEN, f"{word} when all is settled")
        if mine.state is SenderState.UNCONFIRMED:
            self._need(mine.transfer_key in self.told, f"{word} and nobody was told")
        elif mine.state is SenderState.DELIVERED:
            self._check_delivered(site.name, mine)
        elif mine.state is SenderState.REROUTED:
            case = site.ledger.cases[mine.study]
            self._need(mine.partner in case.goes_to, f"{word} and goes nowhere")
        self._check_mails(mine.messages)

    def _check_delivered(self, name: str, mine: Outgoing) -> None:
        partner = self.network.sites[mine.partner]
        lacking = sum((name, one) not in partner.ledger.archive for one in mine.items)
        self._need(not lacking, f"{mine.transfer_key[:6]} counts as delivered and {lacking} instances are not there")

    def _check_mails(self, rows: list[MessageRow]) -> None:
        for row in rows:
            word = f"{row.kind.value} {row.number} to {row.partner} was sent {row.taken} times"
            self._need(row.taken <= SENT_MAX, word)

    def _check_responsible(self, study: Study) -> None:
        case = study.site.ledger.cases.get(study.study_instance_uid)
        believing = {
            centre.name
            for centre in self.network.centres
            if centre.is_up
            for one in centre.ledger.incoming.values()
            if one.study == study.study_instance_uid
            and one.partner == study.site.name
            and one.responsible == centre.name
        }
        self._need(len(believing) <= 1, f"{len(believing)} centres hold themselves responsible for one case")
        if believing and case is not None and study.site.is_up:
            self._need(case.responsible in believing, "a centre holds itself responsible and the sender says another")

    def _need(self, is_kept: bool, what: str) -> None:
        if not is_kept:
            raise BrokenPromiseError(what)
