"""Making a site: what is written, in which order, and that a failed attempt can be repeated."""

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypost.archive import partners
from raypost.archive.database import create_database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import NotNowError, UsageError
from raypost.model.site import Mailbox
from raypost.node.setup import RelayTemplate, Template, add_partner, make_site, own_addresses
from raypost.node.site import opened_site
from raypost.sealing.certificates import CardAddress, SiteCard, read_card, write_card
from raypost.sealing.openpgp import KeyRing
from raypost.settings import AuditSettings, LimitSettings, RelaySettings, SiteSettings, TransferSettings, load


@pytest.fixture
def template(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Template]:
    """A site whose database is there and empty."""
    database = f"made_{os.getpid()}_{abs(hash(request.node.name)) % 10**8}"
    create_database(server.url(), database)
    yield Template(
        "worms",
        "Klinikum Worms",
        "WORMS",
        "worms@raypost.test",
        database_lines=(f'url = "{server.url(database)}"',),
    )


def own(file: Path) -> tuple[str, str, str]:
    with opened_site(load(file)) as site, site.archive.database.transaction() as tx:
        it = partners.own_site(tx)
    return it.name, it.address, it.fingerprint


def test_an_attempt_that_failed_for_want_of_a_database_leaves_no_configuration(
    tmp_path: Path, template: Template
) -> None:
    folder = tmp_path / "site"
    wrong = replace(template, database_lines=('url = "postgresql://nobody@127.0.0.1:1/nowhere"',))
    with pytest.raises(NotNowError):
        make_site(folder, wrong)
    assert not list(folder.glob("raypost.toml*")), "whoever repeats it must not be told that the site exists"
    file, fingerprint = make_site(folder, template)
    assert own(file) == ("worms", "worms@raypost.test", fingerprint)
    with pytest.raises(UsageError, match="exists already"):
        make_site(folder, template)


def test_an_attempt_that_failed_for_want_of_gpg_can_be_repeated(
    tmp_path: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    with monkeypatch.context() as without_gpg:
        without_gpg.setenv("PATH", str(tmp_path))
        with pytest.raises(UsageError):
            make_site(folder, template)
    assert not list(folder.glob("raypost.toml*"))
    file, fingerprint = make_site(folder, template)
    assert own(file)[2] == fingerprint


def test_words_that_cannot_be_right_leave_nothing(tmp_path: Path, template: Template) -> None:
    for wrong in (replace(template, dicom_port=70_000), replace(template, name="Worms!")):
        with pytest.raises(UsageError):
            make_site(tmp_path / "site", wrong)
        assert not list((tmp_path / "site").glob("raypost.toml*"))


def test_each_relay_gets_a_table_and_a_password_file(tmp_path: Path) -> None:
    template = Template(
        "worms",
        "Klinikum Worms",
        "WORMS",
        "worms@north.test",
        relays=(
            RelayTemplate("north", "mail.north.test", "mail.north.test"),
            RelayTemplate(
                "south",
                "smtp.south.test",
                "imap.south.test",
                address="worms@south.test",
                password_file="south-password",
                ca_file="south-ca.pem",
            ),
        ),
    )
    found = tomllib.loads(template.text())["relay"]
    assert list(found) == ["north", "south"], "mail leaves by the first"
    assert found["north"]["username"] == "worms@north.test" and "address" not in found["north"]
    assert found["south"]["address"] == found["south"]["username"] == "worms@south.test"
    assert (found["south"]["smtp_host"], found["south"]["imap_host"]) == ("smtp.south.test", "imap.south.test")
    assert (found["north"]["password_file"], found["south"]["password_file"]) == ("relay-password", "south-password")
    assert found["south"]["ca_file"] == "south-ca.pem" and "ca_file" not in found["north"]


EXAMPLES = {
    ("dicom", "host"),
    ("dicom", "tls_certificate"),
    ("dicom", "tls_key"),
    ("dicom", "tls_client_ca"),
    ("dicom", "plain_allowed"),
    ("dicom.calling", "ae_title"),
    ("dicom.calling", "hosts"),
    ("database", "url"),
    ("database", "embedded_folder"),
    ("relay.main", "address"),
    ("relay.main", "ca_file"),
    ("audit", "syslog_host"),
    ("audit", "ca_file"),
}
"""Commented lines that show what could stand there; all others name the default."""


def test_commented_settings_name_their_defaults() -> None:
    sections = {
        "site": SiteSettings,
        "relay.main": RelaySettings,
        "transfer": TransferSettings,
        "limits": LimitSettings,
        "audit": AuditSettings,
    }
    section, checked = "", set()
    for line in Template("worms", "Klinikum Worms", "WORMS", "worms@raypost.test").text().splitlines():
        if found := re.match(r"(?:# )?\[+([\w.]+)\]+", line):
            section = found[1]
        elif (found := re.match(r"# (\w+) = ", line)) and (section, found[1]) not in EXAMPLES:
            (value,) = tomllib.loads(line.removeprefix("# ")).values()
            assert value == sections[section].model_fields[found[1]].default, line
            checked.add(found[1])
    assert {"receipt_timeout_s", "settle_s", "mail_size_max_bytes", "disk_free_min_bytes", "time_zone"} <= checked


def two_relays(**second: str) -> str:
    words = {"smtp_host": "smtp.south.test", "imap_host": "imap.south.test", "address": "worms@south.test", **second}
    return Template(
        "worms",
        "Klinikum Worms",
        "WORMS",
        "worms@north.test",
        relays=(
            RelayTemplate("north", "smtp.north.test", "imap.north.test"),
            RelayTemplate("south", **words),
        ),
    ).text()


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"address": "Worms@north.test"}, "address as relay.north, Worms@north.test"),
        ({"address": "", "username": "other"}, "address as relay.north, worms@north.test"),
        (
            {"smtp_host": "SMTP.north.test", "username": "worms@north.test"},
            "log-in for SMTP as relay.north, SMTP.north.test 465 worms@north.test",
        ),
        (
            {"imap_host": "imap.north.test", "username": "worms@north.test"},
            "log-in for IMAP as relay.north, imap.north.test 993 worms@north.test",
        ),
    ],
)
def test_a_relay_cannot_stand_there_twice(tmp_path: Path, second: dict[str, str], what: str) -> None:
    file = tmp_path / "raypost.toml"
    file.write_text(two_relays(**second))
    with pytest.raises(UsageError) as refused:
        load(file)
    assert refused.value.what.startswith(f"{file}: relay.south: has the same {what}; ")


def test_relays_that_share_a_server_or_a_name_alone_are_two(tmp_path: Path) -> None:
    file = tmp_path / "raypost.toml"
    file.write_text(two_relays(smtp_host="smtp.north.test", imap_host="imap.north.test"))
    assert list(load(file).relay) == ["north", "south"]
    file.write_text(two_relays(username="worms@north.test"))
    assert list(load(file).relay) == ["north", "south"]


def test_the_card_names_a_mailbox_on_each_relay(tmp_path: Path) -> None:
    south = RelayTemplate("south", address="worms@south.test", password_file="south-password")
    template = Template("worms", "Klinikum Worms", "WORMS", "worms@north.test", relays=(RelayTemplate("north"), south))
    file = tmp_path / "raypost.toml"
    file.write_text(template.text())
    assert own_addresses(load(file)) == (
        CardAddress("worms@north.test", "north"),
        CardAddress("worms@south.test", "south"),
    )


@pytest.fixture
def pair(tmp_path: Path, template: Template) -> tuple[Path, Path]:
    """A site on two relays, and the card of another one on the same two."""
    relays = tuple(
        RelayTemplate(name, address=f"worms@{name}.test", password_file=f"{name}-password")
        for name in ("north", "south")
    )
    file, _ = make_site(tmp_path / "worms", replace(template, relays=relays))
    keyring = KeyRing(tmp_path / "speyer-keys")
    fingerprint = keyring.make_site_key("speyer", "speyer@south.test", 30, 30)
    addresses = (CardAddress("speyer@south.test", "south"), CardAddress("speyer@north.test", "north"))
    card = SiteCard(
        "speyer", "Klinikum Speyer", "SPEYER", addresses, fingerprint, keyring.export_certificate(fingerprint)
    )
    keyring.close()
    (tmp_path / "speyer.card").write_text(write_card(card))
    return file, tmp_path / "speyer.card"


def test_a_partner_keeps_every_mailbox_of_its_card_in_its_order(pair: tuple[Path, Path]) -> None:
    file, card = pair
    with opened_site(load(file)) as site:
        add_partner(site, card, read_card(card.read_text()).fingerprint, "test")
        with site.archive.database.transaction() as tx:
            speyer, worms = partners.partner_named(tx, "speyer"), partners.own_site(tx)
    assert speyer.mailboxes == (Mailbox("south", "speyer@south.test"), Mailbox("north", "speyer@north.test"))
    assert (speyer.address, speyer.address_on("north")) == ("speyer@south.test", "speyer@north.test")
    assert worms.mailboxes == (Mailbox("north", "worms@north.test"), Mailbox("south", "worms@south.test"))


def test_a_partner_on_no_relay_of_ours_is_refused_with_the_names(pair: tuple[Path, Path]) -> None:
    file, card = pair
    elsewhere = replace(read_card(card.read_text()), addresses=(CardAddress("speyer@east.test", "east"),))
    card.write_text(write_card(elsewhere))
    with opened_site(load(file)) as site, pytest.raises(UsageError, match=r"east.*north, south"):
        add_partner(site, card, elsewhere.fingerprint, "test")


def test_password_files_are_for_the_owner_alone(tmp_path: Path, template: Template) -> None:
    make_site(tmp_path / "site", template)
    mode = (tmp_path / "site" / "relay-password").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
