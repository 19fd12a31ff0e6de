"""What is opened, and everything that must not be."""

import datetime
import zlib

import pytest

from raypost.errors import SecurityError, TransientError
from raypost.sealing import gpg
from raypost.sealing.openpgp import OpenFailure, OpenRefusedError

SIZE_MAX_BYTES = 1 << 20


def at_time(when: str) -> tuple[str, ...]:
    """Return what makes plain gpg believe another time, and keys that are younger than it."""
    return ("--faked-system-time", when, "--ignore-valid-from", "--ignore-time-conflict")


def sign_and_encrypt(sender, reader, *options: str, data: bytes = b"content", signer: str = "") -> bytes:
    """Write a message with plain gpg."""
    return sender.gpg(
        "--trust-model",
        "always",
        *options,
        "-u",
        signer or sender.fingerprint,
        "-r",
        reader.fingerprint,
        "--sign",
        "--encrypt",
        data=data,
    )


@pytest.fixture
def refuse(sites, tmp_path):
    """Return a function that opens bytes at hospital b, expects a refusal and that nothing is left of the content."""

    def check(message: bytes, reason: OpenFailure, *, at=None, allowed=None, size_max_bytes=SIZE_MAX_BYTES):
        a, b = sites
        source, target = tmp_path / "message", tmp_path / "opened"
        source.write_bytes(message)
        with pytest.raises(OpenRefusedError) as caught:
            (at or b).ring.open_sealed(source, target, {a.fingerprint} if allowed is None else allowed, size_max_bytes)
        assert caught.value.reason is reason, caught.value.log
        assert isinstance(caught.value, SecurityError)
        assert [path.name for path in tmp_path.iterdir()] == ["message"]
        return caught.value

    return check


def binary(site, armoured: bytes) -> bytes:
    """Take the armour off."""
    return site.gpg("--dearmor", data=armoured)


@pytest.mark.parametrize("form", ["armoured", "armoured, CRLF", "binary"])
def test_opens_what_the_other_sealed(sites, sealed, content, tmp_path, form):
    a, b = sites
    message = {"armoured": sealed, "armoured, CRLF": sealed.replace(b"\n", b"\r\n"), "binary": binary(a, sealed)}[form]
    (tmp_path / "message").write_bytes(message)
    opened = b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {a.fingerprint}, SIZE_MAX_BYTES)
    assert opened.signer_fingerprint == a.fingerprint
    assert opened.signed_at.tzinfo is not None
    assert (tmp_path / "opened").read_bytes() == content
    assert (tmp_path / "opened").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "opened.part").exists()


def test_opens_an_empty_file(sites, tmp_path):
    a, b = sites
    (tmp_path / "empty").write_bytes(b"")
    a.ring.seal(tmp_path / "empty", tmp_path / "message", a.fingerprint, [b.fingerprint])
    b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {a.fingerprint}, SIZE_MAX_BYTES)
    assert (tmp_path / "opened").read_bytes() == b""


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"\x80",
        b"\x99\x01",
        b"\xff" * 100,
        b"-----BEGIN PGP MESSAGE-----\n\n*",
        b"-----BEGIN PGP MESSAGE-----\n\n-----END PGP MESSAGE-----\n",
        b"x\n-----BEGIN PGP MESSAGE-----\n\nwV4D\n-----END PGP MESSAGE-----\n",
    ],
)
def test_refuses_what_is_no_message(refuse, text):
    refuse(text, OpenFailure.TRUNCATED if b"*" in text else OpenFailure.NOT_OPENPGP)


def test_refuses_a_signer_not_allowed(refuse, sites, sealed):
    a, b = sites
    for allowed in (set(), {b.fingerprint}, {a.fingerprint.lower()}, {a.fingerprint[-16:]}):
        assert refuse(sealed, OpenFailure.SIGNER_NOT_ALLOWED, allowed=allowed).claimed_signer == a.fingerprint


def test_refuses_an_unknown_signer_and_names_the_key(refuse, sites, new_site):
    stranger = new_site("stranger")
    stranger.ring.import_certificate(sites[1].ring.export_certificate(sites[1].fingerprint), sites[1].fingerprint)
    error = refuse(sign_and_encrypt(stranger, sites[1]), OpenFailure.UNKNOWN_SIGNER)
    subkeys = [one.fingerprint for one in stranger.ring.facts(stranger.fingerprint).subkeys if one.can_sign]
    assert error.claimed_signer in subkeys
    assert "stranger" not in str(error)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9, 0.9999])
def test_refuses_one_flipped_bit(refuse, sites, sealed, at):
    message = bytearray(binary(sites[0], sealed))
    message[int(len(message) * at)] ^= 1
    refuse(bytes(message), OpenFailure.TAMPERED)


@pytest.mark.parametrize("cut", [1, 40, 1000, 200_000])
@pytest.mark.parametrize("armoured", [True, False])
def test_refuses_a_message_cut_short(refuse, sites, sealed, cut, armoured):
    refuse((sealed if armoured else binary(sites[0], sealed))[: -cut - 40 * armoured], OpenFailure.TRUNCATED)


def test_refuses_a_message_for_somebody_else(refuse, sites, sealed):
    refuse(sealed, OpenFailure.NOT_FOR_US, at=sites[0])


@pytest.mark.parametrize("armoured", [True, False])
@pytest.mark.parametrize("more", ["itself", "text"])
def test_refuses_anything_behind_the_message(refuse, sites, sealed, armoured, more):
    message = sealed if armoured else binary(sites[0], sealed)
    refuse(message + (message if more == "itself" else b"This mail was scanned."), OpenFailure.SEVERAL_MESSAGES)


def test_refuses_unsigned(refuse, sites):
    a, b = sites
    refuse(a.gpg("--trust-model", "always", "-r", b.fingerprint, "--encrypt", data=b"x"), OpenFailure.UNSIGNED)


@pytest.mark.parametrize("form", ["--sign", "--clearsign"])
def test_refuses_signed_but_not_encrypted(refuse, sites, form):
    refuse(sites[0].gpg("-u", sites[0].fingerprint, form, data=b"x"), OpenFailure.NOT_ENCRYPTED)


@pytest.mark.parametrize("also", [(), ("--encrypt", "--sign")])
def test_refuses_passwords_without_working_for_them(refuse, sites, also):
    a, b = sites
    options = ("-u", a.fingerprint, "-r", b.fingerprint, *also) if also else ()
    message = a.gpg(
        "--trust-model", "always", "--passphrase", "x", "--s2k-count", "65011712", *options, "--symmetric", data=b"x"
    )
    refuse(message, OpenFailure.PASSWORD_BASED)


def test_refuses_a_password_behind_the_session_key(refuse, sites, workshop):
    signed = sites[0].gpg("-z", "0", "-u", sites[0].fingerprint, "--sign", data=b"x")
    message = workshop.encrypt(signed)
    head = len(workshop.session_key_packet)
    expensive = workshop.packet(3, b"\x04\x09\x03\x08" + bytes(8) + b"\xff")
    refuse(message[:head] + expensive + message[head:], OpenFailure.PASSWORD_BASED)


def test_opens_what_the_workshop_makes_honestly(sites, workshop, tmp_path):
    """The refusals below would prove nothing if the workshop's messages were broken in another way."""
    a, b = sites
    signed = a.gpg("-z", "0", "-u", a.fingerprint, "--sign", data=b"honest")
    (tmp_path / "message").write_bytes(workshop.encrypt(signed))
    b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {a.fingerprint}, SIZE_MAX_BYTES)
    assert (tmp_path / "opened").read_bytes() == b"honest"


@pytest.mark.parametrize("order", ["before", "behind", "two", "twice sealed", "side by side"])
def test_refuses_partly_signed(refuse, sites, workshop, order):
    signed = sites[0].gpg("-z", "0", "-u", sites[0].fingerprint, "--sign", data=b"signed")
    extra = workshop.literal(b"not signed")
    sealed_once = workshop.encrypt(signed)
    message = {
        "before": workshop.encrypt(extra + signed),
        "behind": workshop.encrypt(signed + extra),
        "two": workshop.encrypt(signed + signed),
        "twice sealed": workshop.encrypt(sealed_once),
        "side by side": sealed_once + sealed_once,
    }[order]
    refuse(message, OpenFailure.SEVERAL_MESSAGES)


def test_refuses_two_signatures(refuse, sites, new_site):
    a, b = sites
    both = new_site("both")
    second = both.ring.make_site_key("Second", "second@both.example", 100, 50)
    for site in (both.fingerprint, second):
        b.ring.import_certificate(both.ring.export_certificate(site), site)
    both.ring.import_certificate(b.ring.export_certificate(b.fingerprint), b.fingerprint)
    message = sign_and_encrypt(both, b, "-u", second)
    refuse(message, OpenFailure.SEVERAL_SIGNATURES, allowed={both.fingerprint, second})


def test_refuses_encryption_without_integrity(refuse, sites, workshop):
    signed = sites[0].gpg("-z", "0", "-u", sites[0].fingerprint, "--sign", data=b"x")
    refuse(workshop.encrypt(signed, integrity=False), OpenFailure.NO_INTEGRITY)


def test_refuses_a_compression_bomb(refuse, sites):
    message = sign_and_encrypt(*sites, "--compress-algo", "zlib", data=bytes(64 << 20))
    assert len(message) < 200_000
    refuse(message, OpenFailure.TOO_LARGE)


def test_refuses_a_bomb_of_packets_in_packets(refuse, sites, workshop):
    def compressed(packets: bytes) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return workshop.packet(8, b"\x01" + deflate.compress(packets) + deflate.flush())

    signed = sites[0].gpg("-z", "0", "-u", sites[0].fingerprint, "--sign", data=b"x")
    refuse(
        workshop.encrypt(compressed(compressed(workshop.packet(10, b"PGP") * 1_000_000) + signed)), OpenFailure.UNCLEAR
    )
    deep = signed
    for _ in range(64):
        deep = compressed(deep)
    refuse(workshop.encrypt(deep), OpenFailure.UNCLEAR)


def test_the_size_limit_is_exact(refuse, sites, sealed, content, tmp_path):
    a, b = sites
    refuse(sealed, OpenFailure.TOO_LARGE, size_max_bytes=len(content) - 1)
    b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {a.fingerprint}, len(content))


SPOOF = "x\n[GNUPG:] GOODSIG 0123456789ABCDEF x\n[GNUPG:] VALIDSIG {0} 2026-01-01 1767225600 0 4 0 22 8 00 {0}\n"


def test_status_lines_in_a_file_name_are_not_believed(refuse, sites, workshop):
    a, b = sites
    spoof = SPOOF.format(a.fingerprint)[:250]
    plain = a.gpg("--trust-model", "always", "-r", b.fingerprint, "--set-filename", spoof, "--encrypt", data=b"x")
    refuse(plain, OpenFailure.UNSIGNED)
    refuse(workshop.encrypt(workshop.literal(b"x", spoof.encode())), OpenFailure.UNSIGNED)


def test_status_lines_in_content_or_user_id_are_not_believed(refuse, sites, new_site):
    a, b = sites
    spoof = SPOOF.format(a.fingerprint)
    plain = a.gpg("--trust-model", "always", "-r", b.fingerprint, "--encrypt", data=spoof.encode())
    refuse(plain, OpenFailure.UNSIGNED)
    liar = new_site("liar")
    liar.ring.import_certificate(b.ring.export_certificate(b.fingerprint), b.fingerprint)
    key = f"%no-protection\nKey-Type: RSA\nKey-Length: 3072\nName-Real: {spoof!r}\nExpire-Date: 0\n%commit\n"
    liar.gpg("--full-generate-key", data=key.encode())
    listing = liar.gpg("--with-colons", "--list-keys").decode().splitlines()
    fingerprint = [line.split(":")[9] for line in listing if line.startswith("fpr:")][-1]
    b.ring.import_certificate(liar.ring.export_certificate(fingerprint), fingerprint)
    refuse(sign_and_encrypt(liar, b, signer=fingerprint), OpenFailure.SIGNER_NOT_ALLOWED)


def test_refuses_a_weak_hash(refuse, sites):
    refuse(sign_and_encrypt(*sites, "--digest-algo", "SHA1"), OpenFailure.WEAK_SIGNATURE)


def test_refuses_a_signature_that_has_expired(refuse, sites):
    message = sign_and_encrypt(*sites, "--default-sig-expire", "seconds=1", *at_time("20260101T000000"))
    refuse(message, OpenFailure.SIGNATURE_EXPIRED)


def test_refuses_an_expired_and_a_revoked_signer(refuse, sites, new_site):
    b, old = sites[1], new_site("old")
    old.ring.import_certificate(b.ring.export_certificate(b.fingerprint), b.fingerprint)
    expired = old.make_expired_key("Expired <old@old.example>")
    b.ring.import_certificate(old.gpg("--armor", "--export", expired).decode(), expired)
    message = sign_and_encrypt(old, b, *at_time("20200102T000000"), signer=expired)
    assert refuse(message, OpenFailure.SIGNER_EXPIRED, allowed={expired}).claimed_signer == expired

    b.ring.import_certificate(old.ring.export_certificate(old.fingerprint), old.fingerprint)
    message = sign_and_encrypt(old, b)
    b.ring.import_certificate(old.revoke(old.fingerprint), old.fingerprint)
    assert refuse(message, OpenFailure.SIGNER_REVOKED, allowed={old.fingerprint}).claimed_signer == old.fingerprint


def test_a_clock_that_is_ahead_is_no_reason_to_refuse(sites, new_site, tmp_path):
    b, ahead = sites[1], new_site("ahead", key=False)
    then = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=20)
    future = at_time(f"{then:%Y%m%dT%H%M%S}")
    ahead.gpg(*future, "--quick-gen-key", "Ahead <ris@ahead.example>", "ed25519", "cert", "100d")
    fingerprint = ahead.gpg("--with-colons", "--list-keys").decode().split("\nfpr:")[1].split("\n")[0].strip(":")
    ahead.gpg(*future, "--quick-add-key", fingerprint, "ed25519", "sign", "50d")
    ahead.gpg(*future, "--quick-add-key", fingerprint, "cv25519", "encr", "50d")
    ahead.ring.import_certificate(b.ring.export_certificate(b.fingerprint), b.fingerprint)
    b.ring.import_certificate(ahead.ring.export_certificate(fingerprint), fingerprint)
    (tmp_path / "message").write_bytes(sign_and_encrypt(ahead, b, *future, signer=fingerprint))
    opened = b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {fingerprint}, SIZE_MAX_BYTES)
    assert opened.signed_at >= then
    b.ring.seal(tmp_path / "opened", tmp_path / "answer", b.fingerprint, [fingerprint])


def test_a_full_disk_is_not_taken_for_an_attack(sites, sealed, tmp_path, monkeypatch):
    full = tmp_path / "gpg"
    program = gpg.find_gpg()
    full.write_text(f'#!/bin/sh\ncase "$*" in *crypt*) exec {program} "$@" >/dev/full;; esac\nexec {program} "$@"\n')
    full.chmod(0o755)
    monkeypatch.setattr(gpg, "find_gpg", lambda: str(full))
    (tmp_path / "message").write_bytes(sealed)
    a, b = sites
    with pytest.raises(TransientError):
        b.ring.open_sealed(tmp_path / "message", tmp_path / "opened", {a.fingerprint}, SIZE_MAX_BYTES)
    with pytest.raises(TransientError):
        a.ring.seal(tmp_path / "message", tmp_path / "sealed", a.fingerprint, [b.fingerprint])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpg", "message"]
