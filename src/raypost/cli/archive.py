"""Commands about studies and quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import cases, events, search
from raypost.cli import study_text
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
from raypost.dicom.jobs import NATIVE
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.node.site import Site, opened_site

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost study list` shows it.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    study = typer.Typer(help="Studies in the archive.", no_args_is_help=True)
    study.command("list")(study_list)
    study.command("show")(study_show)
    study.command("export")(study_export)
    app.add_typer(study, name="study")
    quarantine = typer.Typer(help="What could not be used.", no_args_is_help=True)
    quarantine.command("list")(quarantine_list)
    quarantine.command("show")(quarantine_show)
    app.add_typer(quarantine, name="quarantine")
    app.command("events")(events_list)


@guarded
def study_list(
    config: ConfigOption = DEFAULT_CONFIG,
    text: Annotated[str, typer.Option(help="Look for this in names, numbers and descriptions.")] = "",
    with_withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Also those that their sender took back, with the reason.")
    ] = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest studies.

    Example: raypost study list --text müller
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.studies(tx, limit=limit, text=text, with_withdrawn=with_withdrawn)
        events.record(tx, site.clock.now(), EventKind.STUDIES_LISTED, who=person(), results=len(found))
    rows = [
        (
            one["study_key"],
            one["origin"],
            one["patient_name"],
            one["patient_id"],
            one["study_date"],
            one["description"],
            one["instances"],
            bytes_text(one["stored_bytes"]),
            study_text.remark(one),
        )
        for one in found
    ]
    columns = ("key", "from", "patient", "number", "date", "description", "instances", "stored", "remark")
    answer(as_json, found, lambda: show_table(columns, rows, "There are no studies yet."))


@guarded
def study_show(study_key: KeyArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show one study: whose it is, who has it, who opened it, what was corrected, its series and transfers.

    Example: raypost study show k3v7qj2m4xw6a
    """
    settings = settings_of(config)
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        found = search.study(tx, study_key)
        case_id = search.case_by_key(tx, study_key).id
        events.record(tx, site.clock.now(), EventKind.STUDY_SHOWN, case_id=case_id, who=person())
    answer(as_json, found, lambda: study_text.show(found, settings.zone))


@guarded
def study_export(
    study_key: KeyArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; made when missing.")],
    config: ConfigOption = DEFAULT_CONFIG,
    native: Annotated[bool, typer.Option(help="Write Explicit VR Little Endian instead of the kept JPEG-LS.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a study as DICOM files, named by a counter.

    Example: raypost study export k3v7qj2m4xw6a /tmp/out --native
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            case = search.case_by_key(tx, study_key)
            found = [one.sha256 for one in cases.instances_of_case(tx, case.id)]
        written: list[Path] = []
        try:
            _write_files(site, found, folder, written, native=native)
        finally:  # what has left the archive is recorded, no more and no less
            if written:
                with site.archive.database.transaction() as tx:
                    now, count = site.clock.now(), len(written)
                    events.record(tx, now, EventKind.EXPORTED, case_id=case.id, instances=count, who=person())
    shape = {"folder": str(folder), "files": len(written)}
    answer(as_json, shape, lambda: console.print(f"{len(written)} files in {folder}.", markup=False))


def _write_files(site: Site, found: list[str], folder: Path, written: list[Path], *, native: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", do="Choose another folder.") from error
    targets = [folder / f"{number:06d}.dcm" for number in range(1, len(found) + 1)]
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists already", do="Choose an empty folder.")
    for sha256, target in zip(found, targets, strict=True):
        site.archive.blobs.verify(sha256)
        if native:
            arguments = {"transfer_syntax_uid": "1.2.840.10008.1.2.1"}
            site.sandbox.run(NATIVE, site.archive.blobs.path(sha256), target, arguments)
        else:
            site.archive.blobs.copy_to(sha256, target)
        written.append(target)


@guarded
def quarantine_list(
    config: ConfigOption = DEFAULT_CONFIG, limit: LimitOption = 50, as_json: JsonOption = False
) -> None:
    """List what could not be used, newest first.

    Example: raypost quarantine list
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.quarantined(tx, limit)
    rows = [
        (one["quarantine_key"], one["put_at"], one["source"], one["origin"], one["code"], one["what"]) for one in found
    ]
    answer(
        as_json,
        found,
        lambda: show_table(("key", "since", "by", "from", "code", "why"), rows, "Nothing is in quarantine."),
    )


@guarded
def quarantine_show(
    quarantine_key: Annotated[str, typer.Argument(metavar="KEY", help="As `raypost quarantine list` shows it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show one quarantined object and where its bytes are.

    Example: raypost quarantine show q5x2c7d4m3k6a
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            found = next((one for one in search.quarantined(tx, 1000) if one["quarantine_key"] == quarantine_key), None)
        if found is None:
            raise UsageError(
                f"nothing in quarantine has the key {quarantine_key!r}", do="`raypost quarantine list` shows them."
            )
        found["file"] = str(site.archive.spool.path(found["file"])) if found["file"] else ""

    def _show() -> None:
        for name, value in found.items():
            console.print(f"{name.replace('_', ' '):16} {value}", markup=False)

    answer(as_json, found, _show)


@guarded
def events_list(config: ConfigOption = DEFAULT_CONFIG, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """List what happened, newest first.

    Example: raypost events --limit 20
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found: list[dict[str, Any]] = [
            {
                "at": one.at.isoformat(timespec="milliseconds"),
                "kind": one.kind.value,
                "level": one.level.value,
                "fields": dict(one.fields),
            }
            for one in events.latest(tx, limit)
        ]
    rows = [
        (
            one["at"],
            one["level"],
            one["kind"],
            " ".join(f"{name}={value}" for name, value in one["fields"].items() if value is not None),
        )
        for one in found
    ]
    answer(as_json, found, lambda: show_table(("at", "level", "event", ""), rows, "Nothing happened yet."))
