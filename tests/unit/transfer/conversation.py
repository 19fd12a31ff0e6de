"""A sender and a receiver in plain numbers, with a channel between them that loses, doubles and reorders.

Nothing here decides anything: each look hands facts to the pure functions and does what they say, as the stations do
with rows. A simulator of a whole network is another thing; this one fits on a page.
"""

import json
from dataclasses import dataclass, field

from protocol_examples import TRANSFER, at, head

from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import receiver, sender
from raypost.transfer.control import Announce, Identity, Manifest, Parcel, Recall, Recalled, Receipt, Take, Taken
from raypost.transfer.limits import Limits
from raypost.transfer.notes import NOTES, Note, note_due_s
from raypost.transfer.pacing import PacingLimits, Waiting, fill_parcel, parcel_size_max
from raypost.transfer.receipts import gap_since_s, judge_final, read_receipt, write_receipt
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderState
from raypost.transfer.taking import ItemState, bytes_covered, take_parcel
from raypost.transfer.wire import decode, encode

LIMITS = Limits()
PACING = PacingLimits(first_parcel_max_bytes=10, parcel_min_bytes=20, parcel_max_bytes=60, instances_max=4)
PAYLOAD_MAX_BYTES = 40
LOOKS_MAX = 30
K = MessageKind
OUT = (MessageState.QUEUED, MessageState.ACCEPTED)


@dataclass
class Letter:
    """One of our messages and where it is."""

    content: object
    state: MessageState = MessageState.QUEUED
    accepted_s: float = 0.0
    attempt: int = 1


@dataclass
class Side:
    """What both sides have: messages by kind and number, and when somebody must look again."""

    letters: dict = field(default_factory=dict)
    heard: dict = field(default_factory=dict)
    due_s: float | None = None
    told: list = field(default_factory=list)

    def write(self, kind, content) -> None:
        number = 1 + max((one for of_kind, one in self.letters if of_kind is kind), default=0)
        self.letters[kind, number] = Letter(content(number))

    def states(self, *kinds):
        return {key: one.state for key, one in self.letters.items() if key[0] in kinds}

    def notes(self) -> tuple[Note, ...]:
        return tuple(
            Note(one.accepted_s, one.attempt, Priority.EMERGENCY)
            for (kind, _), one in self.letters.items()
            if kind in NOTES and one.state is MessageState.ACCEPTED
        )

    def repeat_notes(self, now_s, limits) -> None:
        for (kind, _), one in self.letters.items():
            if kind in NOTES and one.state is MessageState.ACCEPTED:
                due_s = note_due_s(Note(one.accepted_s, one.attempt, Priority.EMERGENCY), TRANSFER, limits)
                if due_s is not None and due_s <= now_s:
                    one.state, one.attempt = MessageState.QUEUED, one.attempt + 1

    def hear(self, kind, number) -> bool:
        """Remember a small message; say whether it is new."""
        before = self.heard.setdefault(kind, set())
        is_new = number not in before
        before.add(number)
        return is_new

    def numbers_heard(self):
        return {kind: frozenset(numbers) for kind, numbers in self.heard.items()}


@dataclass
class Outgoing(Side):
    """The sender's transfer."""

    state: SenderState = SenderState.ANNOUNCED
    last_arrival_s: float = 0.0
    instances: list = field(default_factory=list)
    packed: dict = field(default_factory=dict)
    rounds: int = 0
    patience_from_s: float = 0.0
    progress_s: float = 0.0
    is_told: bool = False
    was_outstanding: bool = False
    receipts_read: set = field(default_factory=set)
    seen: frozenset = frozenset()
    refused: frozenset = frozenset()

    def waiting(self) -> list[Waiting]:
        rest = [Waiting(one, self.packed.get(one.sha256, 0)) for one in self.instances]
        return sorted((one for one in rest if one.rest_bytes), key=lambda one: one.offset_bytes == 0)

    def facts(self) -> SenderFacts:
        bulk = [one.state for (kind, _), one in self.letters.items() if kind in (K.PARCEL, K.MANIFEST)]
        seen = [number for number in self.seen if self.letters[K.PARCEL, number].state is MessageState.ACCEPTED]
        accepted = [one.accepted_s for one in self.letters.values() if one.state is MessageState.ACCEPTED]
        return SenderFacts(
            state=self.state,
            seed=TRANSFER,
            priority=Priority.EMERGENCY,
            last_arrival_s=self.last_arrival_s,
            released_s=None,
            items_waiting=len(self.waiting()),
            in_hand=bulk.count(MessageState.QUEUED),
            unconfirmed=bulk.count(MessageState.ACCEPTED) - len(seen),
            seen=len(seen),
            refused=bulk.count(MessageState.REFUSED),
            parcels=len(self.states(K.PARCEL)),
            has_manifest=(K.MANIFEST, 1) in self.letters,
            rounds=self.rounds,
            patience_from_s=self.patience_from_s,
            progress_s=self.progress_s,
            unheard_since_s=min(accepted, default=None),
            notes=self.notes(),
            is_told=self.is_told,
        )

    def look(self, now_s) -> None:
        """Look until there is nothing left to do now; that must not take for ever."""
        for _ in range(LOOKS_MAX):
            facts = self.facts()
            if facts.is_outstanding and not self.was_outstanding:
                self.progress_s, self.is_told = now_s, False
                facts = self.facts()
            self.was_outstanding = facts.is_outstanding
            step = sender.next_step(facts, LIMITS.sender, now_s)
            self.due_s = step.due_s
            if step == sender.SenderStep(due_s=step.due_s):
                return
            self.do(step, now_s)
            if step == sender.SenderStep(due_s=step.due_s, plan=True) and not facts.items_waiting:
                return  # what is in hand has to leave first
        raise AssertionError("the sender does not come to rest")

    def do(self, step, now_s) -> None:
        if step.event is not None:
            self.state = sender.fire(self.state, step.event)
        if step.tell:
            self.told.append(now_s)
            self.is_told = True
        if step.repeat_notes:
            self.repeat_notes(now_s, LIMITS.sender.notes)
        if step.plan:
            self.pack(everything=step.write_manifest)
        if step.write_manifest and not self.instances:
            self.letters[K.MANIFEST, 1] = Letter(None, MessageState.REFUSED)  # there is no manifest of nothing
        elif step.write_manifest and (K.MANIFEST, 1) not in self.letters:
            parcels = len(self.states(K.PARCEL))
            content = tuple(self.instances)
            self.write(K.MANIFEST, lambda number: Manifest(head(K.MANIFEST, number), "1.2", 0, parcels, content))
        if step.send_again or step.repeat_manifest:
            self.rounds += 1
            self.queue_again(*((K.PARCEL, K.MANIFEST) if step.send_again else (K.MANIFEST,)))

    def queue_again(self, *kinds) -> None:
        for (kind, number), one in self.letters.items():
            is_seen = kind is K.PARCEL and number in self.seen
            if kind in kinds and one.state is MessageState.ACCEPTED and not is_seen:
                one.state = MessageState.QUEUED

    def pack(self, *, everything) -> None:
        while waiting := self.waiting():
            number = len(self.states(K.PARCEL))
            size = parcel_size_max(number, PACING, PAYLOAD_MAX_BYTES)
            entries = tuple(fill_parcel(waiting, size, PACING.instances_max))
            for one in entries:
                self.packed[one.instance.sha256] = one.offset_bytes + one.length_bytes
            self.write(K.PARCEL, lambda number, entries=entries: Parcel(head(K.PARCEL, number), "1.2", 0, entries))
            if not everything:
                return

    def read(self, message, now_s) -> None:
        """Take a verified message of the receiver."""
        if not isinstance(message, Receipt):
            if self.hear(message.head.kind, message.head.number):
                heard = self.numbers_heard()
                self.write(K.TAKEN, lambda number: Taken(head(K.TAKEN, number), "", "", None, heard))
            else:  # it would not be repeated if the answer had been heard
                last = max(number for kind, number in self.letters if kind is K.TAKEN)
                self.letters[K.TAKEN, last].state = MessageState.QUEUED
            return
        if message.head.number in self.receipts_read:
            return
        self.receipts_read.add(message.head.number)
        parcels = {number: state for (_, number), state in self.states(K.PARCEL).items()}
        news = read_receipt(message, parcels=parcels, notes=self.states(*NOTES), seen_before=self.seen)
        self.seen = news.seen
        for key in [*((K.PARCEL, number) for number in news.confirmed), *news.heard]:
            self.letters[key].state = MessageState.FILED
        for number in news.ask_again:
            self.letters[K.PARCEL, number].state = MessageState.QUEUED
        if news.is_progress:
            self.progress_s = self.patience_from_s = now_s
            self.rounds, self.is_told = 0, False
        if message.is_final and (self.state, SenderEvent.RECEIPT_COMPLETE) in sender.TRANSITIONS:
            verdict = judge_final(message, frozenset(one.sha256 for one in self.instances))
            self.refused = verdict.refused
            if verdict.is_delivered or verdict.refused:
                self.letters[K.MANIFEST, 1].state = MessageState.FILED
            if verdict.is_delivered:
                self.state = sender.fire(self.state, SenderEvent.RECEIPT_COMPLETE)
            elif verdict.refused and self.state is SenderState.CLOSED:
                self.state = sender.fire(self.state, SenderEvent.GAVE_UP)
                self.told.append(now_s)


@dataclass
class Incoming(Side):
    """The receiver's transfer; state None before anything came."""

    state: ReceiverState | None = None
    opened_s: float = 0.0
    last_arrival_s: float = 0.0
    parcels: dict = field(default_factory=dict)
    items: dict = field(default_factory=dict)
    slices: dict = field(default_factory=dict)
    manifest: Manifest | None = None
    filings: list = field(default_factory=list)
    broken: set = field(default_factory=set)
    news: int = 0
    reminders: int = 0
    last_receipt_s: float | None = None
    receipts: list = field(default_factory=list)
    named_filed: bool = False
    arrived_s: dict = field(default_factory=dict)
    manifest_s: float = 0.0
    asked_s: float | None = None
    doubles: int = 0
    is_told: bool = False

    def is_all_filed(self) -> bool:
        ended = (ItemState.FILED, ItemState.REFUSED)
        return self.manifest is not None and all(self.items.get(one.sha256) in ended for one in self.manifest.instances)

    def facts(self) -> ReceiverFacts:
        states = list(self.parcels.values())
        manifest = (self.manifest.parcels, self.manifest_s) if self.manifest else None
        return ReceiverFacts(
            state=self.state,
            seed=TRANSFER,
            priority=Priority.EMERGENCY,
            is_all_filed=self.is_all_filed(),
            in_hand=states.count(MessageState.VERIFIED),
            news=self.news,
            has_first_filed=MessageState.FILED in states and not self.named_filed,
            gap_since_s=gap_since_s(self.arrived_s, frozenset(), manifest),
            opened_s=self.opened_s,
            last_arrival_s=self.last_arrival_s,
            last_receipt_s=self.last_receipt_s,
            reminders=self.reminders,
            is_told=self.is_told,
            notes=self.notes(),
            doubles=self.doubles,
            asked_s=self.asked_s,
        )

    def look(self, now_s) -> None:
        """Look until there is nothing left to do now; that must not take for ever."""
        for _ in range(LOOKS_MAX):
            if self.state is None:
                return
            step = receiver.next_step(self.facts(), LIMITS.receiver, now_s)
            self.due_s = step.due_s
            if step == receiver.ReceiverStep(due_s=step.due_s):
                return
            if step.event is not None:
                self.state = receiver.fire(self.state, step.event)
                if step.event is ReceiverEvent.WENT_SILENT:
                    self.told.append(now_s)
            if step.tell:
                self.told.append(now_s)
                self.is_told = True
            if step.repeat_notes:
                self.repeat_notes(now_s, LIMITS.receiver.notes)
            if step.write_receipt:
                self.write_receipt(step, now_s)
        raise AssertionError("the receiver does not come to rest")

    def write_receipt(self, step, now_s) -> None:
        filed = frozenset(sha256 for sha256, state in self.items.items() if state is ItemState.FILED)
        refused = frozenset(sha256 for sha256, state in self.items.items() if state is ItemState.REFUSED)
        self.receipts.append((now_s, self.state))
        receipt = write_receipt(
            head(K.RECEIPT, len(self.receipts), back=True),
            state=self.state,
            parcels=self.parcels,
            manifest_parcels=self.manifest.parcels if self.manifest else None,
            filed=filed,
            refused=refused,
            heard=self.numbers_heard(),
            asks=step.asks,
            first_arrival_at=at(1),
        )
        self.write(K.RECEIPT, lambda number: receipt)
        self.news, self.doubles, self.last_receipt_s = 0, 0, now_s
        self.asked_s = now_s if step.asks else self.asked_s
        self.named_filed = self.named_filed or bool(receipt.parcels_filed)
        self.reminders += step.is_reminder

    def read(self, message, now_s) -> None:
        """Take a verified message of the sender."""
        if self.state is None:
            self.state, self.opened_s, self.last_arrival_s = ReceiverState.EXPECTED, now_s, now_s
        self.news, self.reminders = self.news + 1, 0
        known = message.head.number in self.heard.get(message.head.kind, ())
        self.doubles += known or (isinstance(message, Parcel) and message.head.number in self.parcels)
        match message:
            case Parcel():
                self.read_parcel(message, now_s)
            case Manifest():
                self.fire(ReceiverEvent.MORE_CAME)
                if self.manifest is None:
                    self.manifest, self.manifest_s, self.last_arrival_s = message, now_s, now_s
            case Recall():
                self.fire(ReceiverEvent.RECALLED)
                if self.hear(K.RECALL, message.head.number):
                    count, when = len(self.filings), message.head.written_at
                    self.write(
                        K.RECALLED, lambda number: Recalled(head(K.RECALLED, number, back=True), count, (), (), when)
                    )
            case Taken():
                self.hear(K.TAKEN, message.head.number)
                for key in [(kind, number) for kind, numbers in message.heard.items() for number in numbers]:
                    if key in self.letters:
                        self.letters[key].state = MessageState.FILED
            case _:
                self.hear(message.head.kind, message.head.number)

    def fire(self, event) -> None:
        self.state = receiver.fire(self.state, event)

    def read_parcel(self, message, now_s) -> None:
        number = message.head.number
        news = take_parcel(self.state, message.entries, is_known=number in self.parcels, items=self.items)
        self.fire(ReceiverEvent.MORE_CAME)
        if news.is_dropped or news.is_double:
            return
        self.parcels[number] = MessageState.VERIFIED
        self.last_arrival_s = now_s
        self.arrived_s[number] = now_s
        self.look(now_s)  # as it is while the parcel waits to be filed
        complete = set(news.arrives)
        for one in message.entries:
            sha256 = one.instance.sha256
            if not one.is_whole and self.items.get(sha256) in (None, ItemState.LISTED):
                self.items[sha256] = ItemState.LISTED
                self.slices.setdefault(sha256, []).append((one.offset_bytes, one.length_bytes))
                if bytes_covered(self.slices[sha256]) == one.instance.size_bytes:
                    complete.add(sha256)
        for sha256 in sorted(complete):
            if sha256 in self.broken:
                self.items[sha256] = ItemState.REFUSED
            else:
                self.items[sha256] = ItemState.FILED
                self.filings.append(sha256)
        self.parcels[number] = MessageState.FILED


class Network:
    """Both sides, the time, and what is on its way between them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sender = Outgoing()
        self.receiver = Incoming()
        self.flight: list[tuple[str, bytes]] = []
        self.mails = 0
        self.relay_is_up = True
        announce = Announce(head(K.ANNOUNCE), "1.2", 0, Identity("Mustermann"), "", "CT", "HEAD", 0)
        self.sender.write(K.ANNOUNCE, lambda number: announce)
        self.look()

    def look(self) -> None:
        """Both sides look, and what is queued goes to the relay while it answers."""
        for _ in range(LOOKS_MAX):
            self.sender.look(self.now_s)
            self.receiver.look(self.now_s)
            if not self.dispatch():
                return
        raise AssertionError("the two never come to rest")

    def dispatch(self) -> bool:
        went = False
        for to, side in (("receiver", self.sender), ("sender", self.receiver)):
            for (kind, _), letter in sorted(side.letters.items(), key=lambda one: (one[0][0].value, one[0][1])):
                if letter.state is MessageState.QUEUED and self.relay_is_up:
                    letter.state, letter.accepted_s, went = MessageState.ACCEPTED, self.now_s, True
                    self.flight.append((to, encode(letter.content)))
                    self.mails += 1
                    if to == "receiver" and kind in (K.PARCEL, K.MANIFEST):
                        self.sender.patience_from_s = self.now_s
        return went

    def deliver(self, place: int, *, keep: bool = False) -> None:
        """Bring one mail to its reader; keep it on its way, too, when the relay doubles it."""
        to, text = self.flight[place] if keep else self.flight.pop(place)
        message = decode(json.loads(text))
        (self.receiver if to == "receiver" else self.sender).read(message, self.now_s)
        self.look()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have both sides look whenever they asked to."""
        end_s = self.now_s + seconds
        for _ in range(100_000):
            dues = [one for one in (self.sender.due_s, self.receiver.due_s) if one is not None and one <= end_s]
            if not dues:
                self.now_s = end_s
                self.look()
                return
            assert min(dues) > self.now_s, "a due time in the past: it was looked at and nothing came of it"
            self.now_s = min(dues)
            self.look()
        raise AssertionError("somebody looks without end")

    def image(self, size: int) -> None:
        """One more image comes in at the sender, while it still takes some."""
        number = len(self.sender.instances)
        self.sender.instances.append(ManifestEntry(f"{number:064x}", size, f"1.2.{number}"))
        self.sender.last_arrival_s = self.now_s
        self.look()

    def recall(self) -> None:
        """A person takes the study back."""
        self.sender.state = sender.fire(self.sender.state, SenderEvent.RECALLED)
        for (kind, _), one in self.sender.letters.items():
            if kind in (K.PARCEL, K.MANIFEST) and one.state is MessageState.QUEUED:
                one.state = MessageState.REPLACED
        self.sender.write(K.RECALL, lambda number: Recall(head(K.RECALL, number), "", "in error"))
        self.look()

    def order_again(self) -> None:
        """A person sends everything once more."""
        self.sender.state = sender.fire(self.sender.state, SenderEvent.ORDERED_AGAIN)
        self.sender.rounds, self.sender.patience_from_s = 0, self.now_s
        for (kind, _), one in self.sender.letters.items():
            if kind in (K.PARCEL, K.MANIFEST):
                one.state = MessageState.QUEUED
        self.look()

    def take(self) -> None:
        """A person at the receiver asks for the case."""
        self.receiver.write(K.TAKE, lambda number: Take(head(K.TAKE, number, back=True), "Dr. A", at(2)))
        self.look()
