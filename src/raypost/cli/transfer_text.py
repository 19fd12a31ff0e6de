"""What is known of a transfer, and how a person reads it: state in words, how far it is, its story, its messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from rich.markup import escape
from rich.table import Table

from raypost.archive import events, progress, search, story
from raypost.archive.database import Transaction
from raypost.archive.events import Happened
from raypost.archive.tables import TransferRow
from raypost.cli.facts import show_facts
from raypost.cli.local_time import clock_text, day_text, local_text, zone_text
from raypost.cli.output import bytes_text, console, show_table

STATE_WORDS = {
    "closed": "closed, the receipt is awaited",
    "unconfirmed": "unconfirmed: call {partner}",
    "rerouted": "rerouted{goes_to}",
    "expected": "expected, announced only",
    "incomplete": "incomplete: call {partner}",
    "redirected": "redirected, {partner} sends it elsewhere",
    "withdrawn": "withdrawn by {partner}",
}
"""States that say more to a person than their name; the others read as they are called."""
STUCK = frozenset({"announced", "streaming", "closed", "expected", "arriving"})
"""Open states: when a person was told that nothing moves, that is what is read first."""
NARROW = 90
"""Columns that a table of messages needs beside what the relays said; with less each message is a sentence."""
STYLES = {"alarm": "bold red", "notice": "bold"}
MARKS = {"alarm": "ALARM: "}
"""An alarm stands out without colours, too."""


def known_of(tx: Transaction, transfer_key: str, now: datetime, *, is_all: bool = False) -> dict[str, Any]:
    """Return a transfer with messages, events, progress and story, as --json prints it; no patient data is in it.

    Args:
        is_all: With all events and the whole story, not only from the newest `events.PAGE_MAX` on.

    Raises:
        UsageError: There is none with this key.
    """
    found = search.transfer(tx, transfer_key)
    row = search.transfer_by_key(tx, transfer_key)
    if is_all:
        found["events"] = [_event(one) for one in events.all_of_transfer(tx, row.id)]
    found["events_left_out"] = max(0, events.count_of_transfer(tx, row.id) - len(found["events"]))
    found["progress"] = progress.of_transfer(tx, row, now).as_json()
    begin = datetime.fromisoformat(found["events"][0]["at"]) if found["events_left_out"] else None
    found["story"] = [line.as_json() for line in story.tell(tx, row) if begin is None or line.at >= begin]
    return found


def announced_of(row: TransferRow, instances_filed: int) -> dict[str, Any] | None:
    """Return what the announcement said, while that is all there is of an incoming transfer: it names the patient.

    None for any other: what is filed is read with its study, and what was taken back is not shown.
    """
    said = row.announced or {}
    if row.direction != "in" or instances_filed or row.state == "withdrawn" or "identity" not in said:
        return None
    names = ("study_description", "modality", "body_part", "instances")
    return dict(said["identity"]) | {name: said.get(name) for name in names}


def state_words(one: Mapping[str, Any], goes_to: str = "") -> str:
    """Say the state of a transfer as a person needs it.

    Args:
        one: As `archive.search` returns it.
        goes_to: Name of the centre to which it was rerouted, as far as that is known.
    """
    state = str(one["state"])
    if state in STUCK and one["told_at"] is not None:
        return f"{state}, nothing moves: call {one['partner']}"
    return STATE_WORDS.get(state, state).format(partner=one["partner"], goes_to=f" to {goes_to}" if goes_to else "")


def filed_words(one: Mapping[str, Any]) -> str:
    """Say how much is filed: N of M only after the manifest; before it nobody knows how many will come."""
    if one["direction"] == "in":
        total = one["manifest_instances"]
    else:
        total = one["instances"] if one["closed_at"] else None
    return f"{one['instances_filed']} so far" if total is None else f"{one['instances_filed']} of {total}"


def show(found: Mapping[str, Any], zone: tzinfo, *, with_messages: bool) -> None:
    """Print a transfer: head, progress, story, and its messages if they are asked for."""
    show_facts([*_head(found, zone), *_progress(found, zone)])
    if found["announced"]:
        console.print("\nNothing is filed yet; this was announced:")
        show_facts(_announced(found["announced"]))
    console.print()
    _show_story(found, zone)
    if with_messages:
        console.print()
        _show_messages(found["messages"], zone)


def _head(found: Mapping[str, Any], zone: tzinfo) -> list[tuple[str, object]]:
    way = "to" if found["direction"] == "out" else "from"
    kind = f", supplement {found['supplement']}" if found["supplement"] else ""
    return [
        ("transfer", found["transfer_key"]),
        (way, f"{found['partner']}, {found['priority']}{kind}{', test' if found['test'] else ''}"),
        ("state", state_words(found)),
        ("why", found["why"]),
        ("study", found["study_key"]),
        ("ordered by", found["ordered_by"]),
        ("opened at", local_text(found["opened_at"], zone)),
        ("closed at", local_text(found["closed_at"], zone)),
        ("finished at", local_text(found["finished_at"], zone)),
    ]


def _progress(found: Mapping[str, Any], zone: tzinfo) -> list[tuple[str, object]]:
    it = found["progress"]
    filed = f"{it['filed']} so far; how many will come is not known yet"
    if it["total"] is not None:
        filed = f"{it['filed']} of {it['total']}"
    parcels = ", ".join(f"{count} {state}" for state, count in it["parcels"].items())
    return [
        ("instances sent", it["sent"]),
        ("arrived", it["arrived"]),
        ("filed", filed),
        ("missing", it["missing"]),
        ("refused", it["refused"]),
        ("parcels", parcels),
        ("finish expected", local_text(it["predicted_finish_at"], zone)),
    ]


def _announced(said: Mapping[str, Any]) -> list[tuple[str, object]]:
    number = said["patient_id"] + (f" of {said['issuer_of_patient_id']}" if said["issuer_of_patient_id"] else "")
    what = " ".join(one for one in (said["modality"], said["body_part"], said["study_description"]) if one)
    return [
        ("patient", said["patient_name"]),
        ("number", number),
        ("born", said["birth_date"]),
        ("sex", said["sex"]),
        ("order", said["accession_number"]),
        ("study", what),
        ("images", f"{said['instances']} when it was written"),
    ]


def _show_story(found: Mapping[str, Any], zone: tzinfo) -> None:
    """Print line by line what happened, a day's date before its first line, alarms in front of everything."""
    if found["events_left_out"]:
        console.print(f"{found['events_left_out']} older events are not shown: --all shows them", markup=False)
    lines = found["story"]
    if not lines:
        console.print("Nothing happened yet.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(zone_text(lines[-1]["at"], zone), no_wrap=True)
    table.add_column("at")
    table.add_column("what happened", overflow="fold")
    day = ""
    for one in lines:
        if day != (day := day_text(one["at"], zone)):
            table.add_row(day, "", "")
        text = MARKS.get(one["level"], "") + one["text"]
        if one["uncertainty_s"] is not None:
            text += f" (± {one['uncertainty_s']:.1f} s)"
        table.add_row(clock_text(one["at"], zone), one["site"], escape(text), style=STYLES.get(one["level"]))
    console.print(table)


def _show_messages(messages: list[dict[str, Any]], zone: tzinfo) -> None:
    said_length_max = max((len(one["said"]) for one in messages), default=0)
    if console.width >= NARROW + said_length_max or not messages:
        columns = ("message", "way", "state", "attempt", "size", "relay", "queued", "accepted", "filed", "said")
        show_table(columns, [_message(one, zone) for one in messages], "No messages yet.")
        return
    facts: list[tuple[str, object]] = []
    for one in messages:
        message, way, state, attempt, size, relay, queued, accepted, filed, said = _message(one, zone)
        words = [
            state,
            size,
            f"by {relay}" if relay else "",
            f"attempt {attempt}" if one["attempt"] > 1 else "",
            *(f"{name} {at}" for name, at in (("queued", queued), ("accepted", accepted), ("filed", filed)) if at),
            f"said: {said}" if said else "",
        ]
        facts.append((f"{message} {way}", ", ".join(word for word in words if word)))
    show_facts(facts)


def _message(one: Mapping[str, Any], zone: tzinfo) -> tuple[str, ...]:
    return (
        f"{one['kind']} {one['number']}",
        one["direction"],
        one["state"],
        str(one["attempt"] or ""),
        bytes_text(one["size_bytes"] or None),
        one["relay"],
        clock_text(one["queued_at"], zone),
        clock_text(one["accepted_at"], zone),
        clock_text(one["filed_at"], zone),
        one["said"],
    )


def _event(one: Happened) -> dict[str, Any]:
    at = one.at.isoformat(timespec="milliseconds")
    return {"at": at, "kind": one.kind.value, "level": one.level.value, "fields": dict(one.fields)}
