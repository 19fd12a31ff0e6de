"""`raypost status`: partners, relays and scanners at a glance."""

from __future__ import annotations

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


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("status")(status)


@guarded
def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show which partners, relays and scanners gave a sign of life, and when.

    Example: raypost status
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = standing.look(tx)

    def _show() -> None:
        show_table(
            ("partner", "state", "last heard", "clock", "round trip", "software"),
            [
                (
                    one["name"],
                    one["state"],
                    one["last_heard_at"] or "never",
                    _clock(one),
                    duration_text(one["round_trip_s"]) if one["round_trip_s"] is not None else "",
                    one["software"],
                )
                for one in found["partners"]
            ],
            "There are no partners yet.",
        )
        show_table(
            ("relay", "state", "since", "largest mail", "carries", "said"),
            [
                (
                    one["name"],
                    one["state"],
                    one["since"],
                    size_text(one["size_max_bytes"]) if one["size_max_bytes"] else "",
                    f"{size_text(one['rate_bytes_per_s'])}/s" if one["rate_bytes_per_s"] else "",
                    one["said"],
                )
                for one in found["relays"]
            ],
            "No relay was used yet: `raypost serve` runs the site.",
        )
        show_table(
            ("scanner", "host", "last image", ""),
            [
                (one["ae_title"], one["host"], one["last_image_at"], "silent" if one["silent"] else "")
                for one in found["scanners"]
            ],
            "No scanner sent anything yet.",
        )
        console.print(f"{found['transfers_open']} transfers open, of {found['transfers_told']} a person was told")

    answer(as_json, found, _show)


def _clock(one: dict[str, Any]) -> str:
    if one["clock_offset_s"] is None:
        return "not compared"
    return f"{one['clock_offset_s']:+.1f} s ± {one['clock_uncertainty_s']:.1f}"
