"""In which order waiting mails are fetched: what rings first, every sender in its turn, strangers last but always some.

No I/O and no clock. What a mail says outside is unsigned, so a forger gains by it at most the turn of the address that
he may send under: relays bind the log-in to the sender address. Three rules make that true:

* a mail of high standing goes first only within a budget per sender, standing and minute; beyond it is bulk;
* of all senders that wait, the one that was given the fewest bytes lately is next (start-time fair queueing);
* strangers are one sender among the others, and their bytes count many times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from functools import partial

from raypost.mail.tokens import PARCEL_KIND, Token

URGENT_SIZE_MAX_BYTES = 1 << 20
"""What is larger is no announcement, whatever it says of itself."""
BUDGET_WINDOW = timedelta(minutes=1)
BULK_EVERY = 8
"""So often the turn is of bulk even while urgent mails wait."""
OLDEST_EVERY = 8
"""So often the oldest parcel of a sender goes before the one with the lowest number."""
STRANGERS_WEIGHT = 16
"""A byte of a stranger counts as so many of a partner."""
COST_MIN_BYTES = 4096
"""What a mail costs beside its bytes: a commit, a round trip."""
HELD_MAX = 10_000
"""Mails of one sender and standing that are remembered; the rest is listed again later."""
BULK_COUNTED_MAX = 120

NULL_SENDER = ""
"""Bounces come from nobody (RFC 5321, 4.5.5): a sender of its own, never urgent."""
STRANGERS = "strangers"
STRANGER_RANK = -10
"""Of the job that opens a stranger's mail: below every other job."""


class Standing(IntEnum):
    """What a mail is by its own word, in the order of fetching."""

    ALARM = 0
    CONTROL = 1
    FIRST_PARCEL = 2
    PARCEL = 3
    LAST = 4


BUDGET = {Standing.ALARM: 30, Standing.CONTROL: 60, Standing.FIRST_PARCEL: 30}
"""So many mails of a sender and standing are urgent within a minute."""

_ALARMS = frozenset({"announce", "recall"})
_HELLO = "hello"
_OPEN_RANK = {
    Standing.ALARM: 200,
    Standing.CONTROL: 160,
    Standing.FIRST_PARCEL: 100,
    Standing.PARCEL: 50,
    Standing.LAST: 10,
}
_BULK_STEPS_MAX = 30
_ROTATION = (Standing.PARCEL, Standing.ALARM, Standing.CONTROL, Standing.FIRST_PARCEL, Standing.LAST)


@dataclass(frozen=True, slots=True)
class Listed:
    """One message in the mailbox, before anything of it is fetched.

    Attributes:
        token: An unsigned hint.
        taken_at: When the relay took it, by the relay's clock (INTERNALDATE).
        sender: The address that the relay let in, in lower case; empty for a bounce, None when none can be read.
    """

    imap_uid: int
    size_bytes: int
    token: Token | None
    taken_at: datetime | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The mail to fetch now, and the rank of the job that will open it: higher goes first."""

    mail: Listed
    open_rank: int
    is_strangers: bool


def standing_of(mail: Listed) -> Standing:
    """Return what a mail is by its own word; a large one is no control message."""
    if mail.token is None or mail.token.kind == _HELLO:
        return Standing.LAST
    is_small = mail.size_bytes <= URGENT_SIZE_MAX_BYTES
    if mail.token.kind == PARCEL_KIND:
        return Standing.FIRST_PARCEL if is_small and mail.token.number <= 1 else Standing.PARCEL
    if not is_small:
        return Standing.PARCEL
    return Standing.ALARM if mail.token.kind in _ALARMS else Standing.CONTROL


@dataclass(slots=True)
class _Sender:
    """What waits of one sender, what it was given in the last minute, and when its next turn is."""

    waiting: dict[Standing, list[Listed]] = field(default_factory=lambda: {one: [] for one in Standing})
    given: dict[Standing, deque[datetime]] = field(
        default_factory=lambda: {one: deque(maxlen=BUDGET.get(one, BULK_COUNTED_MAX)) for one in Standing}
    )
    turns: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(Standing, 0))
    rotation: int = 0
    urgent_at: int = 0
    bulk_at: int = 0

    def count(self) -> int:
        """Return how many mails wait."""
        return sum(map(len, self.waiting.values()))

    def is_within_budget(self, standing: Standing, now: datetime) -> bool:
        """Say whether one more of this standing is urgent."""
        return standing in BUDGET and self.given_lately(standing, now) < BUDGET[standing]

    def given_lately(self, standing: Standing, now: datetime) -> int:
        """Return how many of this standing were chosen in the last minute, as far as they are counted."""
        given = self.given[standing]
        # An instant after now was before the clock was set back: it does not count.
        while given and not now - BUDGET_WINDOW < given[0] <= now:
            given.popleft()
        return len(given)

    def next_bulk(self) -> Standing:
        """Return the standing whose turn it is: none of them waits for another to be empty."""
        for step in range(len(_ROTATION)):
            standing = _ROTATION[(self.rotation + step) % len(_ROTATION)]
            if self.waiting[standing]:
                self.rotation = (self.rotation + step + 1) % len(_ROTATION)
                return standing
        raise LookupError("nothing waits")

    def pop(self, standing: Standing) -> Listed:
        """Take one mail out: parcels by number, bounces and hellos by age, urgent ones from both ends by turns.

        A new announcement must not stand behind thousands of old ones, nor an old one behind ever new ones.
        """
        mails, turn = self.waiting[standing], self.turns[standing]
        self.turns[standing] += 1
        if standing in BUDGET:
            return mails.pop(-1 if turn % 2 == 0 else 0)
        if standing is Standing.PARCEL and turn % OLDEST_EVERY == OLDEST_EVERY - 1:
            return mails.pop(min(range(len(mails)), key=lambda place: mails[place].imap_uid))
        return mails.pop(0)


def _order_within(standing: Standing, mail: Listed) -> tuple[int, int]:
    number = mail.token.number if standing is Standing.PARCEL and mail.token is not None else 0
    return number, mail.imap_uid


class CollectingOrder:
    """The mails that wait in one mailbox, and which of them is next.

    Attributes:
        has_forgotten: More mails were added than are held: the mailbox is to be listed anew when all are fetched.
    """

    def __init__(self, partner_addresses: Collection[str] = ()) -> None:
        """Begin with nothing waiting.

        Args:
            partner_addresses: Under which partners send; any other sender is a stranger.
        """
        self.has_forgotten = False
        self._partners = _lowered(partner_addresses)
        self._senders: dict[str, _Sender] = {}
        self._turn = 0
        self._urgent_clock = 0
        self._bulk_clock = 0

    def __len__(self) -> int:
        return sum(one.count() for one in self._senders.values())

    def know_partners(self, partner_addresses: Collection[str]) -> None:
        """Take over a changed address book; what waits is sorted anew."""
        addresses = _lowered(partner_addresses)
        if addresses == self._partners:
            return
        self._partners = addresses
        waiting: list[Listed] = []
        for sender in self._senders.values():
            for mails in sender.waiting.values():
                waiting.extend(mails)
                mails.clear()
        self.add(waiting)

    def add(self, mails: Iterable[Listed]) -> None:
        """Let mails wait; those beyond HELD_MAX of a sender are forgotten for now."""
        touched: dict[tuple[str, Standing], list[Listed]] = {}
        for mail in mails:
            name = self._name_of(mail)
            sender = self._senders.get(name)
            if sender is None:
                sender = self._senders[name] = _Sender()
            if not sender.count():  # it had its turn while it had nothing to fetch: that is not saved up
                sender.urgent_at = max(sender.urgent_at, self._urgent_clock)
                sender.bulk_at = max(sender.bulk_at, self._bulk_clock)
            standing = Standing.LAST if name in (STRANGERS, NULL_SENDER) else standing_of(mail)
            held = sender.waiting[standing]
            if len(held) >= HELD_MAX:
                self.has_forgotten = True
                continue
            held.append(mail)
            touched[name, standing] = held
        for (_, standing), held in touched.items():
            held.sort(key=partial(_order_within, standing))

    def waiting_parcels(self, count_max: int) -> list[Listed]:
        """Return parcels of partners that wait, those that are fetched first of each partner first."""
        found: list[Listed] = []
        for name, sender in self._senders.items():
            if name not in (STRANGERS, NULL_SENDER):
                parcels = [one for held in sender.waiting.values() for one in held]
                found += [one for one in parcels if one.token is not None and one.token.kind == PARCEL_KIND][:count_max]
        return found[:count_max]

    def choose(self, now: datetime) -> Chosen | None:
        """Take the next mail out of what waits; None when nothing does."""
        self._turn += 1
        if self._turn % BULK_EVERY:
            urgent = self.choose_urgent(now)
            if urgent is not None:
                return urgent
        waiting = [(one.bulk_at, name) for name, one in self._senders.items() if one.count()]
        if not waiting:
            return None
        self._bulk_clock, name = min(waiting)
        sender = self._senders[name]
        standing = sender.next_bulk()
        mail = sender.pop(standing)
        weight = STRANGERS_WEIGHT if name == STRANGERS else 1
        sender.bulk_at = self._bulk_clock + weight * max(mail.size_bytes, COST_MIN_BYTES)
        return self._chosen(name, standing, mail, now)

    def choose_urgent(self, now: datetime) -> Chosen | None:
        """Take the next mail that may go before all bulk; None when there is none."""
        for standing in BUDGET:
            waiting = [
                (one.urgent_at, name)
                for name, one in self._senders.items()
                if one.waiting[standing] and one.is_within_budget(standing, now)
            ]
            if waiting:
                self._urgent_clock, name = min(waiting)
                sender = self._senders[name]
                mail = sender.pop(standing)
                sender.urgent_at = self._urgent_clock + max(mail.size_bytes, COST_MIN_BYTES)
                return self._chosen(name, standing, mail, now)
        return None

    def _name_of(self, mail: Listed) -> str:
        if mail.sender == NULL_SENDER or mail.sender in self._partners:
            return mail.sender
        return STRANGERS

    def _chosen(self, name: str, standing: Standing, mail: Listed, now: datetime) -> Chosen:
        """Count the mail against its sender's budget and rank its opening.

        The rank falls with every mail of the sender in the last minute: so the first announcement of a quiet partner
        is opened before the second one of a busy or forged one.
        """
        if name == STRANGERS:
            return Chosen(mail, STRANGER_RANK, True)
        sender = self._senders[name]
        if standing in BUDGET and not sender.is_within_budget(standing, now):
            standing = Standing.PARCEL
        lately = sender.given_lately(standing, now)
        sender.given[standing].append(now)
        if standing is Standing.PARCEL:
            lately = min(lately * _BULK_STEPS_MAX // BULK_COUNTED_MAX, _BULK_STEPS_MAX)
        elif standing is Standing.LAST:
            lately = 0
        return Chosen(mail, _OPEN_RANK[standing] - lately, False)


def _lowered(addresses: Collection[str]) -> frozenset[str]:
    return frozenset(one.lower() for one in addresses)
