"""The transfer syntaxes we treat by name (PS3.6, A); light, so that network processes need no codecs."""

from __future__ import annotations

from pydicom.uid import UID

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

NATIVE = frozenset(
    (
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    )
)
LOSSLESS = frozenset((JPEG_LS_LOSSLESS, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_2000_LOSSLESS, RLE_LOSSLESS))
"""Encapsulated ones whose pixels we decode; others are compared by their encoded bytes."""


def transfer_syntax_name(transfer_syntax_uid: str) -> str:
    """Return the name of a transfer syntax in the standard's words, or "unknown"."""
    name = UID(transfer_syntax_uid).name
    return "unknown" if name == transfer_syntax_uid else str(name)
