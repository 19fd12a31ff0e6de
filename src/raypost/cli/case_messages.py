"""What people say about a study on its way: transfer recall and reroute, study open, take and correct."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import corrections, openings, partners, progress, recalls, rerouting, search, story, transfers
from raypost.archive.rearm import rearm
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    guarded,
    person,
    settings_of,
)
from raypost.errors import UsageError
from raypost.node.site import opened_site

TransferKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost transfer list` shows it.")]
StudyKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost study list` shows it.")]
WhyOption = Annotated[str, typer.Option(help="The reason; people at the other side read it.")]
WhoOption = Annotated[str, typer.Option(help="Who it is; default: the login name on this machine.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the groups `transfer` and `study`."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    transfer, study = groups["transfer"], groups["study"]
    if transfer is None or study is None:
        raise UsageError("the groups transfer and study come first")
    transfer.command("recall")(transfer_recall)
    transfer.command("reroute")(transfer_reroute)
    transfer.command("export")(transfer_export)
    study.command("open")(study_open)
    study.command("take")(study_take)
    study.command("correct")(study_correct)


@guarded
def transfer_recall(
    transfer_key: TransferKey, why: WhyOption, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Take a transfer back that was sent in error: the partner hides it and says what became of it.

    Example: raypost transfer recall n5k7q2xw3m6r4j2m --why "wrong patient"
    """
    with opened_site(settings_of(config)) as site:
        now, limits = site.clock.now(), site.settings.limits_of_transfers()
        with site.archive.database.transaction() as tx:
            row = transfers.lock(tx, search.transfer_by_key(tx, transfer_key).id)
            if row is None:
                raise UsageError("the transfer is gone")
            needless = recalls.recall(tx, row, now, who=person(), why=why)
            rearm(tx, row, limits, now)
        for name in needless:
            site.archive.spool.discard(name)
    shape = {"transfer_key": transfer_key, "state": "recalled"}
    answer(as_json, shape, lambda: console.print("The partner is told; its answer says what became of the images."))


@guarded
def transfer_reroute(
    transfer_key: TransferKey,
    to: Annotated[str, typer.Option(help="Name of the next centre.")],
    why: WhyOption = "ordered by a person",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Send the study to the next centre; the first one is told.

    Example: raypost transfer reroute n5k7q2xw3m6r4j2m --to mannheim
    """
    with opened_site(settings_of(config)) as site:
        now, limits = site.clock.now(), site.settings.limits_of_transfers()
        with site.archive.database.transaction() as tx:
            row = transfers.lock(tx, search.transfer_by_key(tx, transfer_key).id)
            if row is None:
                raise UsageError("the transfer is gone")
            onward = rerouting.reroute(tx, row, partners.partner_named(tx, to), now, who=person(), why=why)
            rearm(tx, onward, limits, now)
            rearm(tx, row, limits, now)
            shape = {"transfer_key": transfer_key, "state": row.state, "rerouted_to": onward.transfer_key, "to": to}
    answer(as_json, shape, lambda: console.print(f"transfer {shape['rerouted_to']} goes to {to} now", markup=False))


@guarded
def transfer_export(
    transfer_key: TransferKey,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Write everything that is known of a transfer into a file: messages, events, story, both clocks.

    Example: raypost transfer export n5k7q2xw3m6r4j2m story.json
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = search.transfer(tx, transfer_key)
        row = search.transfer_by_key(tx, transfer_key)
        found["progress"] = progress.of_transfer(tx, row, site.clock.now()).as_json()
        found["story"] = [line.as_json() for line in story.tell(tx, row)]
    try:
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    shape = {"transfer_key": transfer_key, "file": str(file), "lines": len(found["story"])}
    answer(as_json, shape, lambda: console.print(f"{shape['lines']} lines in {file}", markup=False))


@guarded
def study_open(
    study_key: StudyKey, who: WhoOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Note that a person opened a study; its sender is told.

    Example: raypost study open k3v7qj2m4xw6a --who "Dr. Keller"
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        case = search.case_by_key(tx, study_key)
        is_told = openings.open_case(tx, case, site.clock.now(), who or person())
    shape = {"study_key": study_key, "who": who or person(), "sender_told": is_told}
    answer(as_json, shape, lambda: console.print("The sender is told." if is_told else "Noted."))


@guarded
def study_take(
    study_key: StudyKey, who: WhoOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Ask the sender for the responsibility for a case; its signed answer decides.

    Example: raypost study take k3v7qj2m4xw6a --who "Dr. Keller"
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        case = search.case_by_key(tx, study_key)
        holder = openings.ask_to_take(tx, case, site.clock.now(), who or person())
    shape: dict[str, Any] = {"study_key": study_key, "asked": holder is None, "responsible": holder}
    text = f"{holder} has the case already." if holder else "Asked; `raypost study show` tells the sender's answer."
    answer(as_json, shape, lambda: console.print(text, markup=False))


@guarded
def study_correct(
    study_key: StudyKey,
    why: WhyOption,
    patient_name: Annotated[str | None, typer.Option(help="Family^Given")] = None,
    patient_id: Annotated[str | None, typer.Option(help="The patient's number.")] = None,
    issuer_of_patient_id: Annotated[str | None, typer.Option("--issuer", help="Who gave the number.")] = None,
    birth_date: Annotated[str | None, typer.Option(help="YYYYMMDD")] = None,
    sex: Annotated[str | None, typer.Option(help="M, F or O")] = None,
    accession_number: Annotated[str | None, typer.Option(help="The order's number.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Correct whose study it is; every partner that has it is told, and shows old and new.

    Example: raypost study correct k3v7qj2m4xw6a --patient-id 4711 --why "number mistyped"
    """
    given = {
        "patient_name": patient_name,
        "patient_id": patient_id,
        "issuer_of_patient_id": issuer_of_patient_id,
        "birth_date": birth_date,
        "sex": sex,
        "accession_number": accession_number,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise UsageError("say what is to be corrected, such as --patient-id")
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        case = transfers.lock_case(tx, search.case_by_key(tx, study_key).id)
        told = corrections.correct(tx, case, changes, site.clock.now(), who=person(), why=why)
    shape = {"study_key": study_key, "changed": sorted(changes), "partners_told": told}
    answer(as_json, shape, lambda: console.print(f"corrected; told: {', '.join(told) or 'nobody'}", markup=False))
