"""Persons of a site: what a login name, a name for people, a telephone number and a usable password are. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from raypost.errors import UsageError
from raypost.model.rights import Right, Role, may

DISPLAY_NAME_LENGTH_MAX = 100
PASSWORD_LENGTH_MIN = 12
PASSWORD_LENGTH_MAX = 256
"""Longer ones are refused before they are hashed: work is bounded."""
DISTINCT_MIN = 5
"""Fewer different characters are a pattern, whatever the length."""

_LOGIN_NAME = re.compile(r"[a-z][a-z0-9._\-]{0,31}", re.ASCII)
_PHONE = re.compile(r"\+?[0-9][0-9 ()/\-]{2,38}[0-9]", re.ASCII)

DEFAULT_PASSWORDS = frozenset(
    {
        *("password", "passw0rd", "passwort", "changeme", "change-me", "change_me", "secret", "geheim", "admin"),
        *("administrator", "root", "test", "test123", "demo", "default", "raypost", "postgres", "example", "letmein"),
        *("welcome", "willkommen", "qwerty", "qwertz", "abc123", "123456", "12345678", "123456789", "1234567890"),
        *("password1", "password123", "admin123", "orthanc", "dicom", "pacs", "hospital", "klinik", "krankenhaus"),
    }
)
"""What stands in manuals and templates, and what is tried first."""


def is_login_name(value: object) -> bool:
    """Say whether a value is a login name: lower-case letters, digits and . _ -, at most 32, a letter first."""
    return isinstance(value, str) and _LOGIN_NAME.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may do something at this site.

    Attributes:
        name: The login name; it is never given to somebody else.
        display_name: As people read it, also at partners.
        phone: Empty where it is not known.
        disabled_at: Since when the person may do nothing; None: active.
        has_password: Whether the person can sign in with one.
    """

    name: str
    display_name: str
    phone: str = ""
    roles: frozenset[Role] = frozenset()
    disabled_at: datetime | None = None
    has_password: bool = False

    def __post_init__(self) -> None:
        if not is_login_name(self.name):
            raise UsageError(f"{self.name!r} is no login name: a-z 0-9 . _ -, at most 32, a letter first")
        said = self.display_name
        if not said or said.strip() != said or not said.isprintable() or len(said) > DISPLAY_NAME_LENGTH_MAX:
            raise UsageError(f"a display name is one line of at most {DISPLAY_NAME_LENGTH_MAX} printable characters")
        if self.phone and not _PHONE.fullmatch(self.phone):
            raise UsageError("a telephone number is made of digits, spaces and + ( ) / -")

    @property
    def is_active(self) -> bool:
        """Say whether the person may do anything at all."""
        return self.disabled_at is None

    def may(self, right: Right) -> bool:
        """Say whether the person has a right now; somebody disabled has none."""
        return self.is_active and may(self.roles, right)


def normal_password(password: str) -> str:
    """Return a password in one form of Unicode, so that it is the same from every keyboard."""
    return unicodedata.normalize("NFKC", password)


def is_default_password(password: str, names: Iterable[str] = ()) -> bool:
    """Say whether a password is one that stands in manuals and templates, or is a name it belongs to.

    Args:
        names: Login, address, site: what anybody knows of the account.
    """
    said = normal_password(password).casefold().strip()
    return said in DEFAULT_PASSWORDS or any(said == name.casefold() for name in names if name)


def check_password(password: str, names: Iterable[str]) -> None:
    """Check that a new password of a person can be used.

    Args:
        names: Of the person and the site: none of them may be a large piece of it.

    Raises:
        UsageError: It is too short, too long, has characters that cannot be typed, or would be guessed soon.
    """
    said = normal_password(password)
    if not PASSWORD_LENGTH_MIN <= len(said) <= PASSWORD_LENGTH_MAX:
        raise UsageError(
            f"a password has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters; this one has {len(said)}",
            do="Four or five words that do not belong together are good, and easy to keep.",
        )
    if not said.isprintable():
        raise UsageError("the password has characters that cannot be printed", do="Give it as one line of text.")
    rest = said.casefold()
    for word in sorted({*DEFAULT_PASSWORDS, *(name.casefold() for name in names if len(name) > 2)}, key=len)[::-1]:
        rest = rest.replace(word, "")
    if len(rest) < PASSWORD_LENGTH_MIN // 2 or len(set(rest)) < DISTINCT_MIN:
        raise UsageError(
            "this password would be guessed soon: it is made of a name, of a usual password, or of few characters",
            do="Four or five words that do not belong together are good, and easy to keep.",
        )
