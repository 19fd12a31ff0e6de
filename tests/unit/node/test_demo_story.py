"""The story of a transfer, from events made by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from raypost.archive.events import Happened, Position
from raypost.model.audit import EventKind, Level
from raypost.node.demo_progress import Progress
from raypost.node.demo_story import FAULT, HOLD_BACK, QUIET, Storyteller

BEGIN = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


def event(at_s: float, kind: EventKind, level: Level = Level.INFO, transfer_id: int | None = 1, **fields: object):
    return Happened(Position(), BEGIN + timedelta(seconds=at_s), kind, level, 1, transfer_id, 2, fields)


@pytest.fixture
def teller() -> Storyteller:
    it = Storyteller("neustadt", 3)
    it.begin = BEGIN
    return it


def told(teller: Storyteller) -> list[str]:
    return [" ".join(line.split()) for line in teller.tell()]


def test_a_transfer_reads_as_a_story_in_one_order(teller: Storyteller) -> None:
    """Events of different sites come in any order, as their databases are read in turn."""
    teller.hear("ludwigshafen", event(0.8, EventKind.ANNOUNCED, Level.ALARM, priority="emergency"), "neustadt")
    for at_s in (0.1, 0.4, 0.5):
        teller.hear("neustadt", event(at_s, EventKind.RECEIVED, transfer_id=None))
    teller.hear("neustadt", event(0.2, EventKind.TRANSFER_OPENED, priority="emergency"), "ludwigshafen")
    teller.hear("neustadt", event(0.6, EventKind.SENT, message="announce", relay="main"), "ludwigshafen")
    teller.hear("neustadt", event(0.65, EventKind.SENT, message="announce", relay="reserve"), "ludwigshafen")
    for number in (1, 2, 3, 5):
        teller.hear(
            "neustadt", event(1 + number / 10, EventKind.SENT, message="parcel", number=number, relay="main"), "x"
        )
    teller.hear("ludwigshafen", event(2, EventKind.FILED, instances=2), "neustadt")
    teller.hear("ludwigshafen", event(3.5, EventKind.FILED, instances=1), "neustadt")
    teller.hear("neustadt", event(4, EventKind.RECEIPTED, instances=3), "ludwigshafen")
    teller.hear("neustadt", event(9, EventKind.RECEIPTED, instances=3), "ludwigshafen")
    teller.hear("neustadt", event(9, EventKind.TRANSFER_DELIVERED, instances=3), "ludwigshafen")
    assert told(teller) == [
        "0.1 s Neustadt the first image came from the scanner and is safe on disk",
        "0.2 s Neustadt a transfer to Ludwigshafen begins, emergency",
        "0.5 s Neustadt all 3 images came",
        "0.6 s Neustadt the announcement to Ludwigshafen went out over relays main and reserve",
        "0.8 s Ludwigshafen THE ALARM RINGS: an emergency is on its way from Neustadt",
        "1.1 s Neustadt parcels 1–3, 5 went out over relay main",
        "2.0 s Ludwigshafen 2 images are filed in the archive, 2 so far",
        "3.5 s Ludwigshafen 1 image is filed in the archive, 3 so far",
        "4.0 s Neustadt Ludwigshafen has signed for 3 of 3 images",
        "9.0 s Neustadt DELIVERED: Ludwigshafen has signed for all 3 images, each by its hash",
    ]
    assert len(teller.lines) == 10 and teller.tell() == []


def test_receipts_of_a_study_in_several_transfers_are_added_up(teller: Storyteller) -> None:
    teller.hear("neustadt", event(1, EventKind.TRANSFER_OPENED, transfer_id=2, supplement=1), "ludwigshafen")
    for at_s, transfer_id, images in ((2, 1, 0), (4, 1, 2), (6, 1, 2), (8, 2, 1)):
        teller.hear(
            "neustadt", event(at_s, EventKind.RECEIPTED, transfer_id=transfer_id, instances=images), "ludwigshafen"
        )
    assert told(teller) == [
        "1.0 s Neustadt a supplement to Ludwigshafen begins",
        "2.0 s Neustadt Ludwigshafen has answered: it knows of the study",
        "4.0 s Neustadt Ludwigshafen has signed for 2 of 3 images",
        "8.0 s Neustadt Ludwigshafen has signed for 3 of 3 images",
    ]


def test_a_fault_stands_between_what_was_before_and_after(teller: Storyteller) -> None:
    for at_s in (1.0, 1.1):
        teller.hear("neustadt", event(at_s, EventKind.SENT, message="parcel", number=int(at_s * 10), relay="main"))
    teller.note(BEGIN + timedelta(seconds=1.2), FAULT, "relay main is killed")
    teller.hear("neustadt", event(1.3, EventKind.SENT, message="parcel", number=13, relay="reserve"))
    assert told(teller) == [
        "1.0 s Neustadt parcels 10, 11 went out over relay main",
        "1.2 s FAULT relay main is killed",
        "1.3 s Neustadt parcel 13 went out over relay reserve",
    ]


def test_what_is_young_is_held_back_so_that_the_order_holds(teller: Storyteller) -> None:
    teller.note(BEGIN + timedelta(seconds=5), FAULT, "late")
    assert teller.tell(BEGIN + timedelta(seconds=5) + HOLD_BACK / 2) == []
    teller.note(BEGIN + timedelta(seconds=4.9), FAULT, "early, heard later")
    assert [line.split()[-1] for line in teller.tell(BEGIN + timedelta(seconds=5) + HOLD_BACK)] == ["later", "late"]


def test_what_is_heard_after_its_sentence_was_told_gets_a_sentence_of_its_own(teller: Storyteller) -> None:
    """A transaction may take long: its event has the time of its beginning and is read after its end."""
    teller.hear("ludwigshafen", event(1.0, EventKind.FILED, instances=5), "neustadt")
    assert len(teller.tell(BEGIN + timedelta(seconds=1) + HOLD_BACK)) == 1
    teller.hear("ludwigshafen", event(1.5, EventKind.FILED, instances=6), "neustadt")
    assert told(teller) == ["1.5 s Ludwigshafen 6 images are filed in the archive, 11 so far"]


def test_losses_of_a_relay_are_told_as_what_they_are(teller: Storyteller) -> None:
    for at_s, copies in ((1.0, 0), (1.2, 0), (1.3, 2), (4.0, 0)):
        teller.note_relay(BEGIN + timedelta(seconds=at_s), "main", copies)
    assert told(teller) == [
        "1.0 s relay main lost 2 mails although it had answered 250",
        "1.3 s relay main delivered a mail twice",
        "4.0 s relay main lost a mail although it had answered 250",
    ]


@pytest.mark.parametrize("kind", list(EventKind))
def test_no_notice_and_no_alarm_is_left_out(teller: Storyteller, kind: EventKind) -> None:
    """Every kind has a sentence; what is quiet as information is told as an alarm."""
    for number, level in enumerate(Level):
        teller.hear("ludwigshafen", event(10.0 * number, kind, level, instances=1), "neustadt")
    lines = told(teller)
    once = (EventKind.RECEIPTED, EventKind.TRANSFER_CLOSED, EventKind.RELAY_UNREACHABLE)
    if kind is EventKind.RELAY_REACHED:
        assert lines == [], "it was never away"
    assert len(lines) >= (1 if kind in once else 0 if kind is EventKind.RELAY_REACHED else 2), lines
    assert all(len(line.split(" ", 3)[3]) > 10 for line in lines)


def test_a_relay_that_stays_away_is_told_once_and_its_return_too(teller: Storyteller) -> None:
    for at_s, said in ((1, "refused"), (3, "timed out"), (5, "refused")):
        teller.hear("neustadt", event(at_s, EventKind.RELAY_UNREACHABLE, Level.NOTICE, relay="main", said=said))
    teller.hear("ludwigshafen", event(4, EventKind.RELAY_UNREACHABLE, Level.NOTICE, relay="main"))
    for at_s in (7, 9):
        teller.hear("neustadt", event(at_s, EventKind.RELAY_REACHED, relay="main"))
    assert told(teller) == [
        "1.0 s Neustadt relay main does not answer",
        "4.0 s Ludwigshafen relay main does not answer",
        "7.0 s Neustadt relay main answers again",
    ]


def test_quiet_steps_are_left_to_the_sentences_around_them(teller: Storyteller) -> None:
    for kind in QUIET:
        teller.hear("neustadt", event(1, kind), "ludwigshafen")
    assert told(teller) == []


@pytest.mark.parametrize(
    ("ends", "state", "is_ended"),
    [
        ([], "not delivered in time", False),
        ([None], "not delivered in time", False),
        ([EventKind.TRANSFER_DELIVERED], "delivered", True),
        ([EventKind.TRANSFER_UNCONFIRMED], "unconfirmed", True),
        ([EventKind.TRANSFER_DELIVERED, None], "not delivered in time", False),
        ([EventKind.TRANSFER_REROUTED], "not delivered in time", False),
        ([EventKind.TRANSFER_REROUTED, None], "not delivered in time", False),
        ([EventKind.TRANSFER_REROUTED, EventKind.TRANSFER_DELIVERED], "rerouted", True),
        ([EventKind.TRANSFER_REROUTED, EventKind.TRANSFER_UNCONFIRMED], "unconfirmed", True),
    ],
)
def test_the_end_is_when_every_transfer_ended(ends: list[EventKind | None], state: str, is_ended: bool) -> None:
    it = Progress()
    for number, end in enumerate(ends):
        it.hear("neustadt", event(1, EventKind.TRANSFER_OPENED, transfer_id=number))
        if end is not None:
            it.hear("neustadt", event(2, end, transfer_id=number))
    assert (it.state, it.is_ended) == (state, is_ended)


def test_what_a_rerouted_centre_confirmed_counts_no_more() -> None:
    it = Progress()
    for number, images in ((1, 10), (2, 40)):
        it.hear("neustadt", event(1, EventKind.TRANSFER_OPENED, transfer_id=number))
        it.hear("neustadt", event(1, EventKind.RECEIPTED, transfer_id=number, instances=images))
    assert it.count("neustadt", "receipted") == 50
    it.hear("neustadt", event(2, EventKind.TRANSFER_REROUTED, transfer_id=1))
    assert it.count("neustadt", "receipted") == 40


def test_the_ring_of_an_emergency_is_no_fault() -> None:
    it = Progress()
    it.hear("ludwigshafen", event(1, EventKind.ANNOUNCED, Level.ALARM))
    it.hear("neustadt", event(2, EventKind.SENDING_REFUSED, Level.ALARM, said="554 5.7.1 no"))
    assert it.alarms == ["neustadt: sending refused 554 5.7.1 no"]
