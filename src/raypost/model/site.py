"""Sites and their mailboxes: the address book of the network."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.errors import UsageError
from raypost.model.identifiers import is_address, is_ae_title, is_fingerprint, is_site_name
from raypost.model.transfer import Priority

AE_SUFFIXES: dict[str, Priority] = {"_N": Priority.EMERGENCY, "_U": Priority.URGENT, "_R": Priority.ROUTINE}
"""What a technologist appends to a partner's AE title: N as in German "Notfall", U urgent, R routine."""

AE_STEM_LENGTH_MAX = 14
"""An AE title has 16 characters (PS3.5, 6.2), two are taken by the suffix."""


MAILBOXES_MAX = 8


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox of a site on one relay; the relay's name is the same at all sites, empty where it is not known."""

    relay: str
    address: str

    def __post_init__(self) -> None:
        if not is_address(self.address):
            raise UsageError(f"{self.address!r} is no mail address")
        if self.relay and not is_site_name(self.relay):
            raise UsageError(f"{self.relay!r} is no name of a relay: lower-case letters, digits and hyphens")


@dataclass(frozen=True, slots=True)
class Partner:
    """A site of the network as this site knows it; one of them is this site itself.

    Attributes:
        ae_stem: Beginning of the AE titles under which this site accepts images for the partner.
        address: Where its mail goes: its first mailbox.
        mailboxes: All of them, one a relay, the preferred one first; empty: only `address`, on a relay not named.
    """

    site_id: int
    name: str
    display_name: str
    ae_stem: str
    address: str
    fingerprint: str
    is_self: bool = False
    mailboxes: tuple[Mailbox, ...] = ()

    def __post_init__(self) -> None:
        if len({one.relay for one in self.mailboxes}) != len(self.mailboxes) or len(self.mailboxes) > MAILBOXES_MAX:
            raise UsageError(f"a site has one mailbox a relay, at most {MAILBOXES_MAX}")
        check_site_words(self.name, self.ae_stem, self.address)
        if not is_fingerprint(self.fingerprint):
            raise UsageError("the fingerprint must be given in full: 40 or 64 hexadecimal digits")

    def address_on(self, relay: str) -> str:
        """Return where its mail goes by a relay."""
        return next((one.address for one in self.mailboxes if one.relay == relay), self.address)

    def ae_titles(self) -> dict[str, Priority]:
        """Return every AE title that means "send to this partner", with the priority it stands for."""
        return {self.ae_stem: Priority.ROUTINE} | {self.ae_stem + end: rank for end, rank in AE_SUFFIXES.items()}


def check_site_words(name: str, ae_stem: str, address: str) -> None:
    """Check the words by which a site is called.

    Raises:
        UsageError: One of them cannot be right; the text says which.
    """
    if not is_site_name(name):
        raise UsageError(f"{name!r} is no site name: lower-case letters, digits and hyphens, at most 31")
    if not is_ae_title(ae_stem) or len(ae_stem) > AE_STEM_LENGTH_MAX:
        raise UsageError(f"{ae_stem!r} is no AE title of at most {AE_STEM_LENGTH_MAX} characters (A-Z 0-9 _ - .)")
    if not is_address(address):
        raise UsageError(f"{address!r} is no mail address")


def addressed_partner(called_ae_title: str, partners: list[Partner]) -> tuple[Partner, Priority] | None:
    """Find the partner and priority that a called AE title such as LUDWIGSHAFEN_N stands for."""
    for partner in partners:
        priority = partner.ae_titles().get(called_ae_title)
        if priority is not None and not partner.is_self:
            return partner, priority
    return None
