"""Makes a site and its address book: `raypost init`, `raypost partner …`; demo and tests do it the same way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from raypost.archive import partners, people, sign_in
from raypost.archive.database import Transaction
from raypost.errors import UsageError
from raypost.model.identifiers import is_fingerprint
from raypost.model.person import Person
from raypost.model.rights import Role
from raypost.model.site import Mailbox, Partner, check_site_words
from raypost.node.ae_titles import refuse_own_title
from raypost.node.site import Site, opened_site
from raypost.sealing.certificates import CardAddress, SiteCard, confirm_fingerprint, read_card, write_card
from raypost.settings import LimitSettings, RelaySettings, Settings, TransferSettings, load

PRIMARY_VALIDITY_DAYS = 3 * 365
SUBKEY_VALIDITY_DAYS = 3 * 365
CARD_MAX_BYTES = 64 << 10

INIT = "raypost init"
FIRST_ADMINISTRATOR = Person("administrator", "Administrator", roles=frozenset({Role.ADMINISTRATOR}))

_TRANSFER, _LIMITS = TransferSettings(), LimitSettings()
"""The defaults, which the commented lines of raypost.toml name."""


@dataclass(frozen=True, slots=True)
class RelayTemplate:
    """One table [relay.NAME] of raypost.toml.

    Attributes:
        name: Of the relay, the same in the whole network.
        address: The site's mailbox there; empty: that of the site.
        username: Log-in; empty: the address.
    """

    name: str = "main"
    smtp_host: str = "mail.example.org"
    imap_host: str = "mail.example.org"
    smtp_port: int = 465
    imap_port: int = 993
    address: str = ""
    username: str = ""
    password_file: str = "relay-password"
    ca_file: str = ""

    def text(self, site_address: str) -> str:
        """Return the commented table."""
        return RELAY_TEMPLATE.format(
            name=self.name,
            smtp_host=self.smtp_host,
            smtp_port=self.smtp_port,
            imap_host=self.imap_host,
            imap_port=self.imap_port,
            address_line=f'address = "{self.address}"' if self.address else ADDRESS_EXAMPLE,
            username=self.username or self.address or site_address,
            password_line=f'password_file = "{self.password_file}"'.ljust(32),
            mail_size_max_bytes=RelaySettings.model_fields["mail_size_max_bytes"].default,
            ca_line=f'ca_file = "{self.ca_file}"' if self.ca_file else '# ca_file = "relay-ca.pem"',
        )


@dataclass(frozen=True, slots=True)
class Template:
    """What `raypost init` writes into raypost.toml; everything else is there as a comment with its default."""

    name: str
    display_name: str
    ae_stem: str
    address: str
    relays: tuple[RelayTemplate, ...] = (RelayTemplate(),)
    dicom_port: int = 11112
    calling: tuple[str, ...] = ()
    database_lines: tuple[str, ...] = ()
    transfer_lines: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the commented raypost.toml."""
        calling = "".join(f'\n[[dicom.calling]]\nae_title = "{title}"\n' for title in self.calling) or CALLING_EXAMPLE
        return TEMPLATE.format(
            name=self.name,
            display_name=_quoted(self.display_name),
            ae_stem=self.ae_stem,
            address=self.address,
            relays="\n".join(relay.text(self.address) for relay in self.relays),
            dicom_port=self.dicom_port,
            calling=calling,
            database="\n".join(self.database_lines) or DATABASE_EXAMPLE,
            transfer="\n".join(self.transfer_lines) or f"# settle_s = {_TRANSFER.settle_s}",
            settle_after_release_s=_TRANSFER.settle_after_release_s,
            receipt_timeout_s=_TRANSFER.receipt_timeout_s,
            disk_free_min_bytes=_LIMITS.disk_free_min_bytes,
        )


CALLING_EXAMPLE = """
# [[dicom.calling]]
# ae_title = "CT1"
# hosts = ["10.1.2.3"]           # needed where other machines reach this port and show no certificate
"""

DATABASE_EXAMPLE = """# url = "postgresql://raypost@/raypost?host=/var/run/postgresql"   # your own server, from 15 on
# embedded_folder = "data/postgresql\""""

ADDRESS_EXAMPLE = '# address = "site@relay.example"   # this site\'s mailbox here, where it is not that of [site]'

RELAY_TEMPLATE = """[relay.{name}]
{address_line}
smtp_host = "{smtp_host}"
smtp_port = {smtp_port}
# smtp_security = "tls"          # or "starttls", then port 587
imap_host = "{imap_host}"
imap_port = {imap_port}
# imap_security = "tls"          # or "starttls", then port 143
username = "{username}"
{password_line} # chmod 600
{ca_line}
# mail_size_max_bytes = {mail_size_max_bytes:_}
"""

TEMPLATE = """# Raypost: what this machine is. Partners, rules and DICOM nodes are not here but in the database:
# `raypost partner`, `raypost rule`, `raypost node`. `raypost config show` prints every setting in force;
# the page settings.md of the documentation explains each. Relative paths begin at this file's folder.
# Environment variables win: RAYPOST_DICOM__PORT=104 and so on.

data_folder = "data"             # images, mails on their way, keys

[site]
name = "{name}"                  # within the network: a-z 0-9 -
display_name = {display_name}
ae_stem = "{ae_stem}"            # partners send here under this AE title, with _N _U _R for urgency
address = "{address}"            # this site's mailbox
# time_zone = "Europe/Berlin"

[database]                       # nothing here: the embedded PostgreSQL
{database}

[dicom]
# host = "0.0.0.0"               # default 127.0.0.1, which only this machine reaches
port = {dicom_port}
ae_title = "RAYPOST"             # images sent to a partner's AE title instead go to that partner
# tls_certificate = "dicom.pem"  # with tls_key: DICOM over TLS
# tls_key = "dicom.key"
# tls_client_ca = "modalities-ca.pem"
# plain_allowed = true           # other machines without TLS: only where the network is the hospital's own
{calling}
# The account on the mail relay. There may be several tables: relays at different places, under the names they have in
# the whole network. Mail leaves by the first that is well, and all mailboxes are emptied.

{relays}
[transfer]
{transfer}
# settle_after_release_s = {settle_after_release_s:<5} # after the modality released its association
# receipt_timeout_s = {receipt_timeout_s:<10} # shortest patience for a receipt, doubled with each round

[limits]
# disk_free_min_bytes = {disk_free_min_bytes:_}

[audit]                          # nothing here: the audit trail is kept in the database alone
# syslog_host = "arr.example.org"
# syslog_port = 6514
# syslog_transport = "tls"       # or "udp": neither encryption nor proof that anything arrived
# ca_file = "arr-ca.pem"
"""


def make_site(
    folder: Path,
    template: Template,
    administrator: Person = FIRST_ADMINISTRATOR,
    one_time_password_file: Path | None = None,
) -> tuple[Path, str]:
    """Make a site's folder with raypost.toml, key and database; return the file and the certificate's fingerprint.

    raypost.toml comes last: it says that the site is complete, and an attempt that failed before can be repeated.

    Args:
        administrator: The first person of the site.
        one_time_password_file: A new file for a generated password of that person, to be changed when signing in.

    Raises:
        UsageError: The folder holds a site already, or a word cannot be right, or gpg is missing.
        NotNowError: The database does not answer.
        TransientError: gpg could not make the key.
    """
    check_site_words(template.name, template.ae_stem, template.address)
    file = folder / "raypost.toml"
    if file.exists():
        raise UsageError(f"{file} exists already", do="Choose another folder, or edit the file.")
    if one_time_password_file is not None and one_time_password_file.exists():
        raise UsageError(f"{one_time_password_file} exists already", do="Choose another file for the password.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)  # whoever may write here could exchange raypost.toml
    draft = folder / "raypost.toml.new"
    draft.unlink(missing_ok=True)
    try:
        draft.touch(mode=0o600)
        draft.write_text(template.text(), encoding="utf-8")
        settings = load(draft)
        for relay in settings.relay.values():
            if not relay.password_file.exists():
                relay.password_file.touch(mode=0o600)
        fingerprint = _make_identity(settings, administrator, one_time_password_file)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return file, fingerprint


def _make_identity(settings: Settings, administrator: Person, password_file: Path | None) -> str:
    """Make database, key, the site's own entry and its first person; whatever a failed attempt left is in no way."""
    settings.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    it = settings.site
    with opened_site(settings) as site:
        fingerprint = site.keyring.make_site_key(it.name, it.address, PRIMARY_VALIDITY_DAYS, SUBKEY_VALIDITY_DAYS)
        certificate = site.keyring.export_certificate(fingerprint)
        boxes = mailboxes(own_addresses(settings))
        own = Partner(0, it.name, it.display_name, it.ae_stem, boxes[0].address, fingerprint, True, boxes)
        with site.archive.database.transaction() as tx:
            partners.add_partner(tx, own, certificate, now=site.clock.now(), who=INIT)
            _enter_administrator(tx, administrator, password_file, site.clock.now())
    return fingerprint


def _enter_administrator(tx: Transaction, person: Person, password_file: Path | None, now: datetime) -> None:
    """Add the first person; there is no default password: without a file the person has none."""
    if not any(one.name == person.name for one in people.all_persons(tx)):
        people.add_person(tx, person, now=now, who=INIT, why="the first administrator")
    if password_file is None:
        return
    password = sign_in.new_password()
    sign_in.set_password(tx, person.name, password, now=now, who=INIT, is_one_time=True)
    try:
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(password + "\n")
    except OSError as error:
        raise UsageError(f"{password_file} cannot be written: {error.strerror}") from error


def own_card(site: Site) -> str:
    """Return the card that this site gives to partners."""
    with site.archive.database.transaction() as tx:
        own = partners.own_site(tx)
    return write_card(
        SiteCard(
            own.name,
            own.display_name,
            own.ae_stem,
            own_addresses(site.settings),
            own.fingerprint,
            site.keyring.export_certificate(own.fingerprint),
        )
    )


def own_addresses(settings: Settings) -> tuple[CardAddress, ...]:
    """Return this site's mailboxes, the one that mail should go to first at the beginning."""
    relays: dict[str, str] = {}
    for relay in settings.relay:
        relays.setdefault(settings.address_on(relay), relay)
    return tuple(CardAddress(address, relay) for address, relay in relays.items())


def mailboxes(addresses: Sequence[CardAddress]) -> tuple[Mailbox, ...]:
    """Return the mailboxes that a card names, preferred first.

    Raises:
        UsageError: A relay has a name that this version cannot use, or two mailboxes.
    """
    return tuple(Mailbox(one.relay, one.address) for one in addresses)


def add_partner(site: Site, card_file: Path, fingerprint: str, who: str, why: str = "") -> Partner:
    """Add a partner from its card, once a person confirmed the full fingerprint.

    Raises:
        UsageError: The fingerprint is not confirmed, or the card cannot be used, or one of its AE titles is our own.
    """
    try:
        if card_file.stat().st_size > CARD_MAX_BYTES:
            raise UsageError(f"{card_file} is too large for a card")
        card = read_card(card_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{card_file} cannot be read") from error
    confirm_fingerprint(card, fingerprint)
    facts = site.keyring.import_certificate(card.certificate, card.fingerprint)
    if not is_fingerprint(facts.fingerprint) or facts.revoked or not facts.can_encrypt or not facts.can_sign:
        raise UsageError(
            "the certificate on the card cannot sign and encrypt: revoked, expired or too weak",
            do="Ask the partner for a new card.",
        )
    boxes = mailboxes(card.addresses)
    if not {one.relay for one in boxes} & set(site.settings.relay):
        raise UsageError(
            f"{card.name} has a mailbox on {', '.join(one.relay for one in boxes)}, this site on "
            f"{', '.join(site.settings.relay)}: there is no relay that both use",
            do="A relay has one name in the whole network: correct [relay.NAME] in raypost.toml.",
        )
    partner = Partner(
        0, card.name, card.display_name, card.ae_title_stem, boxes[0].address, card.fingerprint, mailboxes=boxes
    )
    refuse_own_title(site.settings.dicom.ae_title, partner)
    with site.archive.database.transaction() as tx:
        return partners.add_partner(tx, partner, card.certificate, now=site.clock.now(), who=who, why=why)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise UsageError("the display name has characters that cannot be printed")
    return f'"{escaped}"'
