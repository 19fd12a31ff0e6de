"""`raypost status`: partners, relays and scanners at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import typer

from raypost.archive import standing
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    guarded,
    settings_of,
    show_table,
)
from raypost.model.units import duration_text, size_text
from raypost.node.site import opened_site

PARTNER_WORDS = {"unknown": "unknown, no hello yet", "fresh": "well", "silent": "silent: call {partner}"}
RELAY_WORDS = {"away": "away, does not let us in", "suspect": "suspect, swallows mails"}
SILENT = "silent for long"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("status")(status)


@guarded
def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show which partners, relays and scanners gave a sign of life, and when.

    Example: raypost status
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found, now = standing.look(tx), site.clock.now()
    answer(as_json, found, lambda: _show(found, now))


def _show(found: Mapping[str, Any], now: datetime) -> None:
    show_table(
        ("partner", "state", "last heard", "clock", "round trip", "software"),
        [
            (
                one["name"],
                PARTNER_WORDS.get(one["state"], one["state"]).format(partner=one["name"]),
                _ago(one["last_heard_at"], now),
                _clock(one),
                duration_text(one["round_trip_s"]) if one["round_trip_s"] is not None else "",
                one["software"],
            )
            for one in found["partners"]
        ],
        "There are no partners yet.",
    )
    console.print()
    show_table(
        ("relay", "state", "since", "largest mail", "carries", "said"),
        [
            (
                one["name"],
                RELAY_WORDS.get(one["state"], one["state"]),
                _ago(one["since"], now),
                size_text(one["size_max_bytes"]) if one["size_max_bytes"] else "",
                f"{size_text(one['rate_bytes_per_s'])}/s" if one["rate_bytes_per_s"] else "",
                one["said"],
            )
            for one in found["relays"]
        ],
        "No relay was used yet: `raypost serve` runs the site.",
    )
    console.print()
    show_table(
        ("scanner", "host", "last image", "remark"),
        [
            (one["ae_title"], one["host"], _ago(one["last_image_at"], now), SILENT if one["silent"] else "")
            for one in found["scanners"]
        ],
        "No scanner sent anything yet.",
    )
    console.print()
    console.print(_transfers(found["transfers_open"], found["transfers_told"]))


def _transfers(count_open: int, count_told: int) -> str:
    first = f"{count_open or 'No'} transfer{' is' if count_open == 1 else 's are'} open."
    if not count_told:
        return first
    return f"{first} Of {count_told} a person was told that nothing moves: `raypost transfer list` says whom to call."


def _ago(instant: str | None, now: datetime) -> str:
    """Say how long ago something was: at a glance that tells more than a time of day."""
    if instant is None:
        return "never"
    return f"{duration_text(max(0.0, (now - datetime.fromisoformat(instant)).total_seconds()))} ago"


def _clock(one: Mapping[str, Any]) -> str:
    if one["clock_offset_s"] is None:
        return "not compared"
    offset_s = round(one["clock_offset_s"], 1) + 0.0  # never -0.0
    return f"{offset_s:+.1f} s ± {one['clock_uncertainty_s'] or 0.0:.1f} s"
