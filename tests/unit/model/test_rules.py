"""Rules: what fits, when, and that adding one never takes a copy away."""

from datetime import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import UsageError
from raypost.model.rules import Rule, RuleAction, RuleSubject, fitting, parse_hours
from raypost.model.site import Partner, addressed_partner, check_site_words
from raypost.model.transfer import Priority

SUBJECT = RuleSubject("neustadt", "CT1", "RAYPOST", "CT", "CT Schädel nativ", "HEAD", time(3, 10))


def rule(target: str = "ludwigshafen", **words) -> Rule:
    return Rule("r" + target, RuleAction.SEND, target, **words)


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ({}, True),
        ({"modality": "CT"}, True),
        ({"modality": "ct"}, True),
        ({"modality": "MR"}, False),
        ({"study_description": "*schädel*"}, True),
        ({"study_description": "Schädel"}, False),
        ({"body_part": "HE??"}, True),
        ({"calling_ae_title": "CT[1]"}, False),
        ({"calling_ae_title": "CT?"}, True),
        ({"hours": (time(20), time(6))}, True),
        ({"hours": (time(8), time(18))}, False),
        ({"hours": (time(3, 10), time(4))}, True),
        ({"hours": (time(2), time(3, 10))}, False),
        ({"modality": "CT", "body_part": "CHEST"}, False),
    ],
)
def test_conditions(words, fits) -> None:
    assert (not rule(**words).misfits(SUBJECT)) is fits


def test_of_several_rules_for_a_target_the_most_urgent_counts() -> None:
    rules = [rule(priority=Priority.ROUTINE), rule(priority=Priority.EMERGENCY), rule(priority=Priority.URGENT)]
    assert [one.priority for one in fitting(rules, SUBJECT, RuleAction.SEND)] == [Priority.EMERGENCY]
    assert fitting(rules, SUBJECT, RuleAction.FORWARD) == []


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "CT", "MR"])), max_size=6),
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "CT", "MR"])),
)
def test_one_more_rule_never_takes_a_target_away(pairs, more) -> None:
    rules = [rule(target, modality=modality) for target, modality in pairs]
    before = {one.target for one in fitting(rules, SUBJECT, RuleAction.SEND)}
    after = {one.target for one in fitting([*rules, rule(more[0], modality=more[1])], SUBJECT, RuleAction.SEND)}
    assert before <= after


def test_hours_are_read_or_refused() -> None:
    assert parse_hours("20:00-06:30") == (time(20), time(6, 30))
    for text in ("20-6", "25:00-06:00", "20:60-06:00", "", "20:00-06:00;"):
        with pytest.raises(UsageError):
            parse_hours(text)


def test_addressed_partner() -> None:
    centre = Partner(1, "ludwigshafen", "L", "LUDWIGSHAFEN", "l@x.test", "A" * 40)
    own = Partner(2, "neustadt", "N", "NEUSTADT", "n@x.test", "B" * 40, True)
    known = [own, centre]
    assert addressed_partner("LUDWIGSHAFEN_N", known) == (centre, Priority.EMERGENCY)
    assert addressed_partner("LUDWIGSHAFEN", known) == (centre, Priority.ROUTINE)
    assert addressed_partner("LUDWIGSHAFEN_X", known) is None
    assert addressed_partner("NEUSTADT_N", known) is None, "never to itself"


@pytest.mark.parametrize(
    ("name", "stem", "address"),
    [
        ("Neustadt", "N", "a@b.c"),
        ("neu stadt", "N", "a@b.c"),
        ("n", "n", "a@b.c"),
        ("n", "N" * 15, "a@b.c"),
        ("n", "N", "a"),
        ("n", "N", "a@b.c\r\nX: y"),
        ("../x", "N", "a@b.c"),
        ("", "N", "a@b.c"),
    ],
)
def test_words_that_cannot_be(name, stem, address) -> None:
    with pytest.raises(UsageError):
        check_site_words(name, stem, address)
