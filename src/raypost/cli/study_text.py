"""How a person reads a study: whose it is, who has it, what was corrected, and whether its sender took it back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from raypost.cli.facts import show_facts
from raypost.cli.local_time import local_text
from raypost.cli.output import bytes_text, console, show_table
from raypost.cli.transfer_text import filed_words, state_words

EMPTY = "(empty)"


def remark(one: Mapping[str, Any]) -> str:
    """Return what sets a study apart in a list: a test, or hidden and why."""
    words = ["test" if one["test"] else "", f"hidden: {one['hidden_because']}" if _is_hidden(one) else ""]
    return ", ".join(word for word in words if word)


def show(found: Mapping[str, Any], zone: tzinfo) -> None:
    """Print a study with its series and transfers."""
    show_facts([*_head(found), *_people(found, zone), *_corrections(found, zone)])
    console.print()
    show_table(
        ("series", "modality", "description", "instances"),
        [(one["number"], one["modality"], one["description"], one["instances"]) for one in found["series"]],
        "It has no series.",
    )
    console.print()
    show_table(
        ("transfer", "partner", "state", "filed"),
        [
            (
                one["transfer_key"],
                f"{'to' if one['direction'] == 'out' else 'from'} {one['partner']}",
                state_words(one),
                filed_words(one),
            )
            for one in found["transfers"]
        ],
        "Never transferred.",
    )


def changes(correction: Mapping[str, Any]) -> list[str]:
    """Return what a correction changed, old → new."""
    old, new = correction["before"], correction["after"]
    return [
        f"{name.replace('_', ' ')} {old.get(name) or EMPTY} → {new.get(name) or EMPTY}"
        for name in new
        if old.get(name) != new.get(name)
    ]


def _is_hidden(one: Mapping[str, Any]) -> bool:
    return one["hidden_because"] is not None


def _head(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    hidden = f"yes, kept and not shown in lists: {found['hidden_because']}"
    return [
        ("study", found["study_key"]),
        ("hidden", hidden if _is_hidden(found) else None),
        ("test", "yes" if found["test"] else None),
        ("origin", found["origin"]),
        ("patient name", found["patient_name"] or EMPTY),
        ("patient id", found["patient_id"] or EMPTY),
        ("birth date", found["birth_date"] or EMPTY),
        ("sex", found["sex"]),
        ("study date", found["study_date"]),
        ("description", found["description"]),
        ("accession number", found["accession_number"]),
        ("instances", f"{found['instances']}, {bytes_text(found['stored_bytes'])}"),
    ]


def _people(found: Mapping[str, Any], zone: tzinfo) -> list[tuple[str, object]]:
    """Say which centre has the case and who opened it."""
    openings = [
        f"{one['who'] or 'somebody'} at {one['site']}, {local_text(one['opened_at'], zone)}"
        for one in found["opened_by"]
    ]
    return [
        ("responsible", found["responsible"] or "nobody took the case yet"),
        *_listed("opened by", openings or ["nobody yet"]),
    ]


def _corrections(found: Mapping[str, Any], zone: tzinfo) -> list[tuple[str, object]]:
    """Say of each correction what was changed, old → new, by whom and why."""
    facts: list[tuple[str, object]] = []
    for one in found["corrections"]:
        by = f"by {one['who'] or 'somebody'}, {local_text(one['corrected_at'], zone)}: {one['why']}"
        facts += _listed("corrected", [*changes(one), by])
    return facts


def _listed(name: str, lines: list[str]) -> list[tuple[str, object]]:
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]
