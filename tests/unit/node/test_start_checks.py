"""What keeps a site from starting: each thing alone, all at once, and through the command line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypost.archive.database import create_database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.cli.app import app
from raypost.errors import UnsafeSettingsError, UsageError
from raypost.node.setup import RelayTemplate, Template, make_site
from raypost.node.start_checks import is_loopback, refuse_unsafe, unsafe
from raypost.settings import load

SOCKET_URL = 'url = "postgresql://raypost@/raypost?host=/var/run/postgresql"'


class Place:
    """The files of a site without a database, safe as `raypost init` leaves them, and what spoils them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "raypost.toml"
        relays = (RelayTemplate(), RelayTemplate("south", address="worms@south.test", password_file="south-password"))
        template = Template(
            "worms", "Klinikum Worms", "WORMS", "worms@raypost.test", relays, database_lines=(SOCKET_URL,)
        )
        self.write(template.text())
        for name in ("relay-password", "south-password"):
            self.write("grey lamp under seven hats\n", name)
        self.write("key", "dicom.key")
        for name in ("data", "data/keys", "data/blobs", "data/spool"):
            (folder / name).mkdir(mode=0o700)

    def write(self, text: str, name: str = "raypost.toml", mode: int = 0o600) -> None:
        (self.folder / name).touch(mode=mode)
        (self.folder / name).write_text(text)

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text, old
        self.file.write_text(text.replace(old, new, 1))

    def mode(self, name: str, mode: int) -> None:
        (self.folder / name).chmod(mode)

    def line(self, words: str) -> int:
        return next(number for number, line in enumerate(self.file.read_text().splitlines(), 1) if words in line)

    def found(self):
        return unsafe(self.file, load(self.file))

    def open_to_the_network(self) -> None:
        """DICOM for other machines as it should be."""
        self.change(
            '# host = "0.0.0.0" ',
            'host = "0.0.0.0"\ntls_certificate = "dicom.pem"\ntls_key = "dicom.key"\n# ',
        )


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [one for one in os.environ if one.startswith(("RAYPOST_", "PG"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def place(tmp_path) -> Place:
    tmp_path.chmod(0o700)
    return Place(tmp_path)


def test_what_init_leaves_is_safe(place) -> None:
    assert place.found() == []
    refuse_unsafe(place.file, load(place.file))


def test_dicom_for_other_machines_with_tls_and_known_hosts_is_safe(place) -> None:
    place.open_to_the_network()
    assert place.found() == []
    place.change("tls_certificate =", "plain_allowed = true\n# tls_certificate =")
    place.change("tls_key =", "# tls_key =")
    place.change("[relay.main]", '[[dicom.calling]]\nae_title = "CT1"\nhosts = ["10.1.2.3"]\n\n[relay.main]')
    assert place.found() == []


MODES = [
    ("data/keys", 0o755, "secret keys", "chmod 700"),
    ("data/keys", 0o710, "secret keys", "think of new ones"),
    ("data/blobs", 0o750, "images", "chmod 700"),
    ("data/spool", 0o701, "on their way", "chmod 700"),
    ("relay-password", 0o644, "relay-password", "chmod 600"),
    ("south-password", 0o640, "south-password", "chmod 600"),
    ("raypost.toml", 0o660, "changed by other users", "chmod 600"),
    ("raypost.toml", 0o602, "changed by other users", "chmod 600"),
    (".", 0o777, "could exchange raypost.toml", "chmod go-w"),
    (".", 0o770, "could exchange raypost.toml", "chmod go-w"),
]


@pytest.mark.parametrize(("name", "mode", "what", "do"), MODES)
def test_what_other_users_could_open_or_change(place, name, mode, what, do) -> None:
    place.mode("data", 0o711)
    place.mode(name, mode)
    (one,) = place.found()
    assert what in one.what and do in one.do and str((place.folder / name).absolute()) in f"{one.what} {one.do}"
    command = one.do.split(";")[0].split()
    assert command[0] == "chmod"
    subprocess.run(command, check=True)
    assert place.found() == [], "the command mends it"


@pytest.mark.parametrize(("name", "mode"), [("raypost.toml", 0o644), (".", 0o755), (".", 0o1777), ("dicom.key", 0o640)])
def test_what_others_may_see(place, name, mode) -> None:
    place.change('# tls_certificate = "dicom.pem"', 'tls_certificate = "dicom.pem"')
    place.change('# tls_key = "dicom.key"', 'tls_key = "dicom.key"')
    place.mode(name, mode)
    assert place.found() == []


def test_a_spool_that_an_earlier_version_made_does_not_keep_a_site_from_starting(place) -> None:
    place.mode("data/spool", 0o755)
    assert place.found() == [], "nobody gets through the closed data folder"


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_the_key_of_dicom_over_tls(place, mode) -> None:
    place.change('# tls_certificate = "dicom.pem"', 'tls_certificate = "dicom.pem"')
    place.change('# tls_key = "dicom.key"', 'tls_key = "dicom.key"')
    place.mode("dicom.key", mode)
    (one,) = place.found()
    assert "DICOM over TLS" in one.what and one.do == f"chmod 600 {place.folder / 'dicom.key'}"


def test_the_embedded_database() -> None:
    with tempfile.TemporaryDirectory(prefix="raypost-start-") as name:
        Path(name).chmod(0o711)  # as root the database's own user must be able to pass
        (Path(name) / "site").mkdir(mode=0o711)
        place = Place(Path(name) / "site")
        place.mode("data", 0o711)
        place.change(SOCKET_URL, "")
        server = EmbeddedPostgres(place.folder / "data" / "postgresql")
        assert server.root == place.folder / "data" / "postgresql"
        server.data.mkdir(parents=True)
        server.root.chmod(0o700), server.data.chmod(0o700)
        assert place.found() == []
        server.root.chmod(0o755), server.data.chmod(0o750)
        assert [one.do for one in place.found()] == [f"chmod 700 {server.root}", f"chmod 700 {server.data}"]


@pytest.mark.parametrize(
    "line",
    [
        'url = "postgresql://raypost:hunter2@/raypost?host=/var/run/postgresql"',
        'url = "postgresql://raypost@/raypost?host=/var/run/postgresql&password=hunter2"',
        f'{SOCKET_URL}\n# url = "postgresql://raypost:hunter2@db.hospital.example/raypost"',
        f'{SOCKET_URL}\n# password = "hunter2"',
        f"{SOCKET_URL}\n#secret='hunter2'",
        f"{SOCKET_URL}\n# -----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_secrets_in_the_settings(place, line) -> None:
    place.change(SOCKET_URL, line)
    (one,) = place.found()
    wrong = place.line(line.splitlines()[-1])
    assert f"{place.file}, line {wrong}" in one.what and "hunter2" not in f"{one.what} {one.do}"


def test_a_secret_that_is_a_setting_is_no_setting(place) -> None:
    place.change("[relay.main]", '[relay.main]\npassword = "hunter2"')
    with pytest.raises(UsageError, match="there is no such setting"):
        load(place.file)


@pytest.mark.parametrize("setting", ["smtp_security", "imap_security"])
@pytest.mark.parametrize("value", ["none", "plain", ""])
def test_mail_without_tls_cannot_be_set(place, setting, value) -> None:
    place.change("[relay.main]", f'[relay.main]\n{setting} = "{value}"')
    with pytest.raises(UsageError, match=rf"relay\.main\.{setting}.*'tls' or 'starttls'"):
        load(place.file)


@pytest.mark.parametrize("password", ["password", "ChangeMe", "worms", "worms@raypost.test", "geheim", "12345678"])
def test_default_passwords(place, password) -> None:
    place.write(f"{password}\n", "relay-password")
    (one,) = place.found()
    assert "try first" in one.what and f"line {place.line('password_file')}" in one.what
    assert "worms@raypost.test" in one.do, "whose it is"


TLS_ON = "sslmode=verify-full&sslrootcert=/etc/ssl/db.pem"


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("postgresql://raypost@/raypost?host=/var/run/postgresql", True),
        ("postgresql://raypost@localhost:5432/raypost", True),
        ("postgresql://raypost@[::1]/raypost", True),
        ("postgresql://raypost@127.0.0.1,localhost:5433/raypost", True),
        ("postgresql://raypost@db.example/raypost", False),
        ("postgresql://raypost@db.example/raypost?sslmode=prefer", False),
        ("postgresql://raypost@db.example/raypost?sslmode=require", False),
        ("postgresql://raypost@10.1.2.3/raypost?sslmode=disable", False),
        ("postgresql://raypost@localhost,db.example/raypost", False),
        ("postgresql://raypost@/raypost?host=db.example", False),
        ("postgresql://raypost@localhost/raypost?hostaddr=10.1.2.3", False),
        ("postgres://raypost@db.example/raypost", False),
        (f"postgresql://raypost@db.example/raypost?{TLS_ON}", True),
        ("postgresql://raypost@db.example/raypost?sslmode=verify-ca", True),
    ],
)
def test_the_way_to_the_database(place, url, is_safe) -> None:
    place.change(SOCKET_URL, f'url = "{url}"')
    found = place.found()
    assert (found == []) == is_safe
    if not is_safe:
        assert f"line {place.line('url =')}" in found[0].what and "verify-full" in found[0].do


def test_the_way_to_the_database_when_the_environment_says_where(place, monkeypatch) -> None:
    place.change(SOCKET_URL, 'url = "postgresql:///raypost"')
    assert place.found() == []
    monkeypatch.setenv("PGHOST", "db.example")
    assert len(place.found()) == 1
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert place.found() == []
    monkeypatch.delenv("PGSSLMODE")
    monkeypatch.setenv("RAYPOST_DATABASE_URL", "postgresql://raypost:hunter2@db.example/raypost")
    (one,) = place.found()
    assert "variable RAYPOST_DATABASE_URL" in one.what and "hunter2" not in f"{one.what} {one.do}"


def test_dicom_in_clear_for_other_machines(place) -> None:
    place.change('# host = "0.0.0.0" ', 'host = "0.0.0.0" # ')
    (one,) = place.found()
    assert "without TLS" in one.what and f"line {place.line('0.0.0.0')}" in one.what
    assert "tls_certificate" in one.do and "plain_allowed = true" in one.do
    place.change("# plain_allowed", "plain_allowed")
    assert place.found() == []


def test_dicom_in_clear_by_an_environment_variable(place, monkeypatch) -> None:
    monkeypatch.setenv("RAYPOST_DICOM__HOST", "10.1.2.20")
    (one,) = place.found()
    assert "variable RAYPOST_DICOM__HOST" in one.what


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_half_of_tls_is_none(place, name) -> None:
    place.change("ae_title =", f'{name} = "file.pem"\nae_title =')
    (one,) = place.found()
    assert f"{name} alone" in one.what and f"line {place.line(name)}" in one.what


def test_modalities_without_hosts(place) -> None:
    place.open_to_the_network()
    nodes = '[[dicom.calling]]\nae_title = "CT1"\nhosts = ["10.1.2.3"]\n[[dicom.calling]] # 2\nae_title = "MR1"\n'
    place.change("[relay.main]", f"{nodes}\n[relay.main]")
    (one,) = place.found()
    assert "calls itself MR1" in one.what and f"line {place.line('# 2')}:" in one.what and "hosts = [" in one.do
    place.change("tls_key =", 'tls_client_ca = "ca.pem"\ntls_key =')
    assert place.found() == [], "certificates say who it is"


@pytest.mark.parametrize(
    ("transport", "host", "is_safe"),
    [("udp", "arr.example.org", False), ("udp", "127.0.0.1", True), ("tls", "arr.example.org", True)],
)
def test_audit_messages_in_clear_for_other_machines(place, transport, host, is_safe) -> None:
    place.change('# syslog_host = "arr.example.org"', f'syslog_host = "{host}"')
    place.change('# syslog_transport = "tls"', f'syslog_transport = "{transport}"')
    found = place.found()
    assert len(found) == (not is_safe)
    assert all("name patients" in one.what and f"line {place.line('syslog_transport')}" in one.what for one in found)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        *((one, True) for one in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "/var/run", "")),
        *((one, False) for one in ("0.0.0.0", "::", "10.1.2.3", "localhost.example", "127.0.0.1.example")),
    ],
)
def test_loopback(host, is_ours) -> None:
    assert is_loopback(host) == is_ours


def spoil(place: Place) -> list[str]:
    """Spoil one thing of each kind; return a word of each finding."""
    place.mode("data/keys", 0o755)
    place.mode("relay-password", 0o644)
    place.write("secret", "south-password")
    place.change(SOCKET_URL, 'url = "postgresql://raypost:hunter2@db.example/raypost"')
    place.change('# host = "0.0.0.0" ', 'host = "0.0.0.0" # ')
    return ["secret keys", "relay-password", "try first", "holds a password", "not protected by TLS", "without TLS"]


def test_everything_is_said_at_once(place) -> None:
    words = spoil(place)
    with pytest.raises(UnsafeSettingsError) as refused:
        refuse_unsafe(place.file, load(place.file))
    assert refused.value.exit_code == 1 and refused.value.what.startswith("6 things make it unsafe")
    assert all(word in refused.value.what for word in words)
    assert refused.value.what.count("→") == 6 and "hunter2" not in refused.value.what


def test_serve_refuses_and_check_shows_it(place) -> None:
    words = spoil(place)
    done = CliRunner().invoke(app, ["serve", "-c", str(place.file)])
    assert done.exit_code == 1 and all(word in done.stderr for word in words)
    done = CliRunner().invoke(app, ["serve", "--json", "-c", str(place.file)])
    assert done.exit_code == 1 and json.loads(done.stdout)["error"]["code"] == "RP-004"
    place.change("postgresql://raypost:hunter2@db.example", "postgresql://raypost@127.0.0.1:1")
    done = CliRunner().invoke(app, ["check", "--json", "-c", str(place.file)])
    rows = [one for one in json.loads(done.stdout)["findings"] if one["name"] == "safe to start"]
    assert done.exit_code == 1 and len(rows) == 4 and all(one["do"] and one["code"] == "RP-004" for one in rows)


def test_nobody_gets_past_by_starting_the_supervisor(place) -> None:
    place.mode("relay-password", 0o644)
    done = subprocess.run(
        [sys.executable, "-m", "raypost.node.supervisor", str(place.file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "RP-004" in done.stderr and "chmod 600" in done.stderr


def test_a_site_that_was_made_is_safe_whatever_the_umask(tmp_path, server) -> None:
    create_database(server.url(), f"safe_{os.getpid()}")
    before = os.umask(0)
    try:
        file, _ = make_site(
            tmp_path / "site",
            Template(
                "worms",
                "Worms",
                "WORMS",
                "worms@raypost.test",
                database_lines=(f'url = "{server.url(f"safe_{os.getpid()}")}"',),
            ),
        )
        assert unsafe(file, load(file)) == []
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mode", "is_refused"), [(0o640, False), (0o440, False), (0o660, True), (0o644, True)])
def test_a_password_that_root_gives_to_the_service_is_read_by_its_group(place, monkeypatch, mode, is_refused) -> None:
    monkeypatch.setattr("raypost.node.start_checks.os.geteuid", lambda: 54_321)
    place.mode("relay-password", mode)
    assert any("relay-password" in one.what for one in place.found()) is is_refused
