"""A transfer as a story: what happened at both sites, in plain sentences, the partner's clock corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from raypost.archive import contacts, events, partners
from raypost.archive.database import Transaction
from raypost.archive.events import Happened
from raypost.archive.tables import TransferRow
from raypost.model.audit import EVENT_TEXT, EventKind, Level

SENTENCES: dict[EventKind, str] = {
    EventKind.PACKED: "{message} {number} was packed",
    EventKind.SEALED: "{message} {number} was signed and encrypted ({bytes} bytes)",
    EventKind.SENT: "a relay took {message} {number}",
    EventKind.VERIFIED: "{message} {number} came, signature and hashes are right",
    EventKind.FILED: "{instances} instances were filed",
    EventKind.RECEIPT_OUTDATED: "receipt {number} is from before {partner} was restored: it does not count",
    EventKind.RECEIPTED: "receipt {number} says: {instances} instances are filed at {partner}",
    EventKind.RECEIPT_WRITTEN: "receipt {number} was written",
    EventKind.TRANSFER_OPENED: "the transfer began, {priority}",
    EventKind.TRANSFER_CLOSED: "nothing more came from the modality: the manifest was written",
    EventKind.TRANSFER_DELIVERED: "delivered: a receipt signed by {partner} names every instance by its hash",
    EventKind.TRANSFER_UNCONFIRMED: "{partner} confirmed nothing in spite of everything: call {partner}",
    EventKind.TRANSFER_SILENT: "nothing new was heard of {partner} for {silent_s} s: call {partner}",
    EventKind.TRANSFER_STALLED: "nothing leaves this site for {silent_s} s: look at `raypost check`, call {partner}",
    EventKind.TRANSFER_COMPLETE: "complete as sent by {partner}",
    EventKind.TRANSFER_INCOMPLETE: "something is missing and asking did not help: call {partner}",
    EventKind.TRANSFER_REROUTED: "goes to {to} now, {partner} is told",
    EventKind.TRANSFER_REDIRECTED: "{partner} sends this study to {to} now",
    EventKind.TRANSFER_RECALLED: "taken back by {who}",
    EventKind.TRANSFER_LATE: "it will be late: it goes by all relays at once now",
    EventKind.LATE_RECEIPT: "good news: {partner} has all {instances} instances after all",
    EventKind.ANNOUNCED: "{partner} announced a study, {priority}",
    EventKind.ANNOUNCED_ONLY: "images were announced and none came: call {partner}",
    EventKind.SENT_AGAIN: "{messages} mails are sent again",
    EventKind.SENDING_DEFERRED: "a relay could not take {message} {number} now: {said}",
    EventKind.SENDING_REFUSED: "a relay refused {message} {number}: {said}",
    EventKind.BOUNCED: "a relay could not deliver a mail: {said}",
    EventKind.MESSAGE_MOVED: "mails go by another relay than {relay} now",
    EventKind.OPENED: "{who} opened the study",
    EventKind.TAKE_ASKED: "{who} asks to take the case",
    EventKind.TAKE_DECIDED: "{to} has the case",
    EventKind.RECALL_HONOURED: "the sender took it back: {instances} instances are hidden",
    EventKind.RECALL_ANSWERED: "{partner} hid {instances} instances; opened by {opened_by}, sent on to {forwarded_to}",
    EventKind.CORRECTED: "identity or order data were corrected by {who}",
}
"""What a person reads; kinds that are not here are told by their general text."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the story.

    Attributes:
        at: By our clock; of what the partner said: its time, corrected by the measured offset.
        site: Name of the site at which it happened.
        uncertainty_s: Of a partner's time; None for ours, and where its clock was never measured.
    """

    at: datetime
    site: str
    text: str
    level: Level
    uncertainty_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the shape that --json prints."""
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "site": self.site,
            "text": self.text,
            "level": self.level.value,
            "uncertainty_s": self.uncertainty_s,
        }


def tell(tx: Transaction, transfer: TransferRow) -> list[Line]:
    """Return the story of a transfer, oldest line first."""
    own, partner = partners.own_site(tx).name, partners.site_name(tx, transfer.partner_id)
    lines = [
        Line(one.at, own, sentence(one, partner), one.level)
        for one in _all_events(tx, transfer.id)
        if one.kind not in (EventKind.FETCHED, EventKind.DUPLICATE)
    ]
    offset_s, uncertainty_s = contacts.clock_of(tx, transfer.partner_id)
    lines += _of_partner(transfer.partner_times or {}, partner, offset_s, uncertainty_s)
    return sorted(lines, key=lambda line: line.at)


def sentence(one: Happened, partner: str) -> str:
    """Say one event in a sentence."""
    form = SENTENCES.get(one.kind)
    if form is None:
        return EVENT_TEXT[one.kind]
    return form.format_map(_Words(one.fields, partner))


class _Words(dict[str, Any]):
    """Fields of an event; one that is not there reads as nothing known."""

    def __init__(self, fields: Mapping[str, Any], partner: str) -> None:
        super().__init__({name: value for name, value in fields.items() if value not in (None, "")})
        self["partner"] = partner

    def __missing__(self, name: str) -> str:
        return "nobody" if name in ("opened_by", "forwarded_to") else "?"


def _of_partner(
    times: Mapping[str, str], partner: str, offset_s: float | None, uncertainty_s: float | None
) -> Iterator[Line]:
    """Tell what the partner's receipts say of its own times."""
    words = {
        "first_arrival_at": "the first message of the transfer was verified",
        "last_filed_at": "instances were filed last",
    }
    for name, text in words.items():
        if name in times:
            at = datetime.fromisoformat(times[name]) - timedelta(seconds=offset_s or 0.0)
            suffix = "" if offset_s is not None else " (by its own clock, never compared with ours)"
            yield Line(at, partner, text + suffix, Level.INFO, uncertainty_s)


def _all_events(tx: Transaction, transfer_id: int) -> Iterator[Happened]:
    after = 0
    while found := events.of_transfer(tx, transfer_id, after=after):
        yield from found
        after = found[-1].position.event_id
