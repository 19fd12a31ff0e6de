"""Making, exchanging and judging certificates."""

import datetime

import pytest

from raypost.errors import SecurityError, UsageError
from raypost.sealing.certificate_facts import read_listing

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def reader(new_site):
    """A site with nobody else's certificate."""
    return new_site("reader")


def test_a_site_key_is_as_the_reference_says(sites):
    a = sites[0]
    facts = a.ring.facts(a.fingerprint)
    assert facts.addresses == ("ris@a.example",)
    assert facts.user_ids == ("Hospital a <ris@a.example>",)
    assert (facts.expires_at - facts.created_at).days == 1000
    assert not facts.revoked and facts.can_sign and facts.can_encrypt
    assert [(one.can_sign, one.can_encrypt) for one in facts.subkeys] == [(True, False), (False, True)]
    assert all((one.expires_at - one.created_at).days == 400 for one in facts.subkeys)
    listing = a.gpg("--with-colons", "--list-secret-keys", a.fingerprint).decode()
    rows = [line.split(":") for line in listing.splitlines()]
    assert [(row[0], row[11].lower()[:1], row[16]) for row in rows if row[0] in ("sec", "ssb")] == [
        ("sec", "c", "ed25519"),
        ("ssb", "s", "ed25519"),
        ("ssb", "e", "cv25519"),
    ]
    preferences = a.gpg("--list-packets", data=a.gpg("--export", a.fingerprint)).decode()
    assert "pref-zip-algos: 0)" in preferences
    assert "pref-sym-algos: 9 8 7)" in preferences


def test_names_are_unicode_and_nothing_else(reader):
    fingerprint = reader.ring.make_site_key("Universitätsklinikum Łódź", "u@reader.example", 10, 5)
    assert reader.ring.facts(fingerprint).user_ids == ("Universitätsklinikum Łódź <u@reader.example>",)
    for name, address in (
        ("a\nb", "a@b.example"),
        ("<x>", "a@b.example"),
        ("", "a@b.example"),
        ("x", "a b@c"),
        ("x" * 101, "a@b.example"),
    ):
        with pytest.raises(UsageError):
            reader.ring.make_site_key(name, address, 10, 5)
    for days in (0, -1, 10**6):
        with pytest.raises(UsageError):
            reader.ring.make_site_key("x", "a@b.example", days, 5)


def test_exchange_update_and_removal(sites, reader):
    a = sites[0]
    armour = a.ring.export_certificate(a.fingerprint)
    with pytest.raises(SecurityError):
        reader.ring.facts(a.fingerprint)
    facts = reader.ring.import_certificate(armour.replace("\n", "\r\n"), a.fingerprint)
    assert facts == a.ring.facts(a.fingerprint) == reader.ring.facts(a.fingerprint)
    assert reader.ring.import_certificate(armour, a.fingerprint) == facts
    reader.ring.remove_certificate(a.fingerprint)
    reader.ring.remove_certificate(a.fingerprint)
    with pytest.raises(SecurityError):
        reader.ring.facts(a.fingerprint)


def test_its_own_key_is_not_removed(reader):
    with pytest.raises(SecurityError):
        reader.ring.remove_certificate(reader.fingerprint)
    assert reader.ring.facts(reader.fingerprint).can_sign


def test_an_update_brings_revocation_and_an_old_card_does_not_take_it_back(reader, new_site):
    other = new_site("other")
    before = other.ring.export_certificate(other.fingerprint)
    assert not reader.ring.import_certificate(before, other.fingerprint).revoked
    assert reader.ring.import_certificate(other.revoke(other.fingerprint), other.fingerprint).revoked
    assert reader.ring.import_certificate(before, other.fingerprint).revoked


def test_an_update_brings_a_new_subkey(reader, new_site):
    other = new_site("rotating")
    reader.ring.import_certificate(other.ring.export_certificate(other.fingerprint), other.fingerprint)
    other.gpg("--quick-add-key", other.fingerprint, "cv25519", "encr", "900d")
    facts = reader.ring.import_certificate(other.ring.export_certificate(other.fingerprint), other.fingerprint)
    assert [one.can_encrypt for one in facts.subkeys] == [False, True, True]


def test_refuses_another_certificate_than_expected(sites, reader):
    a, b = sites
    both = a.gpg("--armor", "--export", a.fingerprint, b.fingerprint).decode()
    one = a.ring.export_certificate(a.fingerprint)
    for armour, expected in (
        (one, b.fingerprint),
        (both, a.fingerprint),
        (both, b.fingerprint),
        (one + one, a.fingerprint),
        (one, a.fingerprint[-16:]),
        (one, a.fingerprint.lower()),
        ("", a.fingerprint),
        ("x" * 70_000, a.fingerprint),
        (one[:200] + one[300:], a.fingerprint),
        (one.replace("PUBLIC KEY BLOCK", "MESSAGE"), a.fingerprint),
    ):
        with pytest.raises(SecurityError):
            reader.ring.import_certificate(armour, expected)
    for fingerprint in (a.fingerprint, b.fingerprint):
        with pytest.raises(SecurityError):
            reader.ring.facts(fingerprint)


def test_refuses_secret_keys_whatever_they_are_called(reader, new_site):
    exposed = new_site("exposed")
    secret = exposed.gpg("--armor", "--export-secret-keys", exposed.fingerprint).decode()
    for armour in (secret, secret.replace("PRIVATE", "PUBLIC")):
        with pytest.raises(SecurityError):
            reader.ring.import_certificate(armour, exposed.fingerprint)
    assert exposed.fingerprint not in reader.gpg("--with-colons", "--list-secret-keys").decode()
    assert exposed.fingerprint not in reader.gpg("--with-colons", "--list-keys").decode()


def test_usable_at(sites):
    facts = sites[0].ring.facts(sites[0].fingerprint)
    start = facts.created_at
    assert facts.usable_at(start) and facts.usable_at(start + 399 * DAY)
    assert facts.usable_at(start - DAY), "clocks differ"
    assert facts.unusable_reason_at(start + 401 * DAY) == "has no key left that may sign: expired, revoked or too weak"
    assert facts.unusable_reason_at(start + 1001 * DAY).startswith("expired on 20")
    assert facts.usable_until == start + 400 * DAY


LISTING = (
    "pub:{validity}:{bits}:{algorithm}:172CA9C03C6FBDFE:1577836800:{expires}::u:::scESC:::::ed25519:::0:\n"
    "fpr:::::::::348F0332C9671635DB0AA6E1172CA9C03C6FBDFE:\n"
    "uid:u::::1577836800::0D88::A\\x3a \\x0a <a@x.example>::::::::::0:\n"
    "uid:r::::1577836800::0D88::Gone <gone@x.example>::::::::::0:\n"
    "sub:{sub}:255:18:3BAC0C751F48061C:1577836800:::::s:e::::cv25519::\n"
    "fpr:::::::::6FF2DE575562FED3CFE432F13BAC0C751F48061C:\n"
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"validity": "r"}, "revoked by its owner"),
        ({"expires": "1600000000"}, "expired on 2020-09-13"),
        ({"sub": "r"}, "has no key left that may encrypt: expired, revoked or too weak"),
        ({"bits": "2048", "algorithm": "1"}, "has no key left that may sign: expired, revoked or too weak"),
        ({"bits": "3072", "algorithm": "1"}, ""),
        ({"bits": "3072", "algorithm": "17"}, "has no key left that may sign: expired, revoked or too weak"),
    ],
)
def test_reading_a_listing(changes, reason):
    fields = {"validity": "u", "bits": "255", "algorithm": "22", "expires": "", "sub": "u"} | changes
    (facts,) = read_listing(LISTING.format(**fields).encode()).certificates
    assert facts.unusable_reason_at(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) == reason
    assert facts.user_ids == ("A: \\x0a <a@x.example>",)
    assert facts.addresses == ("a@x.example",)


@pytest.mark.parametrize(
    "text",
    [
        b"pub:u\n",
        b"pub:u:255:22:17:x::::::c:\nfpr:::::::::zz:\n",
        LISTING.format(validity="u", bits=255, algorithm=22, expires="", sub="u").encode()
        + b"uid:u::::1::0::x::::::::::0:\n" * 17,
    ],
)
def test_a_listing_that_is_none_or_too_long_is_refused(text):
    with pytest.raises(ValueError):
        read_listing(text)
