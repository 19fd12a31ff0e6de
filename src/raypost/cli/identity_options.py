"""What a person types as a patient's or an order's data: checked as DICOM has it, before any partner is told."""

from __future__ import annotations

import re
from datetime import datetime

from raypost.errors import UsageError

LENGTHS_MAX = {"patient_name": 194, "patient_id": 64, "issuer_of_patient_id": 64, "accession_number": 16}
"""Characters: of a PN three component groups of 64, of LO and SH as in PS3.5, 6.2."""
SEXES = ("M", "F", "O", "")
OPTIONS = {"issuer_of_patient_id": "issuer"}
"""Where the option is called otherwise than the entry."""
_DATE = re.compile(r"[0-9]{8}", re.ASCII)


def checked(name: str, value: str) -> str:
    """Return a value as it is kept: without spaces around it.

    Args:
        name: As in `control.Identity`.

    Raises:
        UsageError: It is longer than its value representation allows (PS3.5, 6.2), or no date, or no sex.
    """
    found, option = value.strip(), f"--{OPTIONS.get(name, name.replace('_', '-'))}"
    if not found.isprintable() or "\\" in found:
        raise UsageError(f"{option} holds a character that DICOM does not allow there")
    if name == "birth_date" and found and not _is_date(found):
        raise UsageError(f"{option} is no day, which is written like 19520317")
    if name == "sex" and found not in SEXES:
        raise UsageError(f"{option} is M, F or O, or empty: not known")
    if len(found) > LENGTHS_MAX.get(name, len(found)):
        raise UsageError(f"{option} is longer than {LENGTHS_MAX[name]} characters")
    return found


def _is_date(found: str) -> bool:
    """Say whether a text is a day of the calendar as DICOM writes it (VR DA)."""
    if not _DATE.fullmatch(found):
        return False
    try:
        datetime.strptime(found, "%Y%m%d")  # noqa: DTZ007 (a day of birth has no time zone)
    except ValueError:
        return False
    return True
