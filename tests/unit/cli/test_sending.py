"""`raypost send`: what was taken in is sent, however it ends, and what is said of it is so."""

import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from raypost.archive import events, search
from raypost.archive.embedded import EmbeddedPostgres
from raypost.cli import sending
from raypost.cli.app import app
from raypost.errors import UnreachableError, UsageError
from raypost.lab.sample_studies import HeadCtSpec, head_ct, tiny_ct, write_study
from raypost.model.audit import EventKind
from raypost.node.site import opened_site
from raypost.sealing.certificates import CardAddress, SiteCard, write_card
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load
from raypost.stations.intake import Intake
from raypost.stations.route import Route
from tests.peers.caretaker import Caretaker
from tests.unit.cli.test_json_shapes import Desk


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """A site with one partner, and what its administrator types; `raypost serve` does not run."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raypost-send-", dir="/tmp"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "site" / "data" / "postgresql")
    one, keyring = Desk(folder), KeyRing(folder / "partner-keys")
    with Caretaker() as caretaker:
        caretaker.stop_server(server.data)
        caretaker.remove(folder, server.root, server.sockets)
        try:
            server.start()
            words = ("--name", "neustadt", "--address", "neustadt@stroke.example", "--relay", "localhost")
            one.ask("init", folder / "site", *words, "--calling", "CT1", config=False)
            text = one.config.read_text()
            for port in ("smtp_port = 465", "imap_port = 993", "port = 11112"):
                text = text.replace(port, port.split(" = ")[0] + " = 1")  # nobody listens there
            one.config.write_text(text)
            (folder / "site" / "relay-password").write_text("secret\n")
            address = CardAddress("ludwigshafen@stroke.example", "main")
            fingerprint = keyring.make_site_key("ludwigshafen", address.address, 30, 30)
            certificate = keyring.export_certificate(fingerprint)
            card = SiteCard("ludwigshafen", "Zentrum", "LUDWIGSHAFEN", (address,), fingerprint, certificate)
            (folder / "ludwigshafen.card").write_text(write_card(card))
            one.ask("partner", "add", folder / "ludwigshafen.card", "--fingerprint", fingerprint)
            yield one
        finally:
            keyring.close()
            server.stop()
            for left in (folder, server.root, server.sockets):
                shutil.rmtree(left, ignore_errors=True)


@pytest.fixture
def study(tmp_path) -> pathlib.Path:
    """Three images of one study that was never seen here."""
    begin = datetime.now(UTC)
    spec = HeadCtSpec(study_at=begin, slices=3, size_px=64, has_localizer=False, seed=begin.microsecond)
    write_study(head_ct(spec), tmp_path / "ct")
    return tmp_path / "ct"


def look(desk: Desk, sql: str, **values: object) -> list[sa.Row]:
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        return list(tx.execute(sa.text(sql), values))


def fail_at(monkeypatch, number: int, error: BaseException) -> None:
    """Taking in ends at the file of this number."""
    real, count = Intake.take_file, iter(range(1, 1000))

    def _take(self, file, **words):
        if next(count) == number:
            raise error
        return real(self, file, **words)

    monkeypatch.setattr(Intake, "take_file", _take)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), UnreachableError("the database does not answer")], ids=["Ctrl-C", "database"]
)
def test_what_was_taken_in_before_it_ended_is_sent(desk, study, monkeypatch, error) -> None:
    fail_at(monkeypatch, 3, error)
    said = desk.ask("send", study, "--to", "ludwigshafen", exit_code=3)
    (sent,) = said["transfers"]
    assert sent["instances"] == 2, "no image is here without being on its way"
    assert "2 of 3 files" in said["error"]["what"] and "on their way" in said["error"]["meaning"]
    assert "Nothing was" not in json.dumps(said)
    monkeypatch.undo()
    again = desk.ask("send", study, "--to", "ludwigshafen")
    assert again["transfers"][0]["instances"] == 3 and again["transfers"][0]["transfer_key"] == sent["transfer_key"]


def test_nothing_was_taken_in(desk, study, monkeypatch) -> None:
    fail_at(monkeypatch, 1, KeyboardInterrupt())
    said = desk.ask("send", study, "--to", "ludwigshafen", exit_code=3)
    assert said["error"]["meaning"] == "Nothing was changed and nothing was sent."


def test_one_study_that_cannot_be_ordered_stops_no_other(desk, study, tmp_path, monkeypatch) -> None:
    write_study(tiny_ct(datetime.now(UTC), seed=datetime.now(UTC).microsecond), study / "other")
    real, count = Route.send_instances, iter(range(10))

    def _send(self, *words):
        if next(count) == 0:
            raise UnreachableError("the database does not answer")
        return real(self, *words)

    monkeypatch.setattr(Route, "send_instances", _send)
    said = desk.ask("send", study, "--to", "ludwigshafen", exit_code=3)
    assert len(said["transfers"]) == 1
    assert "Of the 2 studies they belong to 1 are on their way" in said["error"]["meaning"]


def test_files_that_are_left_out_are_named_and_counted(desk, study) -> None:
    (study / "notes.txt").write_text("no DICOM")
    (study / "DICOMDIR").write_text("lists the others")
    said = desk.ask("send", study, "--to", "ludwigshafen", exit_code=1)
    assert said["transfers"][0]["instances"] == 3
    assert [pathlib.Path(one["file"]).name for one in said["left_out"]] == ["notes.txt"]
    assert said["error"]["code"] == "RP-300" and "1 of the files" in said["error"]["what"]


def test_never_to_oneself(desk, study) -> None:
    said = desk.ask("send", study, "--to", "neustadt", exit_code=2)
    assert "itself" in said["error"]["what"]
    with opened_site(load(desk.config)) as site:
        (key,) = (one["study_key"] for one in _studies(site))
        with pytest.raises(UsageError, match="itself"):
            sending.make_route(site).send_study(key, "neustadt", sending.Priority.ROUTINE, "anna")


def _studies(site) -> list[dict]:
    with site.archive.database.transaction() as tx:
        return search.studies(tx, limit=1)


def test_who_waits_for_an_unconfirmed_one_is_told_so(desk, study) -> None:
    (sent,) = desk.ask("send", study, "--to", "ludwigshafen")["transfers"]
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        tx.execute(
            sa.text("update rp_transfer set state = 'unconfirmed' where transfer_key = :key"),
            {"key": sent["transfer_key"]},
        )
    with opened_site(load(desk.config)) as site:
        shapes = sending._wait(site, [sent["transfer_key"]], 5.0)
    error = sending._not_there(shapes, 5.0)
    assert error is not None and error.exit_code == 1
    assert "did not confirm" in error.what and "still on its way" not in error.meaning


def test_an_export_is_recorded_by_what_was_written(desk, study, tmp_path) -> None:
    (sent,) = desk.ask("send", study, "--to", "ludwigshafen")["transfers"]
    before = len(_exports(desk))
    out = tmp_path / "out"
    out.mkdir()
    (out / "000002.dcm").write_bytes(b"")
    desk.ask("study", "export", sent["study_key"], out, exit_code=2)
    assert [one.name for one in out.iterdir()] == ["000002.dcm"], "nothing is written into a folder that is not empty"
    assert len(_exports(desk)) == before
    (row,) = look(
        desk,
        "select i.sha256 from rp_instance i join rp_case c on c.id = i.case_id where c.study_key = :k"
        " order by i.instance_number offset 1 limit 1",
        k=sent["study_key"],
    )
    with opened_site(load(desk.config)) as site:
        site.archive.blobs.path(row.sha256).unlink()
    desk.ask("study", "export", sent["study_key"], tmp_path / "half", exit_code=1)
    assert len(list((tmp_path / "half").iterdir())) == 1
    assert [one.fields["instances"] for one in _exports(desk)[before:]] == [1], "what left the archive, no more"


def _exports(desk: Desk) -> list[events.Happened]:
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        return [one for one in reversed(events.latest(tx, 1000)) if one.kind is EventKind.EXPORTED]


def test_all_that_happened_to_a_long_transfer(desk, study) -> None:
    (sent,) = desk.ask("send", study, "--to", "ludwigshafen")["transfers"]
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        row = search.transfer_by_key(tx, sent["transfer_key"])
        for number in range(1, 2101):
            events.record(tx, site.clock.now(), EventKind.SENT, transfer=row, number=number)
        newest = events.of_transfer(tx, row.id, 5)
        assert [one.fields["number"] for one in newest] == [2096, 2097, 2098, 2099, 2100]
        first = events.of_transfer(tx, row.id, 3, after=0)
        then = events.of_transfer(tx, row.id, 3, after=first[-1].position.event_id)
        assert first[0].kind is EventKind.TRANSFER_OPENED
        assert first[-1].position.event_id < then[0].position.event_id < then[-1].position.event_id
        total = events.count_of_transfer(tx, row.id)
    shown = desk.ask("transfer", "show", sent["transfer_key"])
    assert shown["events"][-1]["fields"]["number"] == 2100, "the newest last"
    assert len(shown["events"]) == 1000 and shown["events_left_out"] == total - 1000
    assert f"{total - 1000} older events" in desk.say("transfer", "show", sent["transfer_key"])
    every = desk.ask("transfer", "show", sent["transfer_key"], "--all")
    assert len(every["events"]) == total and every["events_left_out"] == 0
    assert [one["fields"].get("number") for one in every["events"]][-2100:] == list(range(1, 2101))


def test_our_own_title_is_no_partners(desk) -> None:
    """Checked when a partner is added, and by `raypost check`, since raypost.toml may change later."""
    text = desk.config.read_text()
    try:
        desk.config.write_text(text.replace('ae_title = "RAYPOST"', 'ae_title = "LUDWIGSHAFEN_N"'))
        fingerprint = next(one["fingerprint"] for one in desk.ask("partner", "list") if not one["self"])
        card = desk.folder / "ludwigshafen.card"
        refused = desk.ask("partner", "add", card, "--fingerprint", fingerprint, exit_code=2)
        assert "this site's own" in refused["error"]["what"]
        found = {one["name"]: one for one in desk.ask("check", exit_code=1)["findings"]}
        assert not found["AE titles"]["good"] and "ludwigshafen" in found["AE titles"]["what"]
    finally:
        desk.config.write_text(text)
    found = {one["name"]: one for one in desk.ask("check", exit_code=1)["findings"]}
    assert found["AE titles"]["good"]


def test_help_names_an_example() -> None:
    assert "Example: raypost send" in CliRunner().invoke(app, ["send", "--help"]).output
