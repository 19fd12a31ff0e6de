"""What people say about a study on its way: transfer recall and reroute, study open, take and correct."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import contacts, corrections, openings, partners, people, recalls, rerouting, search, transfers
from raypost.archive.database import Transaction
from raypost.archive.rearm import rearm
from raypost.cli import study_text, transfer_text
from raypost.cli.identity_options import checked
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
from raypost.model.rights import Right
from raypost.node.site import Site, opened_site

TransferKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost transfer list` shows it.")]
StudyKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost study list` shows it.")]
WhyOption = Annotated[str, typer.Option(help="The reason; people at the other side read it.")]
WhoOption = Annotated[
    str, typer.Option(help="The person, as in `raypost user list`; default: the login name on this machine.")
]


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
            row = transfers.lock_with_case(tx, search.transfer_by_key(tx, transfer_key).id)
            if row is None:
                raise UsageError("the transfer is gone")
            needless = recalls.recall(tx, row, now, who=person(), why=why.strip())
            rearm(tx, row, limits, now)
            partner, is_told = _told(tx, transfer_key, "recall")
        for name in needless:
            site.archive.spool.discard(name)
    shape = {"transfer_key": transfer_key, "state": "recalled", "partner_told": is_told}
    text = (
        f"Nothing more is sent. {partner} is told; `raypost transfer show` has its answer: what became of the images."
    )
    if not is_told:
        text = f"Nothing more is sent. The version of {partner} does not know recalls: call {partner}."
    answer(as_json, shape, lambda: console.print(text, markup=False))


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
            row = transfers.lock_with_case(tx, search.transfer_by_key(tx, transfer_key).id)
            if row is None:
                raise UsageError("the transfer is gone")
            target = partners.partner_named(tx, to)
            rerouted = rerouting.reroute(tx, row, target, now, who=person(), why=why.strip())
            rearm(tx, rerouted.onward, limits, now)
            rearm(tx, row, limits, now)
            partner, is_told = _told(tx, transfer_key, "redirect")
            shape = {
                "transfer_key": transfer_key,
                "state": row.state,
                "rerouted_to": rerouted.onward.transfer_key,
                "to": to,
                "partner_told": is_told,
            }
        for name in rerouted.needless:
            site.archive.spool.discard(name)
    told = f"{partner} is told." if is_told else f"The version of {partner} does not know that: call {partner}."
    text = f"The study goes to {to} now, as transfer {shape['rerouted_to']}. {told}"
    answer(as_json, shape, lambda: console.print(text, markup=False))


@guarded
def transfer_export(
    transfer_key: TransferKey,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Write all that is known of a transfer into a new file: messages, events, story, both clocks; no patient data.

    Example: raypost transfer export n5k7q2xw3m6r4j2m story.json
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = transfer_text.known_of(tx, transfer_key, site.clock.now(), is_all=True)
        row = search.transfer_by_key(tx, transfer_key)
        offset_s, uncertainty_s = contacts.clock_of(tx, row.partner_id)
        found["partner_clock"] = {"offset_s": offset_s, "uncertainty_s": uncertainty_s}
        found["partner_times"] = dict(row.partner_times or {})
    try:
        with file.open("x", encoding="utf-8") as writer:
            writer.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError as error:
        raise UsageError(f"{file} exists already", do="Choose another name.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    shape = {"transfer_key": transfer_key, "file": str(file), "lines": len(found["story"])}
    answer(as_json, shape, lambda: console.print(f"A story of {shape['lines']} lines is in {file}.", markup=False))


@guarded
def study_open(
    study_key: StudyKey, who: WhoOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Note that a person opened a study; its sender is told.

    Example: raypost study open k3v7qj2m4xw6a --who keller
    """
    with opened_site(settings_of(config)) as site, _noted(site) as tx:
        case = search.case_by_key(tx, study_key)
        name = _in_the_name_of(tx, who, Right.OPEN_STUDY)
        is_told = openings.open_case(tx, case, site.clock.now(), name)
    shape = {"study_key": study_key, "who": name, "sender_told": is_told}
    text = f"Opened by {name}: {'the sender is told' if is_told else 'noted here, no partner is told'}."
    answer(as_json, shape, lambda: console.print(text, markup=False))


@guarded
def study_take(
    study_key: StudyKey, who: WhoOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Ask the sender for the responsibility for a case; its signed answer decides.

    Example: raypost study take k3v7qj2m4xw6a --who keller
    """
    with opened_site(settings_of(config)) as site, _noted(site) as tx:
        case = search.case_by_key(tx, study_key)
        holder = openings.ask_to_take(tx, case, site.clock.now(), _in_the_name_of(tx, who, Right.TAKE_CASE))
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
    changes = {name: checked(name, value) for name, value in given.items() if value is not None}
    if not changes:
        raise UsageError("say what is to be corrected, such as --patient-id")
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        case = transfers.lock_case(tx, search.case_by_key(tx, study_key).id)
        told = corrections.correct(tx, case, changes, site.clock.now(), who=person(), why=why.strip())
        found = search.study(tx, study_key)
    untold = sorted(_holders(found) - set(told))
    shape = {"study_key": study_key, "changed": sorted(changes), "partners_told": told, "partners_not_told": untold}
    answer(as_json, shape, lambda: console.print(_corrected_text(found, told, untold), markup=False))


@contextlib.contextmanager
def _noted(site: Site) -> Iterator[Transaction]:
    """Give a transaction for an act of a person; a refusal is written down though the act is rolled back."""
    database = site.archive.database
    with people.noting_refusals(database, site.clock.now()), database.transaction() as tx:
        yield tx


def _in_the_name_of(tx: Transaction, who: str, right: Right) -> str:
    """Return the name for an act: that of a person who may do it, or else the login name on this machine."""
    if not who.strip():
        return person()
    return people.require(tx, people.login_name_of(tx, who.strip()), right).display_name


def _told(tx: Transaction, transfer_key: str, kind: str) -> tuple[str, bool]:
    """Return a partner's name, and whether it is told: its version may not know that kind of message."""
    found = search.transfer(tx, transfer_key)
    return found["partner"], any(one["direction"] == "out" and one["kind"] == kind for one in found["messages"])


def _holders(study: Mapping[str, Any]) -> set[str]:
    """Return the partners that were sent a study and still have it, as far as we know."""
    return {one["partner"] for one in study["transfers"] if one["direction"] == "out" and one["state"] != "recalled"}


def _corrected_text(study: Mapping[str, Any], told: list[str], untold: list[str]) -> str:
    last = study["corrections"][-1]
    sentences = [f"Corrected: {'; '.join(study_text.changes(last))}."]
    if told:
        sentences.append(f"{', '.join(told)} {'is' if len(told) == 1 else 'are'} told.")
    sentences += [f"The version of {name} does not know corrections: call {name}." for name in untold]
    if not told and not untold:
        sentences.append("No partner has it.")
    return " ".join(sentences)
