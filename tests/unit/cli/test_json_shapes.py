"""The answers of every command with --json: keys and types as in shapes/, so that scripts can rely on them.

`UPDATE_SHAPES=1 pytest tests/unit/cli` writes the files anew; a change there is a change for those who read them.
"""

import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from raypost.archive import quarantine, search
from raypost.archive.embedded import EmbeddedPostgres
from raypost.cli.app import app
from raypost.errors import BadInputError
from raypost.lab.sample_studies import tiny_ct, write_study
from raypost.node.demo_network import DemoNetwork
from raypost.node.site import opened_site
from raypost.node.worker_process import MailBell, declare_relays, make_pack
from raypost.sealing.certificates import CardAddress, SiteCard, write_card
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load

SHAPES = pathlib.Path(__file__).parent / "shapes"
OPEN = {"fields", "settings", "parcels", "partner_times"}
"""Entries whose own entries depend on what happened."""
OR_NULL = "null or"
"""Key that marks a shape which may be missing as a whole."""


class Desk:
    """A site without `raypost serve`, and what its administrator types."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.config = folder / "site" / "raypost.toml"

    def say(self, *arguments: object, exit_code: int = 0, config: bool = True) -> str:
        words = [*map(str, arguments), *(["-c", str(self.config)] if config else [])]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == exit_code, (words, done.exit_code, done.output, done.exception)
        return done.stdout

    def ask(self, *arguments: object, exit_code: int = 0, config: bool = True) -> Any:
        return json.loads(self.say(*arguments, "--json", exit_code=exit_code, config=config))


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raypost-cli-", dir="/tmp"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "site" / "data" / "postgresql").start()
    one = Desk(folder)
    try:
        found = one.ask(
            "init",
            folder / "site",
            "--name",
            "neustadt",
            "--address",
            "neustadt@stroke.example",
            "--relay",
            "localhost",
            "--calling",
            "CT1",
            config=False,
        )
        check_shape("init", found)
        text = one.config.read_text()
        for port in ("smtp_port = 465", "imap_port = 993", "port = 11112"):
            text = text.replace(port, port.split(" = ")[0] + " = 1")  # nobody listens there
        one.config.write_text(text)
        (folder / "site" / "relay-password").write_text("secret\n")
        _fill(one)
        yield one
    finally:
        server.stop()
        DemoNetwork.remove_leftovers(folder / "site" / "data")
        shutil.rmtree(folder, ignore_errors=True)


def _fill(desk: Desk) -> None:
    """A partner, a study on its way, something in quarantine."""
    keyring = KeyRing(desk.folder / "partner-keys")
    fingerprint = keyring.make_site_key("ludwigshafen", "ludwigshafen@stroke.example", 30, 30)
    card = desk.folder / "ludwigshafen.card"
    address = CardAddress("ludwigshafen@stroke.example", "main")
    card.write_text(
        write_card(
            SiteCard(
                "ludwigshafen",
                "Schlaganfallzentrum",
                "LUDWIGSHAFEN",
                (address,),
                fingerprint,
                keyring.export_certificate(fingerprint),
            )
        )
    )
    keyring.close()
    refused = desk.ask("partner", "add", card, "--fingerprint", "0" * 40, exit_code=2)
    check_shape("error", refused)
    check_shape("partner add", desk.ask("partner", "add", card, "--fingerprint", fingerprint))
    write_study(tiny_ct(datetime.now(UTC), seed=7), desk.folder / "ct")
    (desk.folder / "ct" / "notes.txt").write_text("not DICOM")
    sent = desk.ask("send", desk.folder / "ct", "--to", "ludwigshafen", exit_code=1)  # a file was left out
    check_shape("error", {"error": sent.pop("error")})
    check_shape("send", sent)
    with opened_site(load(desk.config)) as site:
        with site.archive.database.transaction() as tx:
            transfer_id = search.transfer_by_key(tx, sent["transfers"][0]["transfer_key"]).id
        declare_relays(site)
        make_pack(site, MailBell(threading.Event())).pack(transfer_id)
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        file = site.archive.spool.new_file("dcm")
        file.write_bytes(b"nothing")
        quarantine.put(
            tx,
            site.archive.spool,
            file,
            BadInputError("it is no DICOM"),
            source="dicom",
            origin="CT1",
            now=site.clock.now(),
        )


def shape_of(value: Any) -> Any:
    """Return keys and types; of a list the union of its items."""
    if isinstance(value, dict):
        return {
            name: "object" if name in OPEN and isinstance(one, dict) else shape_of(one)
            for name, one in sorted(value.items())
        }
    if isinstance(value, list):
        merged: Any = None
        for one in value:
            merged = merge(merged, shape_of(one))
        return [merged] if value else []
    return "null" if value is None else type(value).__name__


def merge(first: Any, second: Any) -> Any:
    """Return a shape that both have."""
    if first in (None, []) or first == second:
        return second
    if second in (None, []):
        return first
    whole = [one for one in (first, second) if one != "null"]
    if any(isinstance(one, dict) and OR_NULL in one for one in whole) or (
        len(whole) == 1 and not isinstance(*whole, str)
    ):
        inner = [one.get(OR_NULL, one) if isinstance(one, dict) else one for one in whole]
        return {OR_NULL: inner[0] if len(inner) == 1 else merge(*inner)}
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys(), "entries of one list with other keys"
        return {name: merge(first[name], second[name]) for name in first}
    if isinstance(first, list) and isinstance(second, list):
        return [merge(first[0], second[0])]
    assert isinstance(first, str) and isinstance(second, str), (first, second)
    return "|".join(sorted({*first.split("|"), *second.split("|")}))


def check_shape(name: str, answer: Any) -> None:
    """Compare with the file; a null may stand for what is often there."""
    file, found = SHAPES / f"{name.replace(' ', '-')}.json", shape_of(answer)
    if os.environ.get("UPDATE_SHAPES"):
        before = json.loads(file.read_text()) if file.exists() else None
        file.write_text(json.dumps(merge(before, found), indent=2) + "\n")
    wanted = json.loads(file.read_text())
    assert merge(wanted, found) == wanted, f"the answer of `raypost {name} --json` has another shape"


def test_the_settings(desk: Desk) -> None:
    check_shape("config check", desk.ask("config", "check"))
    shown = desk.ask("config", "show")
    assert shown["site"]["name"] == "neustadt" and "secret" not in json.dumps(shown)
    check_shape("config show", shown)
    check_shape("db upgrade", desk.ask("db", "upgrade"))


def test_the_address_book(desk: Desk) -> None:
    check_shape("partner list", desk.ask("partner", "list"))
    check_shape("node add", desk.ask("node", "add", "pacs", "--ae-title", "PACS", "--host", "127.0.0.1", "--port", 1))
    check_shape("node list", desk.ask("node", "list"))
    unreachable = desk.ask("node", "echo", "pacs", exit_code=1)
    assert unreachable["error"]["code"] == "RP-101"
    check_shape("error", unreachable)
    check_shape("node remove", desk.ask("node", "remove", "pacs"))


def test_the_rules(desk: Desk) -> None:
    words = ("--modality", "CT", "--hours", "20:00-06:00", "--priority", "urgent", "--name", "night")
    check_shape("rule add", desk.ask("rule", "add", "--to", "ludwigshafen", *words))
    check_shape("rule list", desk.ask("rule", "list"))
    tested = desk.ask("rule", "test", "--called", "LUDWIGSHAFEN_N", "--at", "12:00")
    assert tested["send"] == [{"partner": "ludwigshafen", "priority": "emergency", "because": "ae:LUDWIGSHAFEN_N"}]
    assert tested["misfits"] == [{"rule": "night", "conditions": ["hours"]}]
    check_shape("rule test", tested)
    check_shape("rule remove", desk.ask("rule", "remove", "night"))


def test_studies_and_transfers(desk: Desk) -> None:
    (study,) = listed = desk.ask("study", "list")
    check_shape("study list", listed)
    check_shape("study show", desk.ask("study", "show", study["study_key"]))
    check_shape("study export", desk.ask("study", "export", study["study_key"], desk.folder / "out"))
    again = desk.ask("study", "export", study["study_key"], desk.folder / "out", exit_code=2)
    check_shape("error", again)
    (transfer,) = listed = desk.ask("transfer", "list")
    check_shape("transfer list", listed)
    check_shape("transfer show", desk.ask("transfer", "show", transfer["transfer_key"]))
    check_shape("transfer resend", desk.ask("transfer", "resend", transfer["transfer_key"]))


def test_who_waits_in_vain_gets_one_document_and_exit_code_3(desk: Desk) -> None:
    (study,) = desk.ask("study", "list")
    words = ("send", "--study", study["study_key"], "--to", "ludwigshafen", "--wait", "0.1")
    late = desk.ask(*words, exit_code=3)
    assert late["error"]["code"] == "RP-002" and late["transfers"][0]["state"] in ("announced", "streaming")
    check_shape("error", {"error": late.pop("error")})
    check_shape("send", late)
    assert "not delivered in time" not in desk.say(*words, exit_code=3)  # that goes to standard error


def test_quarantine_and_events(desk: Desk) -> None:
    (one,) = listed = desk.ask("quarantine", "list")
    check_shape("quarantine list", listed)
    shown = desk.ask("quarantine", "show", one["quarantine_key"])
    assert pathlib.Path(shown["file"]).read_bytes() == b"nothing"
    check_shape("quarantine show", shown)
    check_shape("events", desk.ask("events"))


def test_a_check_that_finds_faults_ends_with_1(desk: Desk) -> None:
    found = desk.ask("check", exit_code=1)
    assert found["good"] is False
    check_shape("check", found)


@pytest.mark.parametrize(
    "words",
    [
        ("study", "show", "nothing"),
        ("transfer", "show", "nothing"),
        ("transfer", "resend", "nothing"),
        ("quarantine", "show", "nothing"),
        ("rule", "remove", "nothing"),
        ("node", "remove", "nothing"),
        ("partner", "remove", "nothing"),
        ("send", "--to", "nobody", "/nowhere"),
        ("send", "--to", "ludwigshafen"),
        ("rule", "add"),
    ],
)
def test_wrong_use_is_2_and_says_what_to_do(desk: Desk, words: tuple[str, ...]) -> None:
    found = desk.ask(*words, exit_code=2)
    check_shape("error", found)
    assert found["error"]["code"] == "RP-001" and found["error"]["do"]


def test_the_site_itself_is_no_partner_to_be_removed(desk: Desk) -> None:
    desk.ask("partner", "remove", "neustadt", exit_code=2)
    check_shape("partner remove", desk.ask("partner", "remove", "ludwigshafen"))


def test_without_a_configuration_the_way_out_is_named(desk: Desk, tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(app, ["study", "list", "--json", "-c", str(tmp_path / "none.toml")])
    assert done.exit_code == 2
    assert "raypost init" in json.loads(done.stdout)["error"]["do"]
