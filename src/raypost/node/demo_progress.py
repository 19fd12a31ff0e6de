"""How far the demonstration is: what each site did so far, step by step, in the words of the chain."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from raypost.archive.events import Happened
from raypost.model.audit import EventKind, Level
from raypost.node.demo_network import REFERRER

OPEN = "open"
ENDS = {
    EventKind.TRANSFER_DELIVERED: "delivered",
    EventKind.TRANSFER_UNCONFIRMED: "unconfirmed",
    EventKind.TRANSFER_REROUTED: "rerouted",
    EventKind.TRANSFER_RECALLED: "recalled",
}
"""Events after which a transfer of the referring hospital waits for nothing more."""


@dataclass(slots=True)
class Progress:
    """What the sites did so far.

    Attributes:
        counts: By site and step of the chain: images; mails for `sent` and `fetched`; at a centre, `receipted` counts
            the receipts that it wrote.
        sent_over: Parcels that left the referring hospital, by relay; "" where the event names none.
        transfers: Where each transfer of the referring hospital ended, or "open".
        delivered_to: The site's number, at the referring hospital, of whom the last delivered transfer went to.
        first_at: When each kind of event came first, by "SITE KIND".
        alarms: What a person would have been called for; the ring of an emergency is no fault and not among them.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_over: Counter[str] = field(default_factory=Counter)
    transfers: dict[int, str] = field(default_factory=dict)
    delivered_to: int | None = None
    first_at: dict[str, datetime] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    _receipted: dict[int, int] = field(default_factory=dict)

    def count(self, site: str, step: str) -> int:
        """Return how often a site did a step."""
        return self.counts[site, step]

    def first(self, site: str, kind: EventKind) -> datetime | None:
        """Return when something happened first at a site."""
        return self.first_at.get(f"{site} {kind.value}")

    @property
    def is_ended(self) -> bool:
        """Say whether nothing more is waited for: no transfer is open, and one was rerouted only with its successor."""
        ends = list(self.transfers.values())
        return OPEN not in ends and any(end != "rerouted" for end in ends)

    @property
    def state(self) -> str:
        """Return the state of the whole: delivered, rerouted (and delivered there), unconfirmed, or what is missing."""
        ends = set(self.transfers.values())
        if not ends or OPEN in ends or not self.is_ended:
            return "not delivered in time"
        return next(end for end in ("unconfirmed", "recalled", "rerouted", "delivered") if end in ends)

    def hear(self, site: str, one: Happened) -> None:
        """Take in one event of one of the sites."""
        if one.kind is not EventKind.FILED or one.fields.get("instances"):  # not slices of an image under way
            self.first_at.setdefault(f"{site} {one.kind.value}", one.at)
        if one.level is Level.ALARM and one.kind is not EventKind.ANNOUNCED:
            self.alarms.append(f"{site}: {one.kind.value} {one.fields.get('said') or one.fields.get('what') or ''}")
        if site == REFERRER:
            self._hear_referrer(one)
        else:
            self._hear_centre(site, one)

    def _hear_referrer(self, one: Happened) -> None:
        images = int(one.fields.get("instances") or 0)
        is_parcel = one.fields.get("message") == "parcel"
        match one.kind:
            case EventKind.RECEIVED:
                self.counts[REFERRER, "received"] += 1
            case EventKind.PACKED if is_parcel:
                self.counts[REFERRER, "packed"] += images
            case EventKind.SEALED if is_parcel:
                self.counts[REFERRER, "sealed"] += images
            case EventKind.SENT if is_parcel:
                self.counts[REFERRER, "sent"] += 1
                self.sent_over[str(one.fields.get("relay") or "")] += 1
            case EventKind.RECEIPTED if one.transfer_id is not None:
                self._receipted[one.transfer_id] = images
                self._sum_up_receipts()
            case EventKind.TRANSFER_OPENED if one.transfer_id is not None:
                self.transfers.setdefault(one.transfer_id, OPEN)
            case kind if kind in ENDS and one.transfer_id is not None:
                self.transfers[one.transfer_id] = ENDS[kind]
                if kind is EventKind.TRANSFER_DELIVERED:
                    self.delivered_to = one.site_id
                    self.first_at["delivered"] = one.at
                self._sum_up_receipts()

    def _sum_up_receipts(self) -> None:
        """Count what is confirmed; what a centre confirmed from which the study was taken away counts no more."""
        self.counts[REFERRER, "receipted"] = sum(
            images for one, images in self._receipted.items() if self.transfers.get(one) != "rerouted"
        )

    def _hear_centre(self, site: str, one: Happened) -> None:
        images = int(one.fields.get("instances") or 0)
        match one.kind:
            case EventKind.FETCHED:
                self.counts[site, "fetched"] += 1
            case EventKind.VERIFIED if one.fields.get("message") == "parcel":
                self.counts[site, "verified"] += images
            case EventKind.FILED:
                self.counts[site, "filed"] += images
            case EventKind.RECEIPT_WRITTEN:
                self.counts[site, "receipted"] += 1
