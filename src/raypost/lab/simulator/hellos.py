"""The books of the partners: signs of life, clocks, and what a restored partner has lost; as `archive/contacts.py`."""

from __future__ import annotations

from raypost.lab.simulator import cases
from raypost.lab.simulator.composing import seconds
from raypost.lab.simulator.office import Office
from raypost.lab.simulator.rows import MessageRow
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import hello, sender
from raypost.transfer.control import Hello
from raypost.transfer.hello import ContactEvent, ContactFacts
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.sender import OPEN

HELLOS_KEPT = 4


def note_heard(site: Office, partner: str) -> None:
    """Note that something signed by a partner was verified: as good a sign of life as a hello."""
    contact = site.ledger.contacts[partner]
    contact.heard_s = site.now()
    contact.state = hello.fire(contact.state, ContactEvent.HEARD)


def take_hello(site: Office, partner: str, message: Hello) -> None:
    """Take in a sign of life; an older one than the last changes nothing."""
    contact = site.ledger.contacts[partner]
    if message.head.number <= contact.heard_number:
        return
    now_s = site.now()
    contact.heard_number, contact.heard_hello_s = message.head.number, now_s
    contact.heard_written_s = seconds(message.head.written_at)
    contact.its_interval_s = message.interval_s
    contact.path_bytes_per_s = message.fetch_bytes_per_s or contact.path_bytes_per_s
    if message.echo is not None:
        written_s, heard_s = seconds(message.echo.written_at), seconds(message.echo.heard_at)
        reading = hello.measure_clock(written_s, heard_s, contact.heard_written_s, now_s)
        contact.clock = reading or contact.clock
    if message.restored_from is not None:
        restored_s = seconds(message.restored_from)
        if restored_s != contact.restored_from_s:
            contact.restored_from_s = restored_s
            contact.restores_heard += 1
            since_s = hello.lost_since_s(restored_s, contact.clock, site.times.limits.hello)
            for transfer in list(site.ledger.outgoing.values()):
                if transfer.partner == partner:
                    doubt = sender.doubt_after_restore(transfer.state, transfer.last_receipt_s, since_s)
                    cases.send_after_restore(site, transfer, doubt)


def arm_contact(site: Office, partner: str) -> None:
    """Decide what is due with a partner; while somebody greets at all."""
    if not site.greets():
        return
    contact, now_s = site.ledger.contacts[partner], site.now()
    step = hello.next_step(
        ContactFacts(
            state=contact.state,
            written_s=contact.written_s,
            heard_s=contact.heard_s,
            known_since_s=contact.known_since_s,
            its_interval_s=contact.its_interval_s,
            is_emergency_open=_is_emergency_open(site, partner),
        ),
        site.times.limits.hello,
        now_s,
    )
    if step.event is not None:
        contact.state = hello.fire(contact.state, step.event)
        site.world.say(site.name, f"{partner} is silent")
    if step.write_hello:
        contact.hellos = max(contact.hellos, site.ledger.restores * hello.NUMBERS_A_RESTORE) + 1
        contact.written_s = now_s
        row = MessageRow(None, partner, MessageKind.HELLO, contact.hellos, 0, Priority.ROUTINE.rank + 2, now_s)
        site.ledger.hellos = [*site.ledger.hellos[-HELLOS_KEPT * len(site.ledger.contacts) :], row]
        site.pack_hello(row, f"hello{contact.hellos:05d}".translate(_DIGITS))
    contact.due_s = step.due_s
    site.world.aside(max(0.001, step.due_s - now_s), _due, site, site.life, partner, step.due_s)


_DIGITS = str.maketrans("0189", "abcd")


def _due(site: Office, life: int, partner: str, due_s: float) -> None:
    if life == site.life and site.ledger.contacts[partner].due_s == due_s:
        arm_contact(site, partner)


def _is_emergency_open(site: Office, partner: str) -> bool:
    waiting = (ReceiverState.EXPECTED, ReceiverState.ARRIVING)
    return any(
        one.partner == partner and one.priority is Priority.EMERGENCY and one.state in OPEN
        for one in site.ledger.outgoing.values()
    ) or any(
        one.partner == partner and one.priority is Priority.EMERGENCY and one.state in waiting
        for one in site.ledger.incoming.values()
    )
