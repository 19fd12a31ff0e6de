"""OpenPGP by GnuPG: a site's key ring, sign + encrypt, open + verify. Nothing unverified leaves it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Sequence, Set
from datetime import datetime
from pathlib import Path
from time import monotonic

from raypost.errors import SecurityError, TransientError, UsageError
from raypost.model.identifiers import is_fingerprint
from raypost.sealing import revocation, site_key
from raypost.sealing.certificate_facts import (
    SUBKEYS_MAX,
    CertificateFacts,
    Listing,
    choose_signing_key,
    read_listing,
)
from raypost.sealing.gpg import GpgOutcome, find_gpg, run_gpg
from raypost.sealing.gpg_home import is_prepared, prepare_home, stop_agent
from raypost.sealing.message_shape import Shape, look_at_message
from raypost.sealing.seal_refusal import SealFailure, SealRefusedError
from raypost.sealing.verdict import Opened, OpenFailure, OpenRefusedError, judge_opening

__all__ = [
    "CertificateFacts",
    "KeyRing",
    "OpenFailure",
    "OpenRefusedError",
    "Opened",
    "SealFailure",
    "SealRefusedError",
]

CERTIFICATE_MAX_BYTES = 65_536
RECIPIENTS_MAX = 32
OWN_FACTS_LAST_S = 60.0
"""What was read of our own key is believed for so long; another process may have renewed it."""
KEY_TIMEOUT_S = 120.0
"""For making, importing and listing keys: entropy may be slow on a small machine."""
SEAL_BASE_TIMEOUT_S = 120.0
SEAL_RATE_MIN_BYTES_PER_S = 1_000_000
"""A hundredth of what was measured; slower than this the machine is ill, or the message made to be expensive."""

_CERTIFICATE_ARMOUR = re.compile(
    r"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----\n[A-Za-z0-9+/=:.,_() \t\n-]*\n-----END PGP PUBLIC KEY BLOCK-----\s*"
)
_TRANSIENT_MESSAGES = (
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "No agent running",
    "can't connect to the agent",
    "Too many open files",
    "IPC connect call failed",
)
_MAY_BE_TRANSIENT = (
    OpenFailure.TAMPERED,
    OpenFailure.NOT_FOR_US,
    OpenFailure.NOT_OPENPGP,
    OpenFailure.UNSIGNED,
    OpenFailure.UNCLEAR,
)
"""What a full disk or a lost agent looks like on the status channel."""


class KeyRing:
    """The keys and certificates of one site, in a GNUPGHOME of its own.

    Any number of threads and processes may use one home at once; gpg locks what has to be.

    Args:
        home: The folder; made with mode 0700 when missing. Its path may be of any length.

    Raises:
        UsageError: GnuPG is not installed, or the folder cannot be used.
    """

    def __init__(self, home: Path) -> None:
        find_gpg()
        self._home = home.absolute()
        self._preparing = threading.Lock()
        self._own_facts: tuple[str, float, CertificateFacts] | None = None
        prepare_home(self._home)

    def close(self) -> None:
        """End the agent that holds the secret keys; also other processes' next use of this home starts a new one."""
        stop_agent(self._home)

    def make_site_key(self, name: str, address: str, primary_validity_days: int, subkey_validity_days: int) -> str:
        """Make a site's key: a primary key that only certifies, one subkey to sign and one to encrypt; no passphrase.

        Args:
            name: Of the site, as people read it.
            address: The mail address in its user ID.
            primary_validity_days: From now; the owner can prolong it.
            subkey_validity_days: From now; renewed more often than the primary key.

        Returns:
            The fingerprint of the primary key.

        Raises:
            UsageError: A value cannot be right.
            TransientError: gpg could not make it.
        """
        return site_key.make(self._manage, name, address, primary_validity_days, subkey_validity_days)

    def renew_site_key(
        self, fingerprint: str, primary_validity_days: int, subkey_validity_days: int
    ) -> CertificateFacts:
        """Add fresh subkeys to this site's key and prolong it; partners learn of them by the next hello.

        Raises:
            SecurityError: It is not in this key ring.
            UsageError: A number of days cannot be right.
            TransientError: gpg could not do it.
        """
        if len(self.facts(fingerprint).held) + len(site_key.SUBKEYS) > SUBKEYS_MAX:
            raise UsageError(
                f"this key was renewed so often that it has nearly {SUBKEYS_MAX} keys: no more are read, here or at"
                " partners",
                do="Make a new site key and give out a new card; docs/how-to/keys.md.",
            )
        site_key.renew(self._manage, fingerprint, primary_validity_days, subkey_validity_days)
        self._own_facts = None
        return self.facts(fingerprint)

    def revocation_certificate(self, fingerprint: str) -> str:
        """Return the revocation certificate of this site's key, in ASCII armour.

        Raises:
            UsageError: It is not in the key ring any more.
        """
        return revocation.written_with_key(self._home, fingerprint)

    def take_out_revocation(self, fingerprint: str) -> None:
        """Remove the revocation certificate of this site's key from the key ring, once it lies elsewhere."""
        revocation.take_out(self._home, fingerprint)

    def revoke(self, text: str) -> CertificateFacts:
        """Take in a revocation certificate: nothing is sealed to that key, and nothing believed of it, from now on.

        Raises:
            UsageError: It is no revocation certificate in ASCII armour.
            SecurityError: It brings something else, or its key is not in this key ring, or it does not hold.
        """
        armour = revocation.read_armour(text).encode("ascii") + b"\n"
        shown = self._manage(["--list-packets"], source=armour)
        fingerprint = revocation.issuer_of(shown.output.decode("utf-8", "replace"))
        self.facts(fingerprint)
        self._manage(["--import-options", "import-minimal", "--import"], source=armour)
        self._own_facts = None
        facts = self.facts(fingerprint)
        if not facts.revoked:
            raise SecurityError("gpg does not believe this revocation certificate", do="Nothing was changed.")
        return facts

    def signing_key(self, fingerprint: str, known: Collection[str] | None, now: datetime) -> str:
        """Return the subkey to sign with for somebody, so that a renewed key is not used before it is known there.

        Args:
            fingerprint: Of our primary key.
            known: Fingerprints of our keys that the recipient holds, by its word; None: it said nothing of them.

        Returns:
            Empty when none works: sealing says why.
        """
        held = self._own_facts
        if held is None or held[0] != fingerprint or monotonic() - held[1] > OWN_FACTS_LAST_S:
            held = self._own_facts = (fingerprint, monotonic(), self.facts(fingerprint))
        return choose_signing_key(held[2], known, now)

    def export_certificate(self, fingerprint: str) -> str:
        """Return the certificate, without secrets, in ASCII armour and as short as possible.

        Raises:
            SecurityError: It is not in this key ring.
        """
        self.facts(fingerprint)
        out = self._manage(["--armor", "--export-options", "export-minimal", "--export", fingerprint])
        text = out.output.decode("ascii", "replace")
        if out.exit_code or not _CERTIFICATE_ARMOUR.fullmatch(text):
            raise SecurityError(f"gpg did not export the certificate {fingerprint}.")
        return text

    def import_certificate(self, armour: str, expected_fingerprint: str) -> CertificateFacts:
        """Take over a partner's certificate, or an update of it (new subkeys, new dates, revocation).

        The armour is looked at before it enters the key ring: it must hold one certificate, the expected one, and no
        secret key.

        Raises:
            SecurityError: It is not what was expected; the key ring is unchanged.
        """
        if not is_fingerprint(expected_fingerprint):
            raise SecurityError("A certificate is only taken over by its full fingerprint.")
        if len(armour.encode("utf-8", "replace")) > CERTIFICATE_MAX_BYTES:
            raise SecurityError(f"A certificate of more than {CERTIFICATE_MAX_BYTES} bytes is not taken over.")
        text = armour.replace("\r\n", "\n")
        if not _CERTIFICATE_ARMOUR.fullmatch(text) or text.count("-----BEGIN") != 1:
            raise SecurityError("This is not one OpenPGP certificate in ASCII armour.")
        shown = self._manage(["--with-colons", "--show-keys"], source=text.encode("ascii"))
        listing = _parse(shown)
        if listing.has_secrets:
            raise SecurityError(
                "A secret key came where a certificate was expected.",
                do="Tell the partner that this key is exposed: it must be revoked and replaced.",
            )
        if len(listing.certificates) != 1:
            raise SecurityError(f"{len(listing.certificates)} certificates came where one was expected.")
        found = listing.certificates[0].fingerprint
        if found != expected_fingerprint:
            raise SecurityError(f"The certificate is {found}, not the expected {expected_fingerprint}.")
        self._refuse_before_merging(listing.certificates[0])
        imported = self._manage(["--import-options", "import-minimal", "--import"], source=text.encode("ascii"))
        if imported.exit_code or not any(line[-1] == found for line in imported.lines("IMPORT_OK")):
            raise SecurityError(f"gpg did not take over the certificate {found}.")
        return self.facts(found)

    def _refuse_before_merging(self, brought: CertificateFacts) -> None:
        """Refuse what gpg would merge, and could not take away again.

        More keys than are ever read; or the key of another certificate, bound to this one. gpg looks for the maker of
        a signature in the first certificate that holds the key: that other site would not be believed any more.
        """
        held = set(brought.held)
        for one in _parse(self._manage(["--with-colons", "--fixed-list-mode", "--list-keys"])).certificates:
            if one.fingerprint == brought.fingerprint:
                held |= one.held
            elif one.held & brought.held:
                raise SecurityError(
                    f"The certificate {brought.fingerprint} brings a key that belongs to another certificate here,"
                    f" {one.fingerprint}.",
                    do="Ask both owners: one of them claims a key of the other.",
                )
        if len(held) > SUBKEYS_MAX:
            raise SecurityError(
                f"The certificate {brought.fingerprint} would have more than {SUBKEYS_MAX} keys.",
                do="Its owner must make a new site key and give out a new card.",
            )

    def remove_certificate(self, fingerprint: str) -> None:
        """Forget a partner's certificate; nothing happens when it is not here.

        Raises:
            SecurityError: A secret key belongs to it: a site's own key is never removed so.
        """
        if not self._is_here(fingerprint):
            return
        removed = self._manage(["--delete-keys", fingerprint])
        if removed.exit_code:
            raise SecurityError(f"The certificate {fingerprint} was not removed: a secret key belongs to it.")

    def facts(self, fingerprint: str) -> CertificateFacts:
        """Return what is known about a certificate.

        Raises:
            SecurityError: It is not in this key ring.
        """
        if not self._is_here(fingerprint):
            raise SecurityError(f"There is no certificate {fingerprint} in this key ring.")
        certificates = _parse(self._manage(["--with-colons", "--fixed-list-mode", "--list-keys", fingerprint]))
        if len(certificates.certificates) != 1 or certificates.certificates[0].fingerprint != fingerprint:
            raise SecurityError(f"There is no certificate {fingerprint} in this key ring.")
        return certificates.certificates[0]

    def _is_here(self, fingerprint: str) -> bool:
        if not is_fingerprint(fingerprint):
            return False
        return self._manage(["--with-colons", "--list-keys", fingerprint]).exit_code == 0

    def seal(
        self, source: Path, target: Path, signer: str, recipients: Sequence[str], *, signing_key: str = ""
    ) -> None:
        """Sign and encrypt a file into an ASCII-armoured OpenPGP message (RFC 4880; RFC 3156, 6.2).

        The target appears whole and on the disk, or not at all.

        Args:
            source: What is sealed; streamed.
            target: Replaced if it exists.
            signer: Fingerprint of our primary key.
            signing_key: Of the subkey to sign with (`signing_key`); empty: the newest.
            recipients: Fingerprints of their primary keys; every one must be usable.

        Raises:
            SealRefusedError: A key does not allow it; repeating does not help.
            TransientError: Disk full, out of time, no agent.
        """
        fingerprints = list(dict.fromkeys(recipients))
        if not fingerprints or len(fingerprints) > RECIPIENTS_MAX:
            raise SealRefusedError(f"A message is sealed to 1 to {RECIPIENTS_MAX} recipients.", SealFailure.UNCLEAR)
        for fingerprint in (signer, signing_key or signer, *fingerprints):
            if not is_fingerprint(fingerprint):
                raise SealRefusedError("Keys are addressed by their full fingerprint alone.", SealFailure.UNCLEAR)
        local_user = f"{signing_key}!" if signing_key else signer
        arguments = ["--pinentry-mode", "error", "-z", "0", "--digest-algo", "SHA256", "--local-user", local_user]
        for fingerprint in fingerprints:
            arguments += ["--recipient", fingerprint]
        pending = target.with_name(target.name + ".part")
        try:
            outcome = self._run([*arguments, "--armor", "--sign", "--encrypt"], source, pending)
            bad = set(outcome.keywords) & {"INV_RECP", "INV_SGNR", "FAILURE", "ERROR", "NO_RECP"}
            proven = outcome.keywords.count("SIG_CREATED") == 1 and "END_ENCRYPTION" in outcome.keywords
            if outcome.exit_code or bad or not proven or outcome.overflowed:
                raise self._explain(outcome, signer, fingerprints)
            _put_in_place(pending, target)
        finally:
            pending.unlink(missing_ok=True)

    def _explain(self, outcome: GpgOutcome, signer: str, recipients: list[str]) -> SealRefusedError | TransientError:
        """Find out, after a failure, which key is to blame."""
        for fingerprint in recipients:
            if not self._is_here(fingerprint):
                return SealRefusedError(
                    f"The recipient's certificate {fingerprint} is not known here.",
                    SealFailure.RECIPIENT_UNKNOWN,
                    fingerprint=fingerprint,
                    log=outcome.log,
                )
            validity = self._validity(fingerprint)
            for letter, word, reason in (
                ("r", "was revoked by its owner", SealFailure.RECIPIENT_REVOKED),
                ("e", "has expired", SealFailure.RECIPIENT_EXPIRED),
                ("", "has no key that can encrypt", SealFailure.RECIPIENT_CANNOT_ENCRYPT),
            ):
                if validity == letter:
                    return SealRefusedError(
                        f"The recipient's certificate {fingerprint} {word}.",
                        reason,
                        fingerprint=fingerprint,
                        log=outcome.log,
                    )
        if any(text in outcome.log for text in _TRANSIENT_MESSAGES):
            return TransientError("gpg could not seal a file at this moment: disk, memory or agent.")
        if "INV_SGNR" in outcome.keywords or "SIG_CREATED" not in outcome.keywords:
            return SealRefusedError(
                f"This site cannot sign with {signer}: no secret key, expired or revoked.",
                SealFailure.SIGNER_UNUSABLE,
                fingerprint=signer,
                log=outcome.log,
            )
        return SealRefusedError("gpg did not confirm that the file was sealed.", SealFailure.UNCLEAR, log=outcome.log)

    def _validity(self, fingerprint: str) -> str:
        """Return gpg's letter for what ails a certificate as a recipient: r, e, '' no such key, '-' nothing."""
        text = self._manage(["--with-colons", "--list-keys", fingerprint]).output.decode("utf-8", "replace")
        rows = [line.split(":") for line in text.split("\n")]
        primary = [row[1] for row in rows if row[0] == "pub"]
        letters = {row[1] for row in rows if row[0] in ("pub", "sub") and len(row) > 11 and "e" in row[11]}
        for letter in ("r", "e"):
            if letter in primary or letters == {letter}:
                return letter
        return "e" if letters and letters <= {"r", "e"} else "-" if letters else ""

    def open_sealed(self, source: Path, target: Path, allowed: Set[str], size_max_bytes: int) -> Opened:
        """Decrypt and verify a sealed message, armoured or binary; accept nothing but a wholly good one.

        The target appears only after everything is proven, whole and on the disk.

        Args:
            source: The message; streamed.
            target: Replaced if it exists.
            allowed: Fingerprints of the primary keys that may sign this.
            size_max_bytes: Largest content; a compression bomb ends there.

        Raises:
            OpenRefusedError: Not in order; `reason` tells what, `claimed_signer` who it says it is from.
            TransientError: Disk full, out of time, no agent: it can be tried again.
        """
        try:
            shape = look_at_message(source)
        except OSError as error:
            raise TransientError(f"A sealed message could not be read: {error.strerror}.") from error
        if shape is not Shape.ENCRYPTED:
            raise OpenRefusedError(OpenFailure[shape.name])
        pending = target.with_name(target.name + ".part")
        try:
            outcome = self._run(
                ["--pinentry-mode", "error", "--max-output", str(size_max_bytes), "--decrypt"], source, pending
            )
            try:
                opened = judge_opening(outcome, allowed)
            except OpenRefusedError as error:
                if error.reason in _MAY_BE_TRANSIENT and any(text in outcome.log for text in _TRANSIENT_MESSAGES):
                    raise TransientError("gpg could not open a message now: disk, memory or agent.") from error
                raise
            _put_in_place(pending, target)
            return opened
        finally:
            pending.unlink(missing_ok=True)

    def _run(self, arguments: Sequence[str], source: Path, target: Path) -> GpgOutcome:
        self._keep_prepared()
        try:
            size_bytes = source.stat().st_size
        except OSError as error:
            raise TransientError(f"A file to be sealed or opened is not there: {error.strerror}.") from error
        return run_gpg(
            self._home,
            arguments,
            source=source,
            target=target,
            timeout_s=SEAL_BASE_TIMEOUT_S + size_bytes / SEAL_RATE_MIN_BYTES_PER_S,
        )

    def _manage(self, arguments: Sequence[str], source: bytes | None = None) -> GpgOutcome:
        self._keep_prepared()
        outcome = run_gpg(self._home, arguments, source=source, timeout_s=KEY_TIMEOUT_S)
        if outcome.exit_code and any(text in outcome.log for text in _TRANSIENT_MESSAGES):
            raise TransientError("gpg could not look after its keys now: disk, memory or agent.")
        return outcome

    def _keep_prepared(self) -> None:
        # The short folder of the sockets may lie in /tmp, and somebody may have tidied up there.
        if not is_prepared(self._home):
            with self._preparing:
                prepare_home(self._home)


def _parse(shown: GpgOutcome) -> Listing:
    try:
        return read_listing(shown.output)
    except (ValueError, OverflowError) as error:
        raise SecurityError("gpg found no usable certificate in it.") from error


def _put_in_place(pending: Path, target: Path) -> None:
    try:
        pending.rename(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise TransientError(f"A file could not be put in its place: {error.strerror}.") from error
