"""Faults on order: what the embedded relay does wrong, changed by a line of JSON while it runs."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from dataclasses import dataclass
from typing import Any

from raypost.errors import UsageError

ORDER_MAX_BYTES = 4096
DELAY_MAX_S = 86_400.0
MAILBOX_FULL = "552 5.2.2 <{}>: Recipient address rejected: Quota exceeded (mailbox for user is full)"
"""As Postfix passes on Dovecot's quota status (measured, 2026-11)."""
STAGES = ("MAIL", "RCPT", "DATA")

_REPLY = re.compile(r"[45][0-9]{2}( [45]\.[0-9]{1,3}\.[0-9]{1,3})? [ -~]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Faults:
    """What the relay does wrong; nothing, unless ordered.

    Attributes:
        drop: Share of the mails that are answered with 250 and kept nowhere, 0 to 1.
        swallow: All of them are.
        double: Share of the mails that come to lie in the mailbox twice, 0 to 1.
        delay_s: A mail comes to lie in the mailbox so long after the 250.
        refuse: The SMTP reply to every mail, such as "451 4.3.0 try again later"; empty: none.
        refuse_at: To which command: MAIL, RCPT or DATA (then to the line with the single dot).
        mailbox_full: Every recipient is refused for want of room.
        size_max_bytes: Largest mail, announced as SIZE; 0: as the relay was started.
        only_to: All but `size_max_bytes` and a refusal at MAIL concern this recipient alone; empty: every recipient.
    """

    drop: float = 0.0
    swallow: bool = False
    double: float = 0.0
    delay_s: float = 0.0
    refuse: str = ""
    refuse_at: str = "RCPT"
    mailbox_full: bool = False
    size_max_bytes: int = 0
    only_to: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise UsageError(f"the fault {field.name} is given as {wanted.__name__}, not as {value!r}")
        faults = (
            (not 0 <= self.drop <= 1 or not 0 <= self.double <= 1, "drop and double are shares between 0 and 1"),
            (not 0 <= self.delay_s <= DELAY_MAX_S, f"delay_s is at most {DELAY_MAX_S:.0f}"),
            (bool(self.refuse) and not _REPLY.fullmatch(self.refuse), 'refuse is a reply such as "451 4.3.0 not now"'),
            (self.refuse_at not in STAGES, f"refuse_at is one of {', '.join(STAGES)}"),
            (self.size_max_bytes < 0, "size_max_bytes is not negative"),
        )
        for is_wrong, what in faults:
            if is_wrong:
                raise UsageError(what)

    def changed(self, order: bytes | str) -> Faults:
        """Return the faults after an order: a JSON object with what is to change; the rest stays.

        Raises:
            UsageError: It is no such object, or names a fault that there is not.
        """
        try:
            wanted = json.loads(order)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError("an order for faults is one JSON object in one line") from error
        names = {field.name for field in dataclasses.fields(self)}
        if not isinstance(wanted, dict) or not wanted.keys() <= names:
            raise UsageError(f"an order for faults is a JSON object with some of {', '.join(sorted(names))}")
        return dataclasses.replace(self, **wanted)

    def as_json(self) -> dict[str, Any]:
        """Return them by name."""
        return dataclasses.asdict(self)


class FaultPlan:
    """The faults in force, and the seeded chance that decides which mails they meet."""

    def __init__(self, seed: int) -> None:
        self.now = Faults()
        self._chance = random.Random(seed)

    def order(self, order: bytes | str) -> Faults:
        """Put other faults in force; return them.

        Raises:
            UsageError: The order cannot be understood; nothing changed.
        """
        self.now = self.now.changed(order)
        return self.now

    def reply(self, stage: str, recipient: str = "") -> str:
        """Return what the relay answers to a command instead of 250; empty: nothing is wrong."""
        it = self.now
        if stage != "MAIL" and not self._concerns(recipient):
            return ""
        if it.refuse and it.refuse_at == stage:
            return it.refuse
        return MAILBOX_FULL.format(recipient) if it.mailbox_full and stage == "RCPT" else ""

    def copies(self, recipient: str) -> int:
        """Return how often the next mail comes to lie in its mailbox: 0 is a loss that nobody is told of."""
        dropped, doubled = self._chance.random(), self._chance.random()  # always both: one fault never shifts the other
        if not self._concerns(recipient):
            return 1
        if self.now.swallow or dropped < self.now.drop:
            return 0
        return 2 if doubled < self.now.double else 1

    def delay_s(self, recipient: str) -> float:
        """Return how long after the 250 the mail comes to lie in its mailbox."""
        return self.now.delay_s if self._concerns(recipient) else 0.0

    def _concerns(self, recipient: str) -> bool:
        return self.now.only_to.lower() in ("", recipient.lower())
