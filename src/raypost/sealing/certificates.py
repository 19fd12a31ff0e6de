"""The card of a site: its public data and certificate, as one small text that two hospitals exchange."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from raypost.errors import BadInputError, UsageError
from raypost.model.identifiers import is_address, is_ae_title, is_fingerprint, is_site_name

CARD_MAX_BYTES = 65_536
CARD_FORMAT = "raypost-card-1"
ADDRESSES_MAX = 8
CAPABILITIES_MAX = 32
NAME_LENGTH_MAX = 100

_CAPABILITY = re.compile(r"[a-z0-9][a-z0-9.\-]{0,39}", re.ASCII)
_RELAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,62}", re.ASCII)
_ARMOUR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\n[A-Za-z0-9+/=:.,_() \n-]*\n-----END PGP PUBLIC KEY BLOCK-----\n"
)
_ENTRIES = {
    "format",
    "name",
    "display_name",
    "ae_title_stem",
    "fingerprint",
    "capabilities",
    "addresses",
    "certificate",
}


@dataclass(frozen=True, slots=True)
class CardAddress:
    """A mail address of a site, and on which relay its mailbox lies.

    Attributes:
        relay: The relay's name within the network: that of its configuration, no host name is needed.
    """

    address: str
    relay: str

    def __post_init__(self) -> None:
        if not is_address(self.address) or not _RELAY_NAME.fullmatch(self.relay):
            raise BadInputError("A site card has an address or a relay name that cannot be right.")


@dataclass(frozen=True, slots=True)
class SiteCard:
    """What one site tells another about itself; nothing of it is secret, and nothing is true before it is confirmed.

    Attributes:
        name: Short name within the network.
        display_name: As people read it.
        ae_title_stem: With what AE titles for studies of this site begin.
        addresses: Preferred first.
        fingerprint: Of the primary key of the certificate.
        certificate: OpenPGP certificate in ASCII armour.
        capabilities: What the site's software understands beyond the first version of the protocol.
    """

    name: str
    display_name: str
    ae_title_stem: str
    addresses: tuple[CardAddress, ...]
    fingerprint: str
    certificate: str
    capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        faults = (
            (not is_site_name(self.name), "name"),
            (
                not 1 <= len(self.display_name) <= NAME_LENGTH_MAX
                or not self.display_name.isprintable()
                or self.display_name.strip() != self.display_name,
                "display name",
            ),
            (not is_ae_title(self.ae_title_stem), "AE title"),
            (
                not 1 <= len(self.addresses) <= ADDRESSES_MAX or len(set(self.mail_addresses)) != len(self.addresses),
                "list of addresses",
            ),
            (not is_fingerprint(self.fingerprint), "fingerprint"),
            (not _ARMOUR.fullmatch(self.certificate) or self.certificate.count("-----BEGIN") != 1, "certificate"),
            (
                len(self.capabilities) > CAPABILITIES_MAX
                or not all(_CAPABILITY.fullmatch(one) for one in self.capabilities),
                "list of capabilities",
            ),
        )
        for wrong, word in faults:
            if wrong:
                raise BadInputError(f"A site card has no usable {word}.")

    @property
    def mail_addresses(self) -> tuple[str, ...]:
        """Return the addresses alone, preferred first."""
        return tuple(one.address for one in self.addresses)


def spell_fingerprint(fingerprint: str) -> str:
    """Write a fingerprint in groups of four, as it is read aloud."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def confirm_fingerprint(card: SiteCard, typed: str) -> None:
    """Check that a person confirmed the card's fingerprint: all of it; blanks, colons and case do not matter.

    Raises:
        UsageError: Not the whole fingerprint, or another one.
    """
    meant = re.sub(r"[\s:]", "", typed).upper()
    if not is_fingerprint(meant):
        raise UsageError(
            "This is not a full fingerprint: it has 40 hexadecimal digits, in ten groups of four.",
            do="Have the partner read it aloud from the telephone number you know, and type all of it.",
        )
    if meant != card.fingerprint:
        raise UsageError(
            f"The typed fingerprint is not the one of this card, {spell_fingerprint(card.fingerprint)}.",
            meaning="The card may have been replaced on its way; the partner was not added.",
            do="Read it aloud with the partner on the telephone once more; if it differs, do not use this card.",
        )


def write_card(card: SiteCard) -> str:
    """Write a card as a TOML document that people can read too."""
    addresses = "".join(
        f"  {{ address = {_quote(one.address)}, relay = {_quote(one.relay)} }},\n" for one in card.addresses
    )
    capabilities = ", ".join(_quote(one) for one in card.capabilities)
    return (
        f"# Raypost site card of {card.display_name}. Nothing in it is secret.\n"
        "# Before you add it, telephone this hospital on a number you know and let them read their fingerprint aloud:\n"
        f"#   {spell_fingerprint(card.fingerprint)}\n"
        '# Then: raypost partner add THIS-FILE --fingerprint "THE FINGERPRINT YOU HEARD"\n'
        "\n"
        f"format = {_quote(CARD_FORMAT)}\n"
        f"name = {_quote(card.name)}\n"
        f"display_name = {_quote(card.display_name)}\n"
        f"ae_title_stem = {_quote(card.ae_title_stem)}\n"
        f"fingerprint = {_quote(card.fingerprint)}\n"
        f"capabilities = [{capabilities}]\n"
        f"addresses = [\n{addresses}]\n"
        f"certificate = '''\n{card.certificate}'''\n"
    )


def _quote(text: str) -> str:
    # A JSON string without control characters is a TOML basic string (TOML 1.0, "String").
    return json.dumps(text, ensure_ascii=False)


def read_card(text: str) -> SiteCard:
    """Read a card; a foreign text, so every value is checked and unknown entries are refused.

    Raises:
        BadInputError: It is not a card, or not one of a format this version knows.
    """
    if len(text.encode("utf-8", "replace")) > CARD_MAX_BYTES:
        raise BadInputError(f"A site card has at most {CARD_MAX_BYTES} bytes.")
    try:
        entries = tomllib.loads(text.lstrip("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInputError(
            "This is not a Raypost site card: it is no TOML document.",
            do="Ask the partner for the file that `raypost partner card` writes.",
        ) from error
    if entries.get("format") != CARD_FORMAT:
        raise BadInputError(
            f"This is not a Raypost site card of the format {CARD_FORMAT}.",
            do="Compare the versions of both sites; `raypost partner card` writes the file.",
        )
    if set(entries) != _ENTRIES:
        raise BadInputError(
            "A site card has entries too many or too few.",
            do="Ask the partner for the card again; it may have been changed by hand.",
        )
    return SiteCard(
        name=_text(entries, "name"),
        display_name=_text(entries, "display_name"),
        ae_title_stem=_text(entries, "ae_title_stem"),
        fingerprint=_text(entries, "fingerprint"),
        certificate=_text(entries, "certificate"),
        capabilities=tuple(_texts(entries["capabilities"])),
        addresses=tuple(_addresses(entries["addresses"])),
    )


def _text(entries: Mapping[str, object], name: str) -> str:
    value = entries[name]
    if not isinstance(value, str):
        raise BadInputError(f"A site card has no usable {name}.")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > CAPABILITIES_MAX or not all(isinstance(one, str) for one in value):
        raise BadInputError("A site card has no usable list of capabilities.")
    return value


def _addresses(value: object) -> list[CardAddress]:
    if not isinstance(value, list) or len(value) > ADDRESSES_MAX:
        raise BadInputError("A site card has no usable list of addresses.")
    for one in value:
        if not isinstance(one, dict) or set(one) != {"address", "relay"}:
            raise BadInputError("A site card has no usable list of addresses.")
    return [CardAddress(address=_text(one, "address"), relay=_text(one, "relay")) for one in value]
