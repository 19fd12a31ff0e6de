"""Mail relays in memory: they take mails, lose, double, hold back, refuse, swallow, or are not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from raypost.lab.simulator.weather import Weather
from raypost.lab.simulator.world import World
from raypost.model.transfer import MessageKind
from raypost.transfer.control import Message

SMALL_BYTES = 64_000


class Outcome(Enum):
    """What a relay answers to a mail; as `mail.smtp.Outcome`."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    BOX_FULL = "mailbox full"
    TOO_LARGE = "too large"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail: outside its token, kind and number; inside the message, which only its recipient reads.

    Attributes:
        is_damaged: A byte was changed on the way, or the key had expired: it cannot be opened.
        is_bounce: A report that another mail could not be delivered.
    """

    number: int
    sender: str
    recipient: str
    token: str
    kind: MessageKind
    message_number: int
    size_bytes: int
    message: Message
    is_damaged: bool = False
    is_bounce: bool = False

    @property
    def is_small(self) -> bool:
        """Say whether it is fetched before the bulk."""
        return self.size_bytes <= SMALL_BYTES


@dataclass(frozen=True, slots=True)
class Outage:
    """When a relay is not there.

    Attributes:
        hangs: It answers nothing at all, so that whoever calls waits; otherwise it refuses at once.
    """

    from_s: float
    until_s: float
    hangs: bool


@dataclass(slots=True)
class Relay:
    """One relay and the mailboxes on it.

    Attributes:
        swallow: When it says 250 and keeps nothing: from and until; None: it does not.
        full: Mailboxes that are full until an instant.
        size_max_bytes: It refuses larger mails without having said so before.
        withheld: Kinds of messages to a site that it keeps back.
    """

    name: str
    world: World
    weather: Weather
    outages: list[Outage] = field(default_factory=list)
    swallow: tuple[float, float] | None = None
    full: dict[str, float] = field(default_factory=dict)
    size_max_bytes: int | None = None
    withheld: dict[str, tuple[MessageKind, float]] = field(default_factory=dict)
    boxes: dict[str, dict[int, Mail]] = field(default_factory=dict)
    bells: dict[str, Callable[[str, Mail], None]] = field(default_factory=dict)
    taken: int = 0

    def outage(self) -> Outage | None:
        """Return why nobody gets in now."""
        now_s = self.world.now_s
        return next((one for one in self.outages if one.from_s <= now_s < one.until_s), None)

    def submit(self, mail: Mail) -> Outcome:
        """Take a mail, or not."""
        world, weather = self.world, self.weather
        if self.size_max_bytes is not None and mail.size_bytes > self.size_max_bytes:
            return Outcome.TOO_LARGE
        if self.full.get(mail.recipient, 0.0) > world.now_s:
            return Outcome.BOX_FULL
        if weather.deferred and world.random.random() < weather.deferred:
            return Outcome.DEFERRED
        self.taken += 1
        if self.swallow is not None and self.swallow[0] <= world.now_s < self.swallow[1]:
            return Outcome.ACCEPTED
        withheld = self.withheld.get(mail.recipient)
        if withheld is not None and withheld[0] is mail.kind and world.now_s < withheld[1]:
            return Outcome.ACCEPTED
        chance = world.random.random
        copies = 0 if weather.loss and chance() < weather.loss else 1
        if weather.doubled and chance() < weather.doubled:
            copies += 1
        if weather.bounce and chance() < weather.bounce:
            copies = 0
            report = Mail(
                0, self.name, mail.sender, "", mail.kind, mail.message_number, 3_000, mail.message, is_bounce=True
            )
            world.after(world.random.uniform(3_600.0, 5 * 3_600.0), self._arrive, report)
        for _ in range(copies):
            arriving = mail
            if weather.corrupt and chance() < weather.corrupt:
                arriving = _damaged(mail)
            wait_s = world.random.expovariate(1 / weather.delay_s)
            if weather.late and chance() < weather.late:
                wait_s += world.random.expovariate(1 / weather.late_s)
            world.after(wait_s, self._arrive, arriving)
        return Outcome.ACCEPTED

    def delete(self, site: str, number: int) -> None:
        """Delete a mail that its site has committed."""
        del self.boxes[site][number]

    def _arrive(self, mail: Mail) -> None:
        self.taken += 1
        number = self.taken
        self.boxes.setdefault(mail.recipient, {})[number] = mail
        self.bells[mail.recipient](self.name, mail)


def _damaged(mail: Mail) -> Mail:
    return Mail(
        mail.number,
        mail.sender,
        mail.recipient,
        mail.token,
        mail.kind,
        mail.message_number,
        mail.size_bytes,
        mail.message,
        is_damaged=True,
    )
