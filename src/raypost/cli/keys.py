"""Commands about keys: how long they last, renewing this site's, taking one out of use."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import greetings, key_news, partners
from raypost.cli.local_time import day_text
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
from raypost.node.setup import PRIMARY_VALIDITY_DAYS, SUBKEY_VALIDITY_DAYS
from raypost.node.site import Site, opened_site
from raypost.sealing.certificate_facts import CertificateFacts
from raypost.sealing.certificates import spell_fingerprint


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    key = typer.Typer(help="The keys by which sites sign and seal.", no_args_is_help=True)
    key.command("list")(key_list)
    key.command("renew")(key_renew)
    key.command("revocation")(key_revocation)
    key.command("revoke")(key_revoke)
    app.add_typer(key, name="key")


@guarded
def key_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the keys of this site and its partners, with their ends.

    Example: raypost key list
    """
    with opened_site(settings_of(config)) as site:
        now, zone = site.clock.now(), site.settings.zone
        with site.archive.database.transaction() as tx:
            known = partners.all_partners(tx)
        found: list[dict[str, Any]] = [
            {"name": one.name, "self": one.is_self} | _shape(site.keyring.facts(one.fingerprint), now) for one in known
        ]

    def _show() -> None:
        columns = ("name", "usable until", "state", "fingerprint")
        rows = [
            (
                one["name"] + (" (this site)" if one["self"] else ""),
                day_text(one["usable_until"], zone) if one["usable_until"] else "without end",
                one["unusable_because"] or "in order",
                spell_fingerprint(one["fingerprint"]),
            )
            for one in found
        ]
        show_table(columns, rows, "There are no keys yet: `raypost init` makes one.")

    answer(as_json, found, _show)


def _shape(facts: CertificateFacts, now: datetime) -> dict[str, Any]:
    until = facts.usable_until
    return {
        "fingerprint": facts.fingerprint,
        "usable_until": until.isoformat() if until is not None else None,
        "unusable_because": facts.unusable_reason_at(now) or None,
        "keys": [
            {
                "fingerprint": one.fingerprint,
                "signs": one.can_sign,
                "encrypts": one.can_encrypt,
                "created_at": one.created_at.isoformat(),
                "expires_at": one.expires_at.isoformat() if one.expires_at is not None else None,
                "works": one.works_at(now),
            }
            for one in facts.subkeys
        ],
    }


@guarded
def key_renew(
    days: Annotated[int, typer.Option(min=30, help="So many days the fresh keys last.")] = SUBKEY_VALIDITY_DAYS,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Renew this site's keys; the fingerprint stays. Partners take the fresh keys from the next hello, by themselves.

    Until a partner has them it is signed to by the old ones, so renew while these still last.

    Example: raypost key renew
    """
    with opened_site(settings_of(config)) as site:
        now, zone = site.clock.now(), site.settings.zone
        with site.archive.database.transaction() as tx:
            own = partners.own_site(tx)
        facts = site.keyring.renew_site_key(own.fingerprint, max(days, PRIMARY_VALIDITY_DAYS), days)
        certificate = site.keyring.export_certificate(own.fingerprint)
        with site.archive.database.transaction() as tx:
            key_news.note_renewed(tx, own, certificate, facts.usable_until, now, who=person())
            greetings.greet_all_now(tx, now)

    def _show() -> None:
        until = day_text(facts.usable_until, zone) if facts.usable_until else "without end"
        console.print(f"The keys of this site are renewed; usable until {until}.", markup=False)
        console.print(
            "Partners get them with the next hello. Make a backup now: `raypost backup FOLDER`.", markup=False
        )

    answer(as_json, {"name": own.name} | _shape(facts, now), _show)


@guarded
def key_revocation(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it: best on a stick for the safe.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave it in the key ring, too.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Take the revocation certificate out of the key ring into a file. With it this site's key can be stopped for ever.

    Example: raypost key revocation /media/stick/revocation.asc
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            own = partners.own_site(tx)
        text = site.keyring.revocation_certificate(own.fingerprint)
        _write_new(file, text)
        if not keep:
            site.keyring.take_out_revocation(own.fingerprint)
    said = f"Written to {file}. Lock it away: whoever has it can stop this site's key, and nothing else."
    answer(as_json, {"file": str(file), "kept": keep}, lambda: console.print(said, markup=False))


def _write_new(file: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", do="Name a file that is not there.") from error


@guarded
def key_revoke(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The revocation certificate.")],
    why: Annotated[str, typer.Option(help="Why; it is kept with the change.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Stop a site's key for ever by its revocation certificate: a partner's, or this site's own. It cannot be undone.

    Nothing is sealed to that key or believed of it any more. The site then makes a new key and gives out a new card.

    Example: raypost key revoke revocation.asc --why "laptop with the key ring stolen, told by telephone"
    """
    with opened_site(settings_of(config)) as site:
        name = _revoke(site, file, why.strip())
    said = f"The key of {name} is revoked. Nothing goes to it and nothing of it is believed any more."
    answer(as_json, {"name": name, "revoked": True}, lambda: console.print(said, markup=False))


def _revoke(site: Site, file: Path, why: str) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read") from error
    facts = site.keyring.revoke(text)
    with site.archive.database.transaction() as tx:
        owner = next((one for one in partners.all_partners(tx) if one.fingerprint == facts.fingerprint), None)
        if owner is None:
            raise UsageError("that key belongs to no site of the address book", do="It is revoked all the same.")
        key_news.note_revoked(tx, owner, site.clock.now(), who=person(), why=why)
    return owner.name
