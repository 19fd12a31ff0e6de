"""A site's key in its life: renewed under the same fingerprint, the right subkey chosen, revoked for ever."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from raypost.errors import SecurityError, UsageError
from raypost.sealing.certificate_facts import CertificateFacts, SubkeyFacts, choose_signing_key
from raypost.sealing.openpgp import KeyRing, OpenFailure, OpenRefusedError, SealRefusedError

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    with_key = KeyRing(tmp_path_factory.mktemp("ring") / "home")
    with_key.own = with_key.make_site_key("Neustadt", "ris@neustadt.example", 100, 50)
    yield with_key
    with_key.close()


@pytest.fixture
def copy(ring, tmp_path):
    home = tmp_path / "copy"
    shutil.copytree(ring._home, home, ignore=shutil.ignore_patterns("S.*", "*.lock", "gnupg_*"))
    made = KeyRing(home)
    made.own = ring.own
    yield made
    made.close()


@pytest.fixture
def partner(tmp_path, ring):
    made = KeyRing(tmp_path / "partner")
    made.own = made.make_site_key("Ludwigshafen", "ris@ludwigshafen.example", 100, 50)
    made.import_certificate(ring.export_certificate(ring.own), ring.own)
    yield made
    made.close()


def subkey(name: str, age_days: float, days_left: float = 100, **changes) -> SubkeyFacts:
    words = dict(can_sign=True, can_encrypt=False, revoked=False, is_strong=True) | changes
    created, until = NOW - timedelta(days=age_days), NOW + timedelta(days=days_left)
    return SubkeyFacts(fingerprint=name, created_at=created, expires_at=until, **words)


def certificate(*subkeys: SubkeyFacts) -> CertificateFacts:
    return CertificateFacts("A" * 40, (), (), NOW, None, False, subkeys)


OLD, NEW, ENDED = subkey("old", 900), subkey("new", 1), subkey("ended", 950, -1)
REVOKED, SEALS = subkey("revoked", 0, revoked=True), subkey("seals", 0, can_sign=False, can_encrypt=True)


@pytest.mark.parametrize(
    ("keys", "known", "chosen"),
    [
        ((OLD, NEW), None, "old"),
        ((OLD, NEW), ["old"], "old"),
        ((OLD, NEW), ["old", "new"], "new"),
        ((OLD, NEW), ["new"], "new"),
        ((OLD, NEW), [], "new"),
        ((NEW, OLD), None, "old"),
        ((ENDED, OLD, NEW), ["ended"], "new"),
        ((ENDED, NEW), None, "new"),
        ((REVOKED, OLD), ["revoked", "old"], "old"),
        ((SEALS, OLD), ["seals", "old"], "old"),
        ((ENDED, REVOKED, SEALS), None, ""),
    ],
)
def test_which_key_signs(keys, known, chosen) -> None:
    assert choose_signing_key(certificate(*keys), known, NOW) == chosen


def test_a_renewal_keeps_the_fingerprint_and_the_old_keys(copy) -> None:
    before = copy.facts(copy.own)
    after = copy.renew_site_key(copy.own, 900, 400)
    assert after.fingerprint == before.fingerprint and len(after.subkeys) == 4
    assert {one.fingerprint for one in before.subkeys} < {one.fingerprint for one in after.subkeys}
    now = datetime.now(UTC)
    assert after.expires_at - now > timedelta(days=890)
    assert timedelta(days=390) < after.usable_until - now < timedelta(days=401)


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_a_key_does_not_last_for_ever(copy, days) -> None:
    with pytest.raises(UsageError):
        copy.renew_site_key(copy.own, 900, days)


def test_only_a_key_of_this_ring_is_renewed(copy) -> None:
    with pytest.raises(SecurityError):
        copy.renew_site_key("0" * 40, 900, 400)


def test_the_wanted_subkey_signs_and_the_partner_believes_what_it_knows(copy, partner, tmp_path) -> None:
    copy.import_certificate(partner.export_certificate(partner.own), partner.own)
    old = copy.signing_key(copy.own, None, datetime.now(UTC))
    copy.renew_site_key(copy.own, 900, 400)
    new = copy.signing_key(copy.own, (), datetime.now(UTC))
    assert old != new
    letter, sealed, opened = (tmp_path / name for name in ("letter", "sealed", "opened"))
    letter.write_text("good morning")
    copy.seal(letter, sealed, copy.own, [partner.own], signing_key=old)
    assert partner.open_sealed(sealed, opened, {copy.own}, 1000).signer_fingerprint == copy.own
    copy.seal(letter, sealed, copy.own, [partner.own], signing_key=new)
    with pytest.raises(OpenRefusedError):
        partner.open_sealed(sealed, opened, {copy.own}, 1000)
    partner.import_certificate(copy.export_certificate(copy.own), copy.own)
    assert partner.open_sealed(sealed, opened, {copy.own}, 1000).signer_fingerprint == copy.own


def test_an_older_certificate_takes_nothing_away(copy, partner) -> None:
    older = copy.export_certificate(copy.own)
    copy.renew_site_key(copy.own, 900, 400)
    partner.import_certificate(copy.export_certificate(copy.own), copy.own)
    assert len(partner.import_certificate(older, copy.own).subkeys) == 4


def test_a_revoked_key_is_over(copy, partner, tmp_path) -> None:
    copy.import_certificate(partner.export_certificate(partner.own), partner.own)
    letter, sealed = tmp_path / "letter", tmp_path / "sealed"
    letter.write_text("good morning")
    copy.seal(letter, sealed, copy.own, [partner.own])
    revocation = copy.revocation_certificate(copy.own)
    assert partner.revoke("Comment before it\n" + revocation).revoked
    with pytest.raises(OpenRefusedError) as refused:
        partner.open_sealed(sealed, tmp_path / "opened", {copy.own}, 1000)
    assert refused.value.reason is OpenFailure.SIGNER_REVOKED
    with pytest.raises(SealRefusedError, match="revoked"):
        partner.seal(letter, sealed, partner.own, [copy.own])
    partner.import_certificate(copy.export_certificate(copy.own), copy.own)
    assert partner.facts(copy.own).revoked, "a copy from before does not bring it back"


def test_the_revocation_certificate_is_taken_out_of_the_ring(copy) -> None:
    assert "PGP PUBLIC KEY BLOCK" in copy.revocation_certificate(copy.own)
    copy.take_out_revocation(copy.own)
    with pytest.raises(UsageError, match="not in the key ring any more"):
        copy.revocation_certificate(copy.own)


def test_what_is_no_revocation_changes_nothing(copy, partner) -> None:
    before = partner.facts(copy.own)
    for text in ("", "hello", partner.export_certificate(partner.own) + copy.export_certificate(copy.own)):
        with pytest.raises(UsageError):
            partner.revoke(text)
    with pytest.raises(SecurityError, match="nothing else"):
        partner.revoke(copy.export_certificate(copy.own))
    assert partner.facts(copy.own) == before


def test_a_key_that_is_not_here_is_not_revoked(copy, partner) -> None:
    with pytest.raises(SecurityError, match="no certificate"):
        copy.revoke(partner.revocation_certificate(partner.own))


def test_a_revocation_that_was_changed_is_not_believed(copy, partner) -> None:
    lines = copy.revocation_certificate(copy.own).split("\n")
    place = next(number for number, line in enumerate(lines) if number > 2 and len(line) == 64)
    lines[place] = lines[place][:-4] + ("AAAA" if lines[place][-4:] != "AAAA" else "BBBB")
    with pytest.raises((SecurityError, UsageError)):
        partner.revoke("\n".join(lines))
    assert not partner.facts(copy.own).revoked


def test_a_key_is_never_renewed_beyond_what_is_read(copy, partner, monkeypatch) -> None:
    copy.renew_site_key(copy.own, 900, 400)
    monkeypatch.setattr("raypost.sealing.openpgp.SUBKEYS_MAX", 6)
    with pytest.raises(UsageError, match="renewed so often"):
        copy.renew_site_key(copy.own, 900, 400)
    assert len(copy.facts(copy.own).subkeys) == 4, "nothing was added"
    partner.import_certificate(copy.export_certificate(copy.own), copy.own)


def test_certificates_that_add_up_to_too_many_keys_are_refused_before_they_merge(copy, partner, monkeypatch) -> None:
    copy.renew_site_key(copy.own, 900, 400)
    monkeypatch.setattr("raypost.sealing.openpgp.SUBKEYS_MAX", 4)
    with pytest.raises(SecurityError, match="more than 4 keys"):
        partner.import_certificate(copy.export_certificate(copy.own), copy.own)
    assert len(partner.facts(copy.own).subkeys) == 2, "the key ring is as it was"
