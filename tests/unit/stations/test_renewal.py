"""A site renews its keys: partners take them from a hello, and nothing is unreadable at any moment in between."""

import dataclasses
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest

from raypost.archive import contacts, greetings, key_news, partners
from raypost.sealing.openpgp import KeyRing
from raypost.stations.renewal import Renewal, take_certificate
from tests.unit.stations.test_hello import greet

PRIMARY_DAYS, SUBKEY_DAYS = 900, 400


@pytest.fixture(autouse=True)
def own_rings(neustadt, ludwigshafen, tmp_path):
    """Key rings of this test's own: what it changes in them is nobody else's."""
    rings = []
    for site in (neustadt, ludwigshafen):
        home = tmp_path / f"ring-{site.partner.name}"
        shutil.copytree(site.keyring._home, home, ignore=shutil.ignore_patterns("S.*", "*.lock", "gnupg_*"))
        site.keyring = KeyRing(home)
        rings.append(site.keyring)
    yield
    for ring in rings:
        ring.close()


def subkeys(site, fingerprint: str) -> set[str]:
    return {one.fingerprint for one in site.keyring.facts(fingerprint).subkeys}


def renew(site) -> None:
    """Do what `raypost key renew` does."""
    own = site.partner.fingerprint
    facts = site.keyring.renew_site_key(own, PRIMARY_DAYS, SUBKEY_DAYS)
    with site.archive.database.transaction() as tx:
        me = partners.own_site(tx)
        certificate = site.keyring.export_certificate(own)
        key_news.note_renewed(tx, me, certificate, facts.usable_until, site.clock.now(), who="test")
        greetings.greet_all_now(tx, site.clock.now())


def site_id(site, name: str) -> int:
    return site.scalar("select id from rp_site where name = :name", name=name)


def signed_with(site, name: str) -> str:
    with site.archive.database.transaction() as tx:
        known = contacts.keys_known(tx, site_id(site, name))
    return site.keyring.signing_key(site.partner.fingerprint, known, site.clock.now())


def send(site, postman, head) -> str:
    for file in head:
        assert site.receive(file) == 0
    postman.run()
    postman.pass_time(60)
    return site.transfer().state


def test_fresh_keys_are_taken_from_a_hello_and_used_only_when_they_are_known(
    neustadt, ludwigshafen, postman, head
) -> None:
    own = neustadt.partner.fingerprint
    for _ in range(2):
        greet(ludwigshafen, postman)
        greet(neustadt, postman)
        neustadt.clock.pass_time(301)
    old = signed_with(neustadt, "ludwigshafen")
    renew(neustadt)
    assert len(subkeys(neustadt, own)) == 4 and len(subkeys(ludwigshafen, own)) == 2
    assert signed_with(neustadt, "ludwigshafen") == old, "the partner could not verify a fresh one"
    greet(neustadt, postman)
    assert subkeys(ludwigshafen, own) == subkeys(neustadt, own)
    assert ludwigshafen.kinds().count("keys renewed") == 1
    assert ludwigshafen.scalar(
        "select certificate from rp_partner where retired_at is null and fingerprint = :own", own=own
    ) == neustadt.keyring.export_certificate(own)
    greet(ludwigshafen, postman)
    assert signed_with(neustadt, "ludwigshafen") not in ("", old)
    assert send(neustadt, postman, head) == "delivered"
    neustadt.clock.pass_time(301)
    greet(neustadt, postman)
    assert ludwigshafen.kinds().count("keys renewed") == 1, "it is not sent for ever"
    mails = [row[0] for row in neustadt.rows("select size_bytes from rp_message where kind = 'hello' order by id")]
    assert mails[-1] < max(mails)


def test_a_site_restored_from_before_its_renewal_renews_once_more(
    neustadt, ludwigshafen, postman, head, tmp_path
) -> None:
    for _ in range(2):
        greet(ludwigshafen, postman)
        greet(neustadt, postman)
        ludwigshafen.clock.pass_time(301)
    backup = tmp_path / "backup"
    shutil.copytree(ludwigshafen.keyring._home, backup, ignore=shutil.ignore_patterns("S.*", "*.lock", "gnupg_*"))
    renew(ludwigshafen)
    greet(ludwigshafen, postman)
    greet(neustadt, postman)
    time.sleep(1.1)  # keys are told apart by whole seconds, and here a second one is made
    ludwigshafen.keyring = KeyRing(backup)
    try:
        neustadt.clock.pass_time(301)
        greet(neustadt, postman)
        assert "not encrypted to a key of this site" in str(ludwigshafen.rows("select what from rp_quarantine"))
        renew(ludwigshafen)
        greet(ludwigshafen, postman)
        assert send(neustadt, postman, head) == "delivered"
    finally:
        ludwigshafen.keyring.close()


def test_what_was_sealed_before_the_renewal_is_opened_after_it(neustadt, ludwigshafen, postman, head) -> None:
    for file in head:
        assert neustadt.receive(file) == 0
    neustadt.work()
    renew(ludwigshafen)
    postman.run()
    postman.pass_time(60)
    assert neustadt.transfer().state == "delivered"


def test_a_partner_that_says_nothing_of_keys_is_signed_to_by_the_oldest(neustadt, ludwigshafen, postman, head) -> None:
    old = signed_with(neustadt, "ludwigshafen")
    renew(neustadt)
    assert signed_with(neustadt, "ludwigshafen") == old
    assert send(neustadt, postman, head) == "delivered"


def test_a_certificate_of_somebody_else_is_refused_and_rings(neustadt, ludwigshafen, postman, keyrings) -> None:
    for _ in range(2):
        greet(ludwigshafen, postman)
        greet(neustadt, postman)
        neustadt.clock.pass_time(301)
    renew(neustadt)
    stranger, fingerprint = keyrings["stranger"]
    foreign = stranger.export_certificate(fingerprint)
    neustadt.keyring.export_certificate = lambda _: foreign
    greet(neustadt, postman)
    assert ludwigshafen.rows("select level from rp_event where kind = 'keys refused'") == [("alarm",)]
    assert len(subkeys(ludwigshafen, neustadt.partner.fingerprint)) == 2
    assert not ludwigshafen.keyring._is_here(fingerprint)


def test_a_bad_certificate_in_every_hello_rings_once_a_day(neustadt, ludwigshafen, postman, keyrings) -> None:
    for _ in range(2):
        greet(ludwigshafen, postman)
        greet(neustadt, postman)
        neustadt.clock.pass_time(301)
    renew(neustadt)
    stranger, fingerprint = keyrings["stranger"]
    foreign = stranger.export_certificate(fingerprint)
    neustadt.keyring.export_certificate = lambda _: foreign
    for passed_s in (301, 301, 301, 86_400):
        greet(neustadt, postman)
        for site in (neustadt, ludwigshafen):
            site.clock.pass_time(passed_s)
    assert ludwigshafen.kinds().count("keys refused") == 1
    greet(neustadt, postman)
    assert ludwigshafen.kinds().count("keys refused") == 2


def test_a_hello_on_its_way_brings_no_partner_back_that_a_person_removed_or_changed(neustadt, ludwigshafen) -> None:
    other, now = next(one for one in _partners(neustadt) if not one.is_self), neustadt.clock.now()
    moved = dataclasses.replace(other, address="new@ludwigshafen.example", mailboxes=())
    with neustadt.archive.database.transaction() as tx:
        certificate = partners.certificate_of(tx, other.site_id)
        partners.add_partner(tx, moved, certificate, now=now, who="test")
    with neustadt.archive.database.transaction() as tx:
        Renewal("a renewed certificate", now).note(tx, other, now)
        assert partners.certificate_of(tx, other.site_id) == "a renewed certificate"
        assert partners.partner_named(tx, other.name).address == moved.address
    with neustadt.archive.database.transaction() as tx:
        partners.remove_partner(tx, other.name, now=now, who="test")
    with neustadt.archive.database.transaction() as tx:
        Renewal("another certificate", now).note(tx, other, now)
        assert partners.partner_by_id(tx, other.site_id) is None
    assert neustadt.kinds().count("keys renewed") == 1


def test_a_revocation_in_a_hello_is_no_renewal(neustadt, ludwigshafen) -> None:
    own, now = neustadt.partner.fingerprint, neustadt.clock.now()
    as_it_was = neustadt.keyring.revocation_certificate(own)
    neustadt.keyring.revoke(as_it_was)
    hello = SimpleNamespace(certificate=neustadt.keyring.export_certificate(own))
    sender = next(one for one in _partners(ludwigshafen) if one.fingerprint == own)
    for _ in range(2):
        with ludwigshafen.archive.database.transaction() as tx:
            take_certificate(ludwigshafen.keyring, sender, hello).note(tx, sender, now)
    assert ludwigshafen.rows("select level from rp_event where kind = 'key revoked'") == [("alarm",)]
    assert "keys renewed" not in ludwigshafen.kinds()


def test_two_hellos_at_once_tell_once_that_this_sites_key_ends(neustadt) -> None:
    own, now = next(one for one in _partners(neustadt) if one.is_self), neustadt.clock.now()
    told = threading.Event()

    def _second() -> None:
        with neustadt.archive.database.transaction() as tx:
            told.set()
            key_news.warn(tx, own, now + timedelta(days=20), now)

    with ThreadPoolExecutor(1) as pool:
        with neustadt.archive.database.transaction() as tx:
            key_news.warn(tx, own, now + timedelta(days=20), now)
            second = pool.submit(_second)
            assert told.wait(10)
            time.sleep(0.3)  # until it waits for this transaction's row
        second.result(10)
    assert neustadt.kinds().count("key ends") == 1


@pytest.mark.parametrize(
    ("days_left", "told", "level"),
    [(61, 0, ""), (59.5, 1, "notice"), (29, 1, "notice"), (6.9, 1, "alarm"), (-1, 1, "alarm")],
)
def test_a_person_is_told_before_keys_end_each_time_once(neustadt, ludwigshafen, days_left, told, level) -> None:
    other = next(one for one in _partners(neustadt) if not one.is_self)
    now = neustadt.clock.now()
    for _ in range(3):
        with neustadt.archive.database.transaction() as tx:
            key_news.warn(tx, other, now + timedelta(days=days_left), now)
    found = neustadt.rows("select level from rp_event where kind = 'key ends'")
    assert found == [(level,)] * told


def test_the_warnings_come_nearer_and_end_with_the_renewal(neustadt) -> None:
    own, now = next(one for one in _partners(neustadt) if one.is_self), neustadt.clock.now()
    until = now + timedelta(days=70)
    for passed in (0, 11, 12, 41, 64, 71):
        with neustadt.archive.database.transaction() as tx:
            key_news.warn(tx, own, until, now + timedelta(days=passed))
    levels = [row[0] for row in neustadt.rows("select level from rp_event where kind = 'key ends' order by id")]
    assert levels == ["notice", "notice", "alarm", "alarm"]
    with neustadt.archive.database.transaction() as tx:
        key_news.warn(tx, own, now + timedelta(days=900), now + timedelta(days=71))
    assert neustadt.scalar("select count(*) from rp_key_warning") == 0


def test_the_heartbeat_looks_at_the_keys_of_both(neustadt, ludwigshafen, postman) -> None:
    greet(neustadt, postman)
    names = {row[0]["name"] for row in neustadt.rows("select fields from rp_event where kind = 'key ends'")}
    assert names == {"neustadt", "ludwigshafen"}, "the keys of this kit last 30 days"


def test_a_revoked_key_is_neither_sealed_to_nor_believed(neustadt, ludwigshafen, postman, head) -> None:
    own = neustadt.partner.fingerprint
    revocation = neustadt.keyring.revocation_certificate(own)
    for file in head[:1]:
        neustadt.receive(file)
    neustadt.work()
    assert ludwigshafen.keyring.revoke(revocation).revoked
    postman.run()
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 0
    assert "revoked" in str(ludwigshafen.rows("select what from rp_quarantine"))


def _partners(site):
    with site.archive.database.transaction() as tx:
        return partners.all_partners(tx)
