"""Persons by the command line: what is typed, what scripts get, who may act in whose name."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from raypost.archive import sign_in
from raypost.archive.database import create_database
from raypost.archive.sign_in import SignedIn
from raypost.cli import output, users
from raypost.cli.app import app
from raypost.node.site import opened_site
from raypost.settings import load
from tests.unit.cli.test_json_shapes import Desk, check_shape
from tests.unit.cli.test_transfer_commands import Seat

GOOD = "grey lamp under seven hats"


@pytest.fixture
def desk(neustadt) -> Seat:
    """A site whose administrator is anna."""
    seat = Seat(neustadt)
    seat.ask("user", "add", "anna", "--role", "administrator", "--display-name", "Anna Amt")
    return seat


@pytest.fixture
def keller(desk) -> None:
    desk.ask("user", "add", "keller", "--role", "physician", "--display-name", "Dr. Keller", "--phone", "+49 621 1")


def typed(desk: Desk, text: str, *words: str, exit_code: int = 0):
    """Run a command with something on standard input."""
    done = CliRunner().invoke(app, [*words, "--json", "-c", str(desk.config)], input=text)
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout)


def test_every_answer_has_its_shape(desk, keller) -> None:
    added = ("user", "add", "weber", "--role", "technologist", "--role", "auditor", "--display-name", "W. Weber")
    check_shape("user add", desk.ask(*added, "--why", "new"))
    check_shape("user role", desk.ask("user", "role", "keller", "--add", "coordinator", "--why", "network"))
    check_shape("user disable", desk.ask("user", "disable", "keller", "--why", "left"))
    check_shape("user list", desk.ask("user", "list"))
    check_shape("user enable", desk.ask("user", "enable", "keller", "--why", "back"))
    check_shape("user password", typed(desk, f"{GOOD}\n", "user", "password", "keller", "--one-time"))


def test_what_is_shown_to_people(desk, keller) -> None:
    said = desk.say("user", "role", "keller", "--add", "coordinator", "--remove", "physician", "--why", "now that")
    assert said == "Dr. Keller: coordinator.\n"
    assert "may do nothing here any more" in desk.say("user", "disable", "keller", "--why", "left")
    listed = desk.read("user", "list")
    assert "Anna Amt administrator" in listed and "disabled since 20" in listed and "+49 621 1" in listed
    assert "again as coordinator" in desk.say("user", "enable", "keller")


def test_a_password_comes_from_standard_input_and_lets_in(desk, keller) -> None:
    typed(desk, f"{GOOD}\r\nmore\n", "user", "password", "keller")
    with desk.site.archive.database.transaction() as tx:
        found = sign_in.sign_in(tx, "keller", GOOD, desk.site.clock.now())
    assert isinstance(found, SignedIn) and not found.must_change_password
    for wrong in ("", "short\n", "Dr. Keller 1234\n", "x" * 300):
        refused = typed(desk, wrong, "user", "password", "keller", exit_code=2)
        assert refused["error"]["code"] == "RP-001"
        assert not wrong.strip() or wrong.strip() not in json.dumps(refused)
    assert desk.ask("user", "list")[1]["has_password"]


def test_a_password_is_asked_for_twice_at_a_terminal(desk, keller, monkeypatch) -> None:
    said = iter([GOOD, "another one", GOOD, GOOD])
    monkeypatch.setattr(users.getpass, "getpass", lambda words: next(said))
    monkeypatch.setattr(users.sys, "stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    for outcome in (pytest.raises(users.UsageError, match="not the same"), None):
        if outcome is None:
            assert users._asked_for("keller") == GOOD
        else:
            with outcome:
                users._asked_for("keller")


def test_a_password_is_no_argument(desk, keller) -> None:
    done = CliRunner().invoke(app, ["user", "password", "keller", GOOD, "-c", str(desk.config)])
    assert done.exit_code == 2 and "unexpected extra argument" in done.output.lower()


def test_the_last_administrator_is_kept_and_nothing_half_done(desk, keller) -> None:
    refused = desk.ask("user", "disable", "anna", exit_code=2)
    check_shape("error", refused)
    assert "last active administrator" in refused["error"]["what"]
    desk.ask("user", "role", "anna", "--add", "auditor", "--remove", "administrator", exit_code=2)
    assert desk.ask("user", "list")[0]["roles"] == ["administrator"], "all of it or none"
    desk.ask("user", "role", "anna", exit_code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("add", "Keller", "--role", "physician", "--display-name", "K"),
        ("add", "keller", "--role", "physician", "--display-name", "Dr. K"),
        ("add", "keller2", "--role", "physician", "--display-name", "Dr. Keller"),
        ("add", "x", "--role", "king", "--display-name", "X"),
        ("add", "x", "--display-name", "X"),
        ("add", "x", "--role", "auditor", "--display-name", " "),
        ("role", "nobody", "--add", "auditor"),
        ("enable", "keller"),
        ("disable", "nobody"),
    ],
)
def test_wrong_uses(desk, keller, words) -> None:
    before = desk.ask("user", "list")
    done = CliRunner().invoke(app, ["user", *words, "-c", str(desk.config)])
    assert done.exit_code == 2
    assert desk.ask("user", "list") == before


def test_who_typed_it_stands_in_the_event(desk, monkeypatch) -> None:
    monkeypatch.setenv("SUDO_USER", "anna")
    desk.ask("user", "add", "weber", "--role", "auditor", "--display-name", "W. Weber", "--why", "audits")
    events = [one for one in desk.ask("events") if one["kind"] == "person changed"]
    assert {(one["fields"]["who"], one["fields"]["why"]) for one in events[:2]} == {("anna", "audits")}
    monkeypatch.delenv("SUDO_USER")
    assert output.person() != "anna"


@pytest.fixture
def there(ludwigshafen, neustadt, postman, head) -> Seat:
    """A centre that received a study."""
    neustadt.receive(head[0])
    postman.pass_time(60)
    return Seat(ludwigshafen)


def test_acts_in_a_persons_name_are_checked_against_the_table(there) -> None:
    def _add(name: str, role: str) -> None:
        there.ask("user", "add", name, "--role", role, "--display-name", f"Dr. {name.title()}")

    _add("anna", "administrator"), _add("keller", "physician"), _add("tech", "technologist")
    study = there.study()
    for act, who, says in (
        ("open", "Dr. Nobody", "no person"),
        ("open", "anna", "anna may not open a study"),
        ("take", "tech", "tech may not take a case"),
    ):
        refused = there.ask("study", act, study, "--who", who, exit_code=2)
        check_shape("error", refused)
        assert refused["error"]["code"] == "RP-003" and says in refused["error"]["what"]
    there.ask("user", "disable", "keller", "--why", "stolen password")
    assert "disabled since" in there.ask("study", "take", study, "--who", "keller", exit_code=2)["error"]["what"]
    assert there.site.rows("select 1 from rp_opening") == []
    events = there.site.rows("select fields from rp_event where kind = 'right refused' order by id")
    assert [(one[0]["person"], one[0]["right"]) for one in events] == [
        ("nobody of this site", "open a study"),
        ("anna", "open a study"),
        ("tech", "take a case"),
        ("keller", "take a case"),
    ]
    there.ask("user", "enable", "keller")
    assert there.ask("study", "open", study, "--who", "tech")["who"] == "Dr. Tech"
    assert there.ask("study", "open", study, "--who", "Dr. Keller")["who"] == "Dr. Keller"
    assert there.ask("study", "take", study, "--who", "keller")["asked"]


def init(folder, server, *words, exit_code=0, **environment):
    """Run `raypost init` as an administrator does."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "raypost",
            "init",
            str(folder),
            "--name",
            "worms",
            "--address",
            "worms@x.test",
            *words,
            "--json",
        ],
        env={**os.environ, "RAYPOST_DATABASE_URL": server, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_code, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_init_makes_the_first_administrator(tmp_path, server) -> None:
    url = server.url(f"init_{os.getpid()}")
    create_database(server.url(), f"init_{os.getpid()}")
    secret = tmp_path / "first-password"
    wrong = init(tmp_path / "a", url, SUDO_USER="DOMAIN\\Anna", exit_code=2)
    assert "--administrator" in wrong["error"]["do"] and not (tmp_path / "a").exists()
    found = init(tmp_path / "a", url, "--administrator-password-file", str(secret), SUDO_USER="Anna")
    assert found["administrator"] == "anna"
    assert secret.stat().st_mode & 0o777 == 0o600
    desk = Desk(tmp_path)
    desk.config = tmp_path / "a" / "raypost.toml"
    desk.config.write_text(desk.config.read_text().replace("[database]", f'[database]\nurl = "{url}"'))
    (one,) = desk.ask("user", "list")
    assert (one["name"], one["roles"], one["has_password"]) == ("anna", ["administrator"], True)
    password = secret.read_text().strip()
    assert password not in desk.say("events", "--json")
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        entered = sign_in.sign_in(tx, "anna", password, site.clock.now())
    assert isinstance(entered, SignedIn) and entered.must_change_password
    again = init(tmp_path / "b", url, "--administrator-password-file", str(secret), exit_code=2)
    assert "exists already" in again["error"]["what"] and secret.read_text().strip() == password


def test_without_a_file_the_first_administrator_has_no_password(tmp_path, server) -> None:
    url = server.url(f"init_plain_{os.getpid()}")
    create_database(server.url(), f"init_plain_{os.getpid()}")
    found = init(tmp_path / "a", url, "--administrator", "m.amt")
    assert found["administrator"] == "m.amt"
    desk = Desk(tmp_path)
    desk.config = tmp_path / "a" / "raypost.toml"
    desk.config.write_text(desk.config.read_text().replace("[database]", f'[database]\nurl = "{url}"'))
    (one,) = desk.ask("user", "list")
    assert one["name"] == "m.amt" and not one["has_password"]
