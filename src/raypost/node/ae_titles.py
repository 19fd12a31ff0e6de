"""This site's own AE title stands in raypost.toml, its partners' in the address book: they must not be the same.

An image that a modality sends to a title that is both would go to the partner, though it was meant to stay here.
"""

from __future__ import annotations

from collections.abc import Iterable

from raypost.errors import UsageError
from raypost.model.site import Partner


def partner_with_title(ae_title: str, known: Iterable[Partner]) -> Partner | None:
    """Return the partner to which images sent to this AE title go."""
    return next((one for one in known if not one.is_self and ae_title in one.ae_titles()), None)


def refuse_own_title(ae_title: str, partner: Partner) -> None:
    """Refuse a partner one of whose AE titles is this site's own.

    Raises:
        UsageError: It is.
    """
    if partner_with_title(ae_title, [partner]) is not None:
        raise UsageError(
            f"{ae_title}, an AE title of {partner.name}, is this site's own: what is sent here would go there",
            do="Give this site another one in raypost.toml, [dicom] ae_title, and tell the modalities.",
        )
