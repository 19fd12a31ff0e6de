"""The site card."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import BadInputError, UsageError
from raypost.sealing.certificates import (
    CARD_MAX_BYTES,
    CardAddress,
    SiteCard,
    confirm_fingerprint,
    read_card,
    spell_fingerprint,
    write_card,
)

ARMOUR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEawUR8xYJKwYB\n=bMPe\n-----END PGP PUBLIC KEY BLOCK-----\n"
FINGERPRINT = "348F0332C9671635DB0AA6E1172CA9C03C6FBDFE"
CARD = SiteCard(
    name="neustadt",
    display_name='Klinikum "Neustadt" \\ Süd',
    ae_title_stem="NEUSTADT",
    addresses=(CardAddress("post@neustadt.example", "relay1"), CardAddress("post@neustadt2.example", "relay-2")),
    fingerprint=FINGERPRINT,
    certificate=ARMOUR,
    capabilities=("slices", "burst.1"),
)


def test_there_and_back():
    text = write_card(CARD)
    assert read_card(text) == CARD
    assert read_card("\ufeff" + text.replace("\n", "\r\n")) == CARD
    assert write_card(read_card(text)) == text
    assert CARD.mail_addresses == ("post@neustadt.example", "post@neustadt2.example")


def test_it_begins_with_words_for_people():
    first = write_card(CARD).splitlines()[:4]
    assert all(line.startswith("#") for line in first)
    assert "348F 0332 C967 1635 DB0A A6E1 172C A9C0 3C6F BDFE" in first[2]


def test_a_real_certificate_fits(sites):
    a, b = sites
    card = dataclasses.replace(CARD, fingerprint=a.fingerprint, certificate=a.ring.export_certificate(a.fingerprint))
    received = read_card(write_card(card))
    assert b.ring.import_certificate(received.certificate, received.fingerprint).fingerprint == a.fingerprint


@given(name=st.text(min_size=1, max_size=100).filter(lambda text: text.isprintable() and text.strip() == text))
def test_any_printable_name_survives(name):
    card = dataclasses.replace(CARD, display_name=name)
    assert read_card(write_card(card)) == card


@given(st.text(max_size=300))
def test_any_text_is_refused_in_plain_words(text):
    with pytest.raises(BadInputError):
        read_card(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "neustadt"\n', ""),
        ('name = "neustadt"\n', 'name = "neustadt"\nextra = 1\n'),
        ('name = "neustadt"\n', 'name = ["neustadt"]\n'),
        ('name = "neustadt"\n', 'name = "../x"\n'),
        ("raypost-card-1", "raypost-card-2"),
        ('NEUSTADT"', 'neustadt"'),
        (FINGERPRINT + '"', FINGERPRINT[:16] + '"'),
        ("post@neustadt.example", "post@neustadt.example\\r\\nBcc: x@y.example"),
        ("post@neustadt.example", "post@neustadt2.example"),
        ("relay1", "relay 1"),
        ('relay = "relay1"', 'relay = "relay1", more = 1'),
        ('"slices"', "1"),
        ('"slices"', '"<b>"'),
        ("PUBLIC KEY", "PRIVATE KEY"),
        ("mDMEawUR8xYJKwYB", "<script>"),
        ("=bMPe\n", "=bMPe\n" + "A" * CARD_MAX_BYTES),
        ('Süd"', 'Süd\\nx"'),
        ("[\n", "[" * 2000 + "\n"),
    ],
)
def test_any_wrong_entry_is_refused(old, new):
    text = write_card(CARD)
    assert old in text
    with pytest.raises(BadInputError) as caught:
        read_card(text.replace(old, new, 1) if "Süd" not in old else text.replace('Süd"\nae', new + "\nae", 1))
    assert "Bcc" not in str(caught.value)


def test_spelling():
    assert spell_fingerprint(FINGERPRINT) == "348F 0332 C967 1635 DB0A A6E1 172C A9C0 3C6F BDFE"


@pytest.mark.parametrize(
    "typed",
    [
        FINGERPRINT,
        FINGERPRINT.lower(),
        spell_fingerprint(FINGERPRINT),
        f" {FINGERPRINT}\n",
        spell_fingerprint(FINGERPRINT).replace(" ", ":"),
    ],
)
def test_the_full_fingerprint_confirms(typed):
    confirm_fingerprint(CARD, typed)


@pytest.mark.parametrize(
    "typed", ["", FINGERPRINT[-16:], FINGERPRINT[:-1], FINGERPRINT[:-1] + "0", FINGERPRINT * 2, "x" * 40]
)
def test_anything_else_does_not(typed):
    with pytest.raises(UsageError):
        confirm_fingerprint(CARD, typed)
