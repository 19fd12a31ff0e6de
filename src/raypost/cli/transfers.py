"""Commands about transfers: send, transfer list/show/resend."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raypost.archive import damage, events, search, transfers
from raypost.archive.events import Happened
from raypost.archive.rearm import order_again
from raypost.cli import sending
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    bytes_text,
    console,
    guarded,
    person,
    settings_of,
    show_table,
)
from raypost.errors import UsageError
from raypost.node.site import opened_site

TransferKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost transfer list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("send")(sending.send)
    transfer = typer.Typer(help="Transfers to and from partners.", no_args_is_help=True)
    transfer.command("list")(transfer_list)
    transfer.command("show")(transfer_show)
    transfer.command("resend")(transfer_resend)
    app.add_typer(transfer, name="transfer")


@guarded
def transfer_list(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest transfers, both ways.

    Example: raypost transfer list --limit 10
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.transfers(tx, limit=limit)
    rows = [
        (
            one["transfer_key"],
            one["direction"],
            one["partner"],
            one["priority"] + (" test" if one["test"] else ""),
            one["state"],
            _progress(one),
            one["opened_at"],
        )
        for one in found
    ]
    columns = ("key", "way", "partner", "priority", "state", "filed there", "since")
    answer(as_json, found, lambda: show_table(columns, rows, "There are no transfers yet."))


def _progress(one: dict[str, Any]) -> str:
    """N of M only after the manifest; before it nobody knows how many will come."""
    if one["direction"] == "in" and one["manifest_instances"] is None:
        return f"{one['instances_filed']} so far, still arriving"
    return f"{one['instances_filed']} of {one['manifest_instances'] or one['instances']}"


@guarded
def transfer_show(
    transfer_key: TransferKey,
    is_all: Annotated[bool, typer.Option("--all", help="All events, not only the newest 1000.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show one transfer: parcels with times and sizes, and what happened, the newest last.

    Example: raypost transfer show n5k7q2xw3m6r4j2m
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.transfer(tx, transfer_key)
        row = search.transfer_by_key(tx, transfer_key)
        if is_all:
            found["events"] = [_event(one) for one in events.all_of_transfer(tx, row.id)]
        found["events_left_out"] = max(0, events.count_of_transfer(tx, row.id) - len(found["events"]))

    def _show() -> None:
        for name in (
            "transfer_key",
            "direction",
            "partner",
            "study_key",
            "priority",
            "state",
            "ordered_by",
            "instances",
            "instances_filed",
            "opened_at",
            "closed_at",
            "finished_at",
        ):
            console.print(f"{name.replace('_', ' '):16} {found[name]}", markup=False)
        show_table(
            ("way", "message", "state", "attempt", "size", "queued", "accepted", "filed", "said"),
            [
                (
                    one["direction"],
                    f"{one['kind']} {one['number']}",
                    one["state"],
                    one["attempt"],
                    bytes_text(one["size_bytes"]),
                    _clock(one["queued_at"]),
                    _clock(one["accepted_at"]),
                    _clock(one["filed_at"]),
                    one["said"],
                )
                for one in found["messages"]
            ],
            "No messages yet.",
        )
        if found["events_left_out"]:
            console.print(f"{found['events_left_out']} older events are not shown: --all shows them", markup=False)
        show_table(
            ("at", "event", ""),
            [
                (
                    _clock(one["at"]),
                    one["kind"],
                    " ".join(f"{name}={value}" for name, value in one["fields"].items() if value is not None),
                )
                for one in found["events"]
            ],
            "",
        )

    answer(as_json, found, _show)


def _event(one: Happened) -> dict[str, Any]:
    at = one.at.isoformat(timespec="milliseconds")
    return {"at": at, "kind": one.kind.value, "level": one.level.value, "fields": dict(one.fields)}


def _clock(instant: str | None) -> str:
    return instant[11:23] if instant else ""


@guarded
def transfer_resend(
    transfer_key: TransferKey, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Send everything of a transfer once more; the receiver files nothing twice.

    Example: raypost transfer resend n5k7q2xw3m6r4j2m
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            row = search.transfer_by_key(tx, transfer_key)
            locked = transfers.lock(tx, row.id)
            if locked is None:
                raise UsageError("the transfer is gone")
            if locked.direction == "out":
                damage.put_back(tx, locked, site.clock.now())  # whoever orders it again may have mended the file
            count = order_again(tx, locked, site.settings.limits_of_transfers(), site.clock.now(), person())
            left_out = damage.count_left_out(tx, locked.id) if locked.direction == "out" else 0
    shape = {"transfer_key": transfer_key, "messages": count, "left_out": left_out}

    def _show() -> None:
        console.print(f"{count} mails are sent again.")
        if left_out:
            console.print(
                f"{left_out} images are not among them: their files are damaged here. Restore them from the backup,"
                " then send the study anew: `raypost send --study KEY --to PARTNER`",
                markup=False,
            )

    answer(as_json, shape, _show)
