"""Commands about transfers: send, transfer list/show/resend."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import partners, search, transfers
from raypost.archive.rearm import order_again
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
from raypost.errors import BadInputError, NotNowError, UsageError
from raypost.model.transfer import Priority
from raypost.node.site import Site, opened_site
from raypost.node.worker_process import make_route

FILES_MAX = 20_000
LOOK_S = 0.3

TransferKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost transfer list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("send")(send)
    transfer = typer.Typer(help="Transfers to and from partners.", no_args_is_help=True)
    transfer.command("list")(transfer_list)
    transfer.command("show")(transfer_show)
    transfer.command("resend")(transfer_resend)
    app.add_typer(transfer, name="transfer")


@guarded
def send(
    to: Annotated[str, typer.Option(help="Name of the partner.")],
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH…", help="DICOM files or folders.")] = None,
    study: Annotated[str, typer.Option(help="Key of a study in the archive instead.")] = "",
    priority: Annotated[Priority, typer.Option(help="How urgent.")] = Priority.ROUTINE,
    wait_s: Annotated[float, typer.Option("--wait", help="Wait so many seconds for the partner's receipt.")] = 0.0,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Send a study to a partner; `raypost serve` does the work.

    Example: raypost send ~/ct-head --to ludwigshafen --priority emergency --wait 60
    """
    if bool(paths) == bool(study):
        raise UsageError("name either files or --study KEY")
    left_out: list[dict[str, str]] = []
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            partners.partner_named(tx, to)
        if study:
            sent = [make_route(site).send_study(study, to, priority, person())]
        else:
            sent = _send_files(site, paths or [], to, priority, left_out, quiet=as_json)
        shapes = _wait(site, sent, wait_s)
    shape: dict[str, Any] = {"transfers": shapes, "left_out": left_out}

    def _show() -> None:
        for one in left_out:
            console.print(f"left out: {one['file']}: {one['why']}", markup=False)
        for one in shapes:
            console.print(
                f"transfer {one['transfer_key']} to {one['partner']}: {one['state']}, {one['instances']} instances",
                markup=False,
            )

    late = NotNowError(
        "not delivered in time",
        meaning="It is still on its way; nothing is lost.",
        do="`raypost transfer show` tells where it is.",
    )
    is_late = bool(wait_s) and any(one["state"] != "delivered" for one in shapes)
    if is_late and as_json:  # one JSON document, whatever happens
        shape["error"] = late.as_json()
    answer(as_json, shape, _show)
    if is_late and as_json:
        raise typer.Exit(late.exit_code)
    if is_late:
        raise late


def _send_files(
    site: Site, paths: list[Path], to: str, priority: Priority, left_out: list[dict[str, str]], *, quiet: bool
) -> list[str]:
    files = [file for path in paths for file in _files_below(path)]
    if not files or len(files) > FILES_MAX:
        raise UsageError("there are no files there" if not files else f"more than {FILES_MAX} files at once")
    from raypost.node.dicom_process import make_intake  # loaded here alone: it would double the time of every command

    intake, by_case = make_intake(site), dict[int, list[int]]()
    for number, file in enumerate(files, 1):
        if not quiet and console.is_terminal:
            console.print(f"\rtaking in {number} of {len(files)}", end="", markup=False)
        try:
            filed = intake.take_file(file)
        except BadInputError as error:
            left_out.append({"file": str(file), "why": error.what})
            continue
        by_case.setdefault(filed.case_id, []).append(filed.instance_id)
    if not quiet:
        console.print()
    if not by_case:
        raise UsageError("none of the files is DICOM that can be read")
    route = make_route(site)
    return [route.send_instances(case_id, found, to, priority, person()) for case_id, found in by_case.items()]


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"there is no {path}")
    return sorted(one for one in path.rglob("*") if one.is_file() and one.name.upper() != "DICOMDIR")


def _wait(site: Site, transfer_keys: list[str], wait_s: float) -> list[dict[str, Any]]:
    pause, waited_s = threading.Event(), 0.0
    while True:
        with site.archive.database.transaction() as tx:
            shapes = [search.transfer(tx, one) for one in transfer_keys]
        if waited_s >= wait_s or all(one["state"] in ("delivered", "unconfirmed") for one in shapes):
            return [
                {name: value for name, value in one.items() if name not in ("messages", "events")} for one in shapes
            ]
        pause.wait(LOOK_S)
        waited_s += LOOK_S


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
    transfer_key: TransferKey, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Show one transfer: parcels with times and sizes, and everything that happened.

    Example: raypost transfer show n5k7q2xw3m6r4j2m
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.transfer(tx, transfer_key)

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
            count = order_again(tx, locked, site.settings.limits_of_transfers(), site.clock.now(), person())
    shape = {"transfer_key": transfer_key, "messages": count}
    answer(as_json, shape, lambda: console.print(f"{count} mails are sent again."))
