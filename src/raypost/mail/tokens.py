"""The one field of ours outside the encryption: a hint that lets a collector take small and urgent mails first."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raypost.model.identifiers import is_raypost_key

TOKEN_FIELD = "Raypost-Token"
NUMBER_MAX = 999_999_999
FIELD_LENGTH_MAX = 200
PARCEL_KIND = "parcel"

_KIND = re.compile(r"[a-z]{1,20}", re.ASCII)
_FIELD = re.compile(r"([a-z2-7]{10,40}); ?kind=([a-z]{1,20}); ?number=(0|[1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """Transfer token, kind and number as said outside; unsigned, so it may order work and nothing more."""

    transfer_token: str
    kind: str
    number: int

    def __post_init__(self) -> None:
        if not is_raypost_key(self.transfer_token):
            raise ValueError("transfer_token is not one of our random keys")
        if _KIND.fullmatch(self.kind) is None:
            raise ValueError("kind is not a short lower-case word")
        if not 0 <= self.number <= NUMBER_MAX:
            raise ValueError("number is out of range")

    def as_field(self) -> str:
        """Return the value of the field Raypost-Token."""
        return f"{self.transfer_token}; kind={self.kind}; number={self.number}"

    def as_json(self) -> dict[str, str | int]:
        """Return the token as a plain object, as `read_outer` reports it."""
        return {"transfer_token": self.transfer_token, "kind": self.kind, "number": self.number}


def parse_token(header: str | bytes | None) -> Token | None:
    """Return the token of a field value, with or without the field's name before it; None if it is not one of ours."""
    if header is None:
        return None
    text = header.decode("ascii", "replace") if isinstance(header, bytes) else header
    if len(text) > FIELD_LENGTH_MAX:
        return None
    text = " ".join(text.split())
    name = TOKEN_FIELD.lower() + ":"
    if text.lower().startswith(name):
        text = text[len(name) :].strip()
    match = _FIELD.fullmatch(text)
    return None if match is None else Token(match[1], match[2], int(match[3]))
