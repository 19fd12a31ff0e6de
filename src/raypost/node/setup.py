"""Makes a site and its address book: `raypost init`, `raypost partner …`; demo and tests do it the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raypost.archive import partners
from raypost.errors import UsageError
from raypost.model.identifiers import is_fingerprint
from raypost.model.site import Partner, check_site_words
from raypost.node.site import Site, opened_site
from raypost.sealing.certificates import CardAddress, SiteCard, confirm_fingerprint, read_card, write_card
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load

PRIMARY_VALIDITY_DAYS = 3 * 365
SUBKEY_VALIDITY_DAYS = 3 * 365
CARD_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Template:
    """What `raypost init` writes into raypost.toml; everything else is there as a comment with its default."""

    name: str
    display_name: str
    ae_stem: str
    address: str
    relay: str = "main"
    smtp_host: str = "mail.example.org"
    smtp_port: int = 465
    imap_host: str = "mail.example.org"
    imap_port: int = 993
    username: str = ""
    ca_file: str = ""
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
            relay=self.relay,
            smtp_host=self.smtp_host,
            smtp_port=self.smtp_port,
            imap_host=self.imap_host,
            imap_port=self.imap_port,
            username=self.username or self.address,
            dicom_port=self.dicom_port,
            ca_line=f'ca_file = "{self.ca_file}"' if self.ca_file else '# ca_file = "relay-ca.pem"',
            calling=calling,
            database="\n".join(self.database_lines) or DATABASE_EXAMPLE,
            transfer="\n".join(self.transfer_lines) or "# settle_s = 30.0",
        )


CALLING_EXAMPLE = """
# [[dicom.calling]]
# ae_title = "CT1"
# hosts = ["10.1.2.3"]           # none: any host that reaches this port
"""

DATABASE_EXAMPLE = """# url = "postgresql://raypost@/raypost?host=/var/run/postgresql"   # your own server, from 15 on
# embedded_folder = "data/postgresql\""""

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
{calling}
[relay.{relay}]                  # the account on the mail relay; of several, mail leaves by the first, all are emptied
smtp_host = "{smtp_host}"
smtp_port = {smtp_port}
# smtp_security = "tls"          # or "starttls", then port 587
imap_host = "{imap_host}"
imap_port = {imap_port}
# imap_security = "tls"          # or "starttls", then port 143
username = "{username}"
password_file = "relay-password" # chmod 600
{ca_line}
# mail_size_max_bytes = 10_000_000

[transfer]
{transfer}
# settle_after_release_s = 5.0   # after the modality released its association
# receipt_timeout_s = 60.0       # then everything unconfirmed is sent again, with growing patience

[limits]
# disk_free_min_bytes = 1_073_741_824
"""


def make_site(folder: Path, template: Template) -> tuple[Path, str]:
    """Make a site's folder with raypost.toml, key and database; return the file and the certificate's fingerprint.

    Raises:
        UsageError: The folder holds a site already, or a word cannot be right.
    """
    check_site_words(template.name, template.ae_stem, template.address)
    file = folder / "raypost.toml"
    if file.exists():
        raise UsageError(f"{file} exists already", do="Choose another folder, or edit the file.")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(template.text(), encoding="utf-8")
    password = folder / "relay-password"
    if not password.exists():
        password.touch(mode=0o600)
    settings = load(file)
    settings.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keyring = KeyRing(settings.keys_folder)
    fingerprint = keyring.make_site_key(
        settings.site.name, settings.site.address, PRIMARY_VALIDITY_DAYS, SUBKEY_VALIDITY_DAYS
    )
    certificate = keyring.export_certificate(fingerprint)
    own = Partner(
        0,
        settings.site.name,
        settings.site.display_name,
        settings.site.ae_stem,
        settings.site.address,
        fingerprint,
        True,
    )
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        partners.add_partner(tx, own, certificate, now=site.clock.now(), who="raypost init")
    return file, fingerprint


def own_card(site: Site) -> str:
    """Return the card that this site gives to partners."""
    with site.archive.database.transaction() as tx:
        own = partners.own_site(tx)
    relay = site.settings.first_relay
    return write_card(
        SiteCard(
            own.name,
            own.display_name,
            own.ae_stem,
            (CardAddress(own.address, relay),),
            own.fingerprint,
            site.keyring.export_certificate(own.fingerprint),
        )
    )


def add_partner(site: Site, card_file: Path, fingerprint: str, who: str, why: str = "") -> Partner:
    """Add a partner from its card, once a person confirmed the full fingerprint.

    Raises:
        UsageError: The fingerprint is not confirmed, or the card cannot be used.
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
    partner = Partner(0, card.name, card.display_name, card.ae_title_stem, card.mail_addresses[0], card.fingerprint)
    with site.archive.database.transaction() as tx:
        return partners.add_partner(tx, partner, card.certificate, now=site.clock.now(), who=who, why=why)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise UsageError("the display name has characters that cannot be printed")
    return f'"{escaped}"'
