"""The generated parts of the protocol's specification and of the page of states: drawn from tables, limits, vectors.

`tools/generate_docs.py` puts them between the markers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from raypost.mail import parcels, tokens
from raypost.model import manifest
from raypost.model.transfer import TO_RECEIVER, MessageKind, Priority
from raypost.transfer import control, failover, hello, pacing, receiver, sender, wire, wire_entries
from raypost.transfer.failover import RelayEvent, RelayState, goes_by_all
from raypost.transfer.hello import BASE_KINDS, ContactEvent, ContactState
from raypost.transfer.limits import Limits
from raypost.transfer.notes import NOTES
from raypost.transfer.receiver import ReceiverEvent, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderState

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "tests" / "golden" / "wire"
WIDTH = 116
HEAD_ENTRIES = ("raypost", "kind", "transfer", "number", "from", "to", "priority", "test", "written_at")

MACHINES: dict[str, tuple[ModuleType, Any, Any, tuple[str, ...]]] = {
    "sender": (sender, SenderState, SenderEvent, ("announced", "delivered", "unconfirmed", "rerouted", "recalled")),
    "receiver": (
        receiver,
        ReceiverState,
        ReceiverEvent,
        ("expected", "complete", "incomplete", "redirected", "withdrawn"),
    ),
    "relay": (failover, RelayState, RelayEvent, ("well",)),
    "partner": (hello, ContactState, ContactEvent, ("unknown",)),
}
"""Of each machine: its module, states, events, and the state it begins in before those it may rest in."""


def cell(text: object) -> str:
    """Return a text as it can stand in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(one) for one in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def diagram(name: str) -> str:
    """Return a machine's diagram: one arrow for all events that lead from one state to another."""
    module, _, _, (first, *final) = MACHINES[name]
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), target in module.TRANSITIONS.items():
        arrows.setdefault((state.value, target.value), []).append(event.value)
    drawn = "".join(f"    {one} --> {other}: {', '.join(events)}\n" for (one, other), events in arrows.items())
    ends = "".join(f"    {one} --> [*]\n" for one in final)
    return f"```mermaid\nstateDiagram-v2\n    [*] --> {first}\n{drawn}{ends}```\n"


def machine(title: str, name: str) -> str:
    """Return a machine's section: diagram, table, and what the table refuses."""
    module, states, events, _ = MACHINES[name]
    rows: list[tuple[object, ...]] = [
        (f"`{state.value}`", event.value, f"`{target.value}`") for (state, event), target in module.TRANSITIONS.items()
    ]
    never = [
        f"{event.value} while {state.value}"
        for state in states
        for event in events
        if (state, event) not in module.TRANSITIONS
    ]
    refused = f"Whatever the table does not list is a bug of ours (RP-900): {'; '.join(never)}." if never else ""
    return (
        f"## {title}\n\n{inspect.cleandoc(module.__doc__ or '').split(chr(10))[0]}\n\n{diagram(name)}\n"
        + table(("state", "event", "next state"), rows)
        + f"\n{refused or 'Every event may come in every state.'}\n"
    )


def kinds_region() -> str:
    """Return the table of the kinds of messages."""
    rows: list[tuple[object, ...]] = []
    classes = {_kind_of(one): one for one in get_args(control.Message)}
    for kind in MessageKind:
        way = "both ways" if kind is MessageKind.HELLO else "sender → receiver" if kind in TO_RECEIVER else "back"
        repeated = "yes" if kind in NOTES else ""
        by_all = [priority.value for priority in Priority if goes_by_all(kind, 1, priority)]
        all_relays = "always" if len(by_all) == len(Priority) else ", ".join(by_all)
        if kind is MessageKind.HELLO:
            all_relays = "always"  # the station that greets does so by itself
        elif all_relays and not goes_by_all(kind, 2, Priority.EMERGENCY):
            all_relays += ": number 1"
        base = "yes" if kind in BASE_KINDS or kind is MessageKind.HELLO else ""
        carries = inspect.cleandoc(classes[kind].__doc__ or "").split("\n\n")[0]
        rows.append((f"[`{kind.value}`](#{_anchor(kind)})", way, carries, repeated, all_relays, base))
    columns = ("kind", "from → to", "what it says", "a note (§10)", "by all relays (§11)", "in every version")
    return table(columns, rows)


def _kind_of(message_class: type) -> MessageKind:
    return MessageKind(message_class.__name__.lower())


def _anchor(kind: MessageKind) -> str:
    return {
        MessageKind.OPENED: "opened-take",
        MessageKind.TAKE: "opened-take",
    }.get(kind, kind.value)


def example_region(name: str, *, whole: bool = False) -> str:
    """Return a test vector as a readable example: only what its kind adds, or all of it."""
    body = json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))
    shown = body if whole else {entry: value for entry, value in body.items() if entry not in HEAD_ENTRIES}
    lines = _wrapped([f"{json.dumps(entry)}: {_compact(value)}" for entry, value in shown.items()])
    lead = "" if whole else f'"kind": "{body["kind"]}", …,\n '
    return (
        f"```json\n{{{lead}{lines}}}\n```\n\n"
        f"[`{name}.json`](../../tests/golden/wire/{name}.json)"
        + ("" if whole else ", without the entries of §6.1")
        + ".\n"
    )


def _compact(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(json.dumps(one) for one in value) + "]"
    if isinstance(value, dict) and len(json.dumps(value)) > WIDTH // 2:
        return "{\n  " + _wrapped([f"{json.dumps(entry)}: {json.dumps(one)}" for entry, one in value.items()], 2) + "}"
    if isinstance(value, list) and len(json.dumps(value)) > WIDTH // 2:
        return "[\n  " + _wrapped([json.dumps(one) for one in value], 2) + "]"
    return json.dumps(value)


def _wrapped(parts: list[str], indent: int = 1) -> str:
    """Put as many entries on a line as fit."""
    lines = [""]
    for place, one in enumerate(parts):
        one += "," if place < len(parts) - 1 else ""
        fits = len(lines[-1].rsplit("\n", 1)[-1]) + len(one.split("\n", 1)[0]) < WIDTH
        if lines[-1] and not fits:
            lines.append(one)
        else:
            lines[-1] += (" " if lines[-1] else "") + one
    return ("\n" + " " * indent).join(lines)


def bounds_region() -> str:
    """Return the table of the bounds of everything that is read."""
    rows: list[tuple[object, ...]] = [
        ("the control part", f"{parcels.CONTROL_MAX_BYTES:,} bytes, {parcels.CONTROL_DEPTH_MAX} deep"),
        ("items of a mail", f"{parcels.ITEMS_MAX:,}"),
        ("`number` of a parcel", f"1 to {manifest.PARCELS_MAX:,}"),
        ("`number` of any other message", f"1 to {wire.NUMBER_MAX:,}"),
        ("instances of a parcel, of a manifest", f"1 to {manifest.INSTANCES_MAX:,}"),
        ("hashes in a list", f"0 to {manifest.INSTANCES_MAX:,}"),
        ("ranges in a list", f"0 to {manifest.PARCELS_MAX:,}, numbers 1 to {manifest.PARCELS_MAX:,}"),
        ("kinds in `heard`", f"0 to {wire_entries.WORDS_MAX}"),
        ("`supplement`", f"0 to {wire.SUPPLEMENTS_MAX:,}"),
        ("size of an instance", f"1 to {manifest.INSTANCE_SIZE_MAX_BYTES:,} bytes (8 GiB)"),
        ("a text", f"0 to {wire_entries.TEXT_LENGTH_MAX:,} characters"),
        ("a list of names", f"0 to {wire_entries.WORDS_MAX} texts"),
        ("the year of an instant", f"{wire_entries.YEAR_MIN} to {wire_entries.YEAR_MAX}"),
        ("a UID", "1 to 64 characters, PS3.5, 9.1"),
        ("`transfer`, `correction`", "10 to 40 characters `a-z2-7`"),
        ("`interval_s`", f"over 0 to {wire.INTERVAL_MAX_S:,.0f}"),
        ("`mail_size_max`", f"0 to {wire.MAIL_SIZE_MAX_BYTES:,} bytes"),
        ("the field Raypost-Token", f"{tokens.FIELD_LENGTH_MAX} characters"),
    ]
    return table(("what", "bound"), rows)


def limits_region() -> str:
    """Return the tables of times and sizes, from the limits of the machines."""
    named = [(f"Of the {one.name}", type(getattr(Limits(), one.name))) for one in dataclasses.fields(Limits)]
    titles = {"Of the relays": "Of a relay", "Of the hello": "Of a partner"}
    sections = [(titles.get(title, title), found) for title, found in named]
    sections += [("Of a note", type(Limits().sender.notes)), ("Of a parcel", pacing.PacingLimits)]
    out = []
    for title, found in sections:
        words = _attribute_words(found)
        rows: list[tuple[object, ...]] = [
            (f"`{one.name}`", _value(one), words.get(one.name, ""))
            for one in dataclasses.fields(found)
            if not dataclasses.is_dataclass(one.default)
        ]
        out.append(f"**{title}**\n\n" + table(("name", "default", "what it is"), rows))
    return "\n".join(out)


def _value(one: dataclasses.Field[Any]) -> str:
    unit = " s" if one.name.endswith("_s") else " bytes" if one.name.endswith("_bytes") else ""
    return f"{one.default:,g}{unit}" if isinstance(one.default, float) else f"{one.default:,}{unit}"


def _attribute_words(found: type) -> dict[str, str]:
    """Return what the docstring says of each attribute."""
    _, _, listed = inspect.cleandoc(found.__doc__ or "").partition("Attributes:\n")
    words: dict[str, str] = {}
    for line in inspect.cleandoc(listed).splitlines():
        if match := re.match(r"(\w+): (.*)", line):
            name = match[1]
            words[name] = match[2]
        elif line.strip():
            words[name] += " " + line.strip()
    return {name: text.replace("`", "") for name, text in words.items()}


def vectors_region() -> str:
    """Return the table of what is refused, and of what is tolerated."""
    refused: list[tuple[object, ...]] = []
    for path in sorted([*VECTORS.glob("malformed/*.json"), *VECTORS.glob("later/*.json")]):
        vector = json.loads(path.read_text(encoding="ascii"))
        refused.append((f"`{path.parent.name}/{path.name}`", vector["error"], vector["what"]))
    tolerated: list[tuple[object, ...]] = []
    for path in sorted(VECTORS.glob("tolerated/*.json")):
        vector = json.loads(path.read_text(encoding="ascii"))
        tolerated.append((f"`tolerated/{path.name}`", f"`{vector['reads_as']}.json`", vector["what"]))
    whole: list[tuple[object, ...]] = [
        (f"`{path.name}`", f"{path.stat().st_size - 1} bytes") for path in sorted(VECTORS.glob("*.json"))
    ]
    return (
        "Written byte for byte, without the last line end, and read:\n\n"
        + table(("file", "size"), whole)
        + "\nRead as another one:\n\n"
        + table(("file", "reads as", "what it is"), tolerated)
        + "\nRefused:\n\n"
        + table(("file", "error", "why"), refused)
    )


EXAMPLES = (
    "parcel-full",
    "manifest-full",
    "receipt-progress",
    "receipt-full",
    "opened-full",
    "taken-full",
    "recall-full",
    "recalled-full",
    "redirect-full",
    "correct-full",
    "hello-full",
)
"""Shown in the specification without what every message says; the announce is shown whole."""

SPECIFICATION_REGIONS: dict[str, Callable[[], str]] = {
    "kinds": kinds_region,
    "bounds": bounds_region,
    "limits": limits_region,
    "vectors": vectors_region,
    **{f"diagram {name}": functools.partial(diagram, name) for name in MACHINES},
    "example announce-full": functools.partial(example_region, "announce-full", whole=True),
    **{f"example {name}": functools.partial(example_region, name) for name in EXAMPLES},
}


def states_text() -> str:
    """Return the page of states without its first line."""
    return (
        "# States\n\n"
        "Four machines decide what a transfer, a relay and a partner wait for. They are pure functions of facts and\n"
        "time: `next_step` in the same files says what comes next, `TRANSITIONS` what may. What a person should make\n"
        'of a state is in [what "delivered" means](../explanation/what-delivered-means.md); the rules are in the\n'
        "[specification](../spec/transfer-protocol.md).\n\n"
        + "\n".join(
            (
                machine("Outgoing transfer", "sender"),
                machine("Incoming transfer", "receiver"),
                machine("Relay", "relay"),
                machine("Partner", "partner"),
            )
        )
    )
