"""The story of a transfer: the events of all sites and relays as a few plain sentences with times, in one order.

What happens often is told once for a short while ("7 parcels went out"); every notice and alarm is told, too, so that
nothing that a person should know is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from raypost.archive.events import Happened
from raypost.model.audit import EVENT_TEXT, EventKind, Level

TOGETHER = timedelta(seconds=1.0)
"""Things of one kind at one site within so long are one sentence."""
HOLD_BACK = TOGETHER + timedelta(seconds=0.5)
"""A sentence is told so long after its time: then nothing can come before it any more."""
WHO_WIDTH = 14
RANGE_MIN = 3
FAULT = "FAULT"
QUIET = frozenset(
    {
        EventKind.PACKED,
        EventKind.SEALED,
        EventKind.FETCHED,
        EventKind.VERIFIED,
        EventKind.RECEIPT_WRITTEN,
        EventKind.PARTNER_CHANGED,
        EventKind.RULE_CHANGED,
        EventKind.HELLO_SENT,
        EventKind.HELLO_HEARD,
    }
)
"""Steps and housekeeping that the sentences around them imply, unless they are a notice or an alarm."""


@dataclass(slots=True)
class Group:
    """Events that become one sentence.

    Attributes:
        site: Name of the site, of a relay, or FAULT.
        partner: Name of the other site, as people read it; empty: none.
        fields: Of the last event.
    """

    at: datetime
    site: str
    kind: EventKind | None
    words: str = ""
    partner: str = ""
    transfer_id: int | None = None
    is_told: bool = False
    level: Level = Level.INFO
    count: int = 0
    instances: int = 0
    numbers: set[int] = field(default_factory=set)
    relays: dict[str, None] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)


class Storyteller:
    """Hears what happens and tells it.

    Args:
        referrer: Name of the site that sends.
        instances: How many images the scanner sends.
    """

    def __init__(self, referrer: str, instances: int) -> None:
        self.lines: list[str] = []
        self.begin: datetime | None = None
        self._referrer = referrer
        self._instances = instances
        self._groups: list[Group] = []
        self._open: dict[tuple[object, ...], Group] = {}
        self._received = 0
        self._filed: dict[str, int] = {}
        self._is_closed = False
        self._away: set[tuple[str, str]] = set()
        self._signed: dict[str, dict[int | None, int]] = {}

    def hear(self, site: str, one: Happened, partner: str = "") -> None:
        """Take in an event of a site; `partner` is the other site's name, if it is about one."""
        if one.kind is EventKind.RECEIVED and site == self._referrer:
            self._hear_received(one)
        elif self._is_told(site, one):
            relay = str(one.fields.get("relay") or "")
            group = self._group(one.at, site, one.kind, one.transfer_id, one.fields.get("message"))
            group.partner, group.transfer_id = partner, one.transfer_id
            group.level = max(group.level, one.level, key=[*Level].index)
            group.instances += _number(one.fields.get("instances"))
            group.fields = one.fields
            if "number" in one.fields:
                group.numbers.add(_number(one.fields["number"]))
            if relay:
                group.relays[relay] = None

    def note(self, at: datetime, who: str, words: str, *, is_cut: bool = True) -> None:
        """Take in a sentence of the demonstration itself; what follows it is not added to what was before."""
        self._groups.append(Group(at, who, None, words))
        if is_cut:
            self._open.clear()

    def note_relay(self, at: datetime, relay: str, copies: int) -> None:
        """Take in that a relay lost a mail (0 copies) or kept it twice, as ordered."""
        lost = "lost {} although it had answered 250" if not copies else "delivered {} twice"
        group = self._group(at, f"relay {relay}", None, copies)
        group.words = lost.format("a mail" if group.count == 1 else f"{group.count} mails")

    def tell(self, now: datetime | None = None) -> list[str]:
        """Return the sentences that are ready at `now`, all that are left when it is None; they join `lines`."""
        self._groups.sort(key=lambda one: one.at)
        count = len(self._groups) if now is None else sum(one.at <= now - HOLD_BACK for one in self._groups)
        ready, self._groups = self._groups[:count], self._groups[count:]
        for one in ready:
            one.is_told = True
        told = [line for one in ready if (line := self._line(one))]
        self.lines += told
        return told

    def _is_told(self, site: str, one: Happened) -> bool:
        if one.kind in (EventKind.RELAY_UNREACHABLE, EventKind.RELAY_REACHED):
            return self._is_news(site, one)
        if one.level is not Level.INFO:
            return True
        at_referrer = site == self._referrer
        match one.kind:
            case EventKind.SENT:
                return at_referrer and one.fields.get("message") in ("announce", "parcel")
            case EventKind.RECEIVED:
                return False
            case EventKind.TRANSFER_OPENED:
                return at_referrer
            case EventKind.DUPLICATE:
                return not at_referrer  # there it is a receipt that came by several relays
        return one.kind not in QUIET

    def _is_news(self, site: str, one: Happened) -> bool:
        """Say whether a relay went away or came back; a site notes each new reason, too."""
        which = (site, str(one.fields.get("relay")))
        was_away = which in self._away
        if one.kind is EventKind.RELAY_UNREACHABLE:
            self._away.add(which)
            return not was_away
        self._away.discard(which)
        return was_away

    def _hear_received(self, one: Happened) -> None:
        self._received += 1
        if self._received == 1:
            self.note(one.at, self._referrer, "the first image came from the scanner and is safe on disk", is_cut=False)
        elif self._received == self._instances:
            self.note(one.at, self._referrer, f"all {self._instances} images came", is_cut=False)

    def _group(self, at: datetime, site: str, kind: EventKind | None, *more: object) -> Group:
        same = (site, kind, *more)
        group = self._open.get(same)
        if group is None or group.is_told or at > group.at + TOGETHER:
            group = self._open[same] = Group(at, site, kind)
            self._groups.append(group)
        group.count += 1
        return group

    def _line(self, one: Group) -> str:
        words = one.words if one.kind is None else self._sentence(one)
        since_s = max((one.at - self.begin).total_seconds(), 0.0) if self.begin is not None else 0.0
        who = one.site if one.kind is None and one.site.startswith(("relay", FAULT)) else _title(one.site)
        return f"{since_s:6.1f} s  {who:{WHO_WIDTH}} {words}" if words else ""

    def _sentence(self, one: Group) -> str:
        other, over, numbers = _title(one.partner) or "the partner", _over(one), _listed(one.numbers)
        match one.kind:
            case EventKind.TRANSFER_OPENED:
                what = "supplement" if one.fields.get("supplement") else "transfer"
                return f"a {what} to {other} begins, {one.fields.get('priority', '')}".rstrip(", ")
            case EventKind.ANNOUNCED:
                if one.level is Level.ALARM:
                    return f"THE ALARM RINGS: an emergency is on its way from {other}"
                return f"knows of a study on its way from {other}"
            case EventKind.SENT:
                if one.fields.get("message") == "announce":
                    return f"the announcement to {other} went out{over}"
                return f"parcel{'s' if len(one.numbers) > 1 else ''} {numbers} went out{over}"
            case EventKind.FILED:
                if not one.instances:
                    return ""  # slices of an image whose rest is still on its way
                self._filed[one.site] = self._filed.get(one.site, 0) + one.instances
                return f"{_images(one.instances)} filed in the archive, {self._filed[one.site]} so far"
            case EventKind.RECEIPTED:
                return self._receipt(one, other)
            case EventKind.TRANSFER_CLOSED:
                if self._is_closed:
                    return ""
                self._is_closed = True
                return "the scanner is quiet: the manifest names every image"
            case EventKind.TRANSFER_COMPLETE:
                return "everything that the manifest names is here"
            case EventKind.TRANSFER_DELIVERED:
                count = _number(one.fields.get("instances"))
                what = f"all {count} images, each" if count != 1 else "the image"
                return f"DELIVERED: {other} has signed for {what} by its hash"
            case EventKind.TRANSFER_UNCONFIRMED:
                return f"UNCONFIRMED: no receipt in spite of everything; call {other}"
        return _trouble(one, other, over)

    def _receipt(self, one: Group, other: str) -> str:
        """Return what a receipt says; nothing when the one before said it, too."""
        transfers = self._signed.setdefault(one.partner, {})
        before = sum(transfers.values()) if transfers else -1
        transfers[one.transfer_id] = _number(one.fields.get("instances"))
        there = sum(transfers.values())
        if there == before:
            return ""
        if not there:
            return f"{other} has answered: it knows of the study"
        return f"{other} has signed for {there} of {self._instances} images"


def _trouble(one: Group, other: str, over: str) -> str:
    """Return the sentence about something that went wrong, or was mended."""
    relay = f"relay {', '.join(one.relays)}" if one.relays else "the mail relay"
    several = f"{one.count} " if one.count > 1 else "a "
    mails = several + ("mails" if one.count > 1 else "mail")
    match one.kind:
        case EventKind.SENT_AGAIN:
            count = _number(one.fields.get("messages"))
            why = f", {said}" if (said := str(one.fields.get("why") or "")) else ""
            return f"{_mails(count)} sent again{why}" if count else "what has no receipt is sent again"
        case EventKind.MESSAGE_MOVED:
            return f"{mails} go{'es' if one.count == 1 else ''} another way now:{over or ' by the next relay'}"
        case EventKind.RELAY_UNREACHABLE:
            return f"{relay} does not answer"
        case EventKind.RELAY_REACHED:
            return f"{relay} answers again"
        case EventKind.RELAY_SUSPECTED:
            return f"{relay} took mails of which nothing was heard: others are used first"
        case EventKind.SENDING_DEFERRED:
            return f"{mails} could not leave yet and wait{'s' if one.count == 1 else ''} here"
        case EventKind.DUPLICATE:
            return f"{mails} came a second time; nothing is filed twice"
        case EventKind.TRANSFER_SILENT:
            return f"A PERSON IS TOLD: nothing is heard from {other}"
        case EventKind.TRANSFER_REROUTED:
            target = _title(str(one.fields.get("to") or one.fields.get("target") or ""))
            return f"REROUTED: {other} is silent; the study goes to {target or 'the next centre'} now"
        case EventKind.TRANSFER_REDIRECTED:
            return f"{other} now sends this study to another centre"
    assert one.kind is not None
    said = str(one.fields.get("said") or one.fields.get("what") or "")
    return EVENT_TEXT[one.kind].rstrip(".") + (f" ({said})" if said else "")


def _over(one: Group) -> str:
    relay = "relays" if len(one.relays) > 1 else "relay"
    return f" over {relay} {' and '.join(one.relays)}" if one.relays else ""


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"


def _mails(count: int) -> str:
    return "1 mail is" if count == 1 else f"{count} mails are"


def _listed(numbers: set[int]) -> str:
    """Write numbers as people do: 1, 2, 4–7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = ([f"{run[0]}–{run[-1]}"] if len(run) >= RANGE_MIN else [str(number) for number in run] for run in runs)
    return ", ".join(one for several in parts for one in several)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _title(site: str) -> str:
    return site.title()
