"""Roles of persons and what each may do: one table, read by the one place that checks it (`archive/people.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum


class Role(Enum):
    """What a person is at this site; one person may have several."""

    TECHNOLOGIST = "technologist"
    PHYSICIAN = "physician"
    ADMINISTRATOR = "administrator"
    COORDINATOR = "coordinator"
    AUDITOR = "auditor"


class Right(Enum):
    """One thing that a person may or may not do; the value is what stands in errors, events and the table."""

    SEE_STUDIES = "see studies"
    OPEN_STUDY = "open a study"
    TAKE_CASE = "take a case"
    SEND_STUDY = "send a study"
    RECALL_TRANSFER = "recall a transfer"
    CORRECT_STUDY = "correct a study"
    EXPORT_STUDY = "export a study"
    SIGN = "sign with a personal key"
    SEE_STATE = "see how the site is"
    SEE_QUARANTINE = "see the quarantine"
    CHANGE_RULES = "change rules and nodes"
    CHANGE_PARTNERS = "change partners"
    CHANGE_KEYS = "change keys of the site"
    CHANGE_PEOPLE = "change persons"
    BACK_UP = "back up"
    CHANGE_DIRECTORY = "change the network's directory"
    READ_AUDIT = "read the audit log"


ROLE_TEXT: dict[Role, str] = {
    Role.TECHNOLOGIST: "Takes images and sends them.",
    Role.PHYSICIAN: "Reads images, takes cases, answers for what is said about them.",
    Role.ADMINISTRATOR: "Looks after the site: partners, rules, keys, persons. Needs no patient for that.",
    Role.COORDINATOR: "Looks after the network: who belongs to it, on which relays.",
    Role.AUDITOR: "Reads who saw and did what. Changes nothing.",
}
"""One plain sentence a role."""

RIGHT_TEXT: dict[Right, str] = {
    Right.SEE_STUDIES: "Lists of studies and transfers with names of patients, and what was said about them.",
    Right.OPEN_STUDY: "Images; the sender is told who opened them, and when.",
    Right.TAKE_CASE: "Ask the sender for the responsibility for a case.",
    Right.SEND_STUDY: "Send a study, send it again, send it to another centre.",
    Right.RECALL_TRANSFER: "Take back what was sent in error.",
    Right.CORRECT_STUDY: "Correct whose study it is; every partner that has it is told.",
    Right.EXPORT_STUDY: "Write a study out as files, out of this site's protection.",
    Right.SIGN: "Have a personal key, and sign with it what is sent in the person's name.",
    Right.SEE_STATE: "Partners, relays, scanners, counts, events: without patients.",
    Right.SEE_QUARANTINE: "What came and could not be used, from whom, and why.",
    Right.CHANGE_RULES: "What goes where, how urgent, and the DICOM nodes in the house.",
    Right.CHANGE_PARTNERS: "Whom this site believes, and to whom it sends.",
    Right.CHANGE_KEYS: "Make, renew and revoke this site's keys; shut out the key of a person.",
    Right.CHANGE_PEOPLE: "Add and disable persons, give and take roles, set passwords.",
    Right.BACK_UP: "Make and verify backups. They hold everything.",
    Right.CHANGE_DIRECTORY: "Admit sites to the network and publish its directory.",
    Right.READ_AUDIT: "Who did what, who saw which patient. Reading it is written down, too.",
}
"""One plain sentence a right."""

RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.TECHNOLOGIST: frozenset(
        {
            Right.SEE_STUDIES,
            Right.OPEN_STUDY,
            Right.SEND_STUDY,
            Right.RECALL_TRANSFER,
            Right.CORRECT_STUDY,
            Right.SEE_STATE,
        }
    ),
    Role.PHYSICIAN: frozenset(
        {
            Right.SEE_STUDIES,
            Right.OPEN_STUDY,
            Right.TAKE_CASE,
            Right.SEND_STUDY,
            Right.RECALL_TRANSFER,
            Right.CORRECT_STUDY,
            Right.EXPORT_STUDY,
            Right.SIGN,
            Right.SEE_STATE,
        }
    ),
    Role.ADMINISTRATOR: frozenset(
        {
            Right.SEE_STATE,
            Right.SEE_QUARANTINE,
            Right.CHANGE_RULES,
            Right.CHANGE_PARTNERS,
            Right.CHANGE_KEYS,
            Right.CHANGE_PEOPLE,
            Right.BACK_UP,
        }
    ),
    Role.COORDINATOR: frozenset({Right.SEE_STATE, Right.CHANGE_PARTNERS, Right.CHANGE_DIRECTORY}),
    Role.AUDITOR: frozenset({Right.SEE_STATE, Right.READ_AUDIT}),
}
"""What each role may do; whatever no role of a person names, the person may not."""


def may(roles: Iterable[Role], right: Right) -> bool:
    """Say whether somebody with these roles has a right."""
    return any(right in RIGHTS[role] for role in roles)


def roles_with(right: Right) -> tuple[Role, ...]:
    """Return the roles that have a right, in the order of the enum."""
    return tuple(role for role in Role if right in RIGHTS[role])
