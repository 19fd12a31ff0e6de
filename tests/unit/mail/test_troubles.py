"""A mail in trouble is tried again after growing pauses, and not for ever; what is remembered is bounded."""

from datetime import UTC, datetime, timedelta

from raypost.mail import troubles
from raypost.mail.troubles import TRIES_MAX, TRY_AGAIN_MAX, Troubles

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
MAIL = (7, 1)


def test_pauses_grow_and_tries_end():
    one, pauses = Troubles(), []
    for number in range(1, TRIES_MAX + 1):
        assert one.note_failure(MAIL, NOW) is (number == TRIES_MAX)
        pauses.append(one.again_at(MAIL) - NOW)
    assert pauses[:3] == [timedelta(seconds=5), timedelta(seconds=10), timedelta(seconds=20)]
    assert pauses == sorted(pauses) and pauses[-1] == TRY_AGAIN_MAX
    assert one.again_at((8, 1)) is None, "of another UIDVALIDITY it is another mail"
    one.forget(MAIL)
    assert one.again_at(MAIL) is None and one.note_failure(MAIL, NOW) is False


def test_waiting_for_room_is_no_try():
    one = Troubles()
    one.note_failure(MAIL, NOW)
    for _ in range(TRIES_MAX):
        one.put_off(MAIL, NOW + timedelta(seconds=30))
    assert one.again_at(MAIL) == NOW + timedelta(seconds=30)
    assert [one.note_failure(MAIL, NOW) for _ in range(TRIES_MAX - 1)] == [False] * (TRIES_MAX - 2) + [True]


def test_it_remembers_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr(troubles, "REMEMBERED_MAX", 3)
    one = Troubles()
    for number in range(10):
        one.note_failure((7, number), NOW)
    assert [number for number in range(10) if one.again_at((7, number))] == [7, 8, 9]
