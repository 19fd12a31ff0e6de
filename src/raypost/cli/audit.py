"""Commands about the audit trail; reading it is itself recorded in it."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import audit_chain, audit_reports, events, search
from raypost.archive.audit_chain import Head
from raypost.cli.local_time import local_text
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    guarded,
    person,
    settings_of,
    show_table,
)
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.node.audit_trail import audit_trail_of
from raypost.node.site import Site, opened_site

OUTCOMES = {0: "", 4: "failed", 8: "failed, serious"}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    audit = typer.Typer(help="The audit trail: who did what, and the proof that it stands as written.")
    audit.command("list")(audit_list)
    audit.command("verify")(audit_verify)
    audit.command("export")(audit_export)
    audit.command("who-saw")(audit_who_saw)
    app.add_typer(audit, name="audit", no_args_is_help=True)


@guarded
def audit_list(
    study: Annotated[str, typer.Option(metavar="KEY", help="Only what is about this study.")] = "",
    since: Annotated[str, typer.Option(help="Only from this instant on, in the site's time zone.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 100,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List the newest entries of the audit trail. That you looked is recorded.

    Example: raypost audit list --study k3v7qj2m4xw6a --since "2026-11-24 03:00"
    """
    settings = settings_of(config)
    with opened_site(settings) as site:
        begin = _instant(since, settings.zone) if since else None
        _catch_up(site)
        with site.archive.database.transaction() as tx:
            case_id = search.case_by_key(tx, study).id if study else None
            found = audit_reports.entries(tx, case_id=case_id, since=begin, limit=limit)
            _record_use(tx, site, "list", case_id)
    rows = [
        (
            one["sequence"],
            local_text(one["at"], settings.zone),
            one["kind"],
            one["who"],
            one["place"],
            one["study_key"],
            OUTCOMES[one["outcome"]],
        )
        for one in found
    ]
    columns = ("number", "at", "what", "who", "at or to", "study", "outcome")
    answer(as_json, found, lambda: show_table(columns, rows, "The audit trail has no such entry."))


@guarded
def audit_verify(
    head: Annotated[
        str, typer.Option(metavar="SEQ:HASH", help="A head of the chain that was written down elsewhere.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Prove that no entry was changed, removed or put in between; ends with 1 and names the first that is wrong.

    Only a head that was kept elsewhere shows that the end was cut off, or everything written anew.

    Example: raypost audit verify --head 1204:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """
    elsewhere = _head(head) if head else None
    with opened_site(settings_of(config)) as site:
        _catch_up(site)
        with site.archive.database.transaction() as tx:
            verdict = audit_chain.verify(tx, elsewhere)
    is_good = verdict.broken_at is None
    shape = {
        "good": is_good,
        "rows": verdict.rows,
        "head": str(verdict.head),
        "broken_at": verdict.broken_at,
        "what": verdict.what,
    }

    def _show() -> None:
        if is_good:
            console.print(f"All {verdict.rows} entries stand as they were written.", markup=False)
        else:
            console.print(f"The chain breaks at entry {verdict.broken_at}: {verdict.what}.", markup=False)
            console.print(f"The {verdict.rows} entries before it stand as they were written.", markup=False)
        console.print(f"Head: {verdict.head}. Keep it elsewhere: --head compares with it later.", markup=False)

    answer(as_json, shape, _show)
    if not is_good:
        raise typer.Exit(1)


@guarded
def audit_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file; only you can read it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Write the whole audit trail into a file, a line of JSON for each entry. That you did is recorded.

    Example: raypost audit export audit-2026.jsonl
    """
    with opened_site(settings_of(config)) as site:
        _catch_up(site)
        head = Head(0, audit_chain.FIRST_HASH)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}", do="Name a new file.") from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            with site.archive.database.transaction() as tx:
                _record_use(tx, site, "export", None)
            with site.archive.database.transaction() as tx:
                for row in audit_chain.rows_after(tx, 0):
                    out.write(json.dumps(audit_reports.as_line(row), ensure_ascii=False) + "\n")
                    head = Head(row.sequence, row.hash)
    shape = {"file": str(file), "rows": head.sequence, "head": str(head)}
    answer(as_json, shape, lambda: console.print(f"{head.sequence} entries in {file}. Head: {head}", markup=False))


@guarded
def audit_who_saw(
    study_key: Annotated[str, typer.Argument(metavar="KEY", help="As `raypost study list` shows it.")],
    patient: Annotated[bool, typer.Option("--patient", help="Also the patient's other studies.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Report who saw a study: who opened, got, exported or corrected it. That you asked is recorded, and reported.

    Example: raypost audit who-saw k3v7qj2m4xw6a --patient
    """
    settings = settings_of(config)
    with opened_site(settings) as site:
        with site.archive.database.transaction() as tx:
            case_id = search.case_by_key(tx, study_key).id
            _record_use(tx, site, "who-saw", case_id)
        _catch_up(site)  # so that the question stands in its own answer
        with site.archive.database.transaction() as tx:
            case = search.case_by_key(tx, study_key)
            found = audit_reports.who_saw(tx, case, is_whole_patient=patient)
    rows = [
        (
            local_text(one["first_at"], settings.zone),
            one["who"],
            one["what"],
            one["place"],
            one["study_key"],
            one["times"],
            local_text(one["last_at"], settings.zone) if one["times"] > 1 else "",
        )
        for one in found
    ]
    columns = ("first", "who", "what", "at or by", "study", "times", "last")
    answer(as_json, found, lambda: show_table(columns, rows, "Nobody saw this study."))


def _catch_up(site: Site) -> None:
    """Have everything in the trail that happened until now, whether `raypost serve` runs or not."""
    audit_trail_of(site).catch_up()


def _record_use(tx: Any, site: Site, what: str, case_id: int | None) -> None:
    events.record(tx, site.clock.now(), EventKind.AUDIT_USED, case_id=case_id, who=person(), command=f"audit {what}")


def _instant(text: str, zone: tzinfo) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f'an instant looks like "2026-11-24 03:00", not {text!r}') from error
    return found if found.tzinfo is not None else found.replace(tzinfo=zone)


def _head(text: str) -> Head:
    if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", text):
        raise UsageError("a head is a number, a colon and 64 hexadecimal digits, as `raypost audit verify` prints it")
    sequence, _, digest = text.partition(":")
    return Head(int(sequence), digest)
