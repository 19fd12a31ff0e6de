"""A real relay for tests: Postfix and Dovecot with exactly the configuration of docs/how-to/relay, on free ports.

Not a test; loaded through fixtures. It needs root (Postfix and Dovecot change users) and these packages:
postfix dovecot-core dovecot-imapd dovecot-lmtpd.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from datetime import UTC, datetime

from raypost.lab.free_port import free_port
from raypost.relay.certificates import make_test_authority

CONFIGURATION = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "relay"
BINARIES = (
    "/usr/sbin/postfix",
    "/usr/sbin/dovecot",
    "/usr/bin/doveadm",
    "/usr/lib/dovecot/lmtp",
    "/usr/lib/dovecot/imap",
)
APT = (
    'echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections && '
    "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
    "postfix dovecot-core dovecot-imapd dovecot-lmtpd"
)
VMAIL_ID = 5000
PORTS_OPEN_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 20.0
PORT_NAMES = ("PORT_SUBMISSION_TLS", "PORT_SUBMISSION_STARTTLS", "PORT_IMAP_TLS", "PORT_IMAP_STARTTLS", "PORT_QUOTA")


def open_folder() -> pathlib.Path:
    """Make a folder below /tmp that the users postfix and dovecot can reach; pytest's tmp_path is closed to them."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raypost-relay-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


def missing_binaries() -> list[str]:
    return [one for one in BINARIES if not pathlib.Path(one).exists()]


class RealRelay:
    """Postfix + Dovecot in one folder; a context manager that starts and stops both."""

    def __init__(self, folder: pathlib.Path, domain: str, size_max_bytes: int = 30_000_000) -> None:
        if missing := missing_binaries():
            raise RuntimeError(f"{', '.join(missing)} missing; install with: {APT}")
        if os.geteuid() != 0:
            raise RuntimeError("Postfix and Dovecot need root to start")
        self.folder = folder.resolve()
        self.domain = domain
        self.size_max_bytes = size_max_bytes
        self._sites = self.folder / "sites"
        self._postfix = self.folder / "postfix"
        self._dovecot = self.folder / "dovecot"
        self._ports = {name: free_port() for name in PORT_NAMES}
        self._make_folders()
        self.ca_file, self._certificate, self._secret_key = self.new_certificate(datetime.now(UTC))
        self._render()

    smtp_port = property(lambda self: self._ports["PORT_SUBMISSION_TLS"], doc="Submission, TLS from the first byte.")
    submission_port = property(lambda self: self._ports["PORT_SUBMISSION_STARTTLS"], doc="Submission, STARTTLS.")
    imap_port = property(lambda self: self._ports["PORT_IMAP_TLS"], doc="IMAP, TLS from the first byte.")
    imap_starttls_port = property(lambda self: self._ports["PORT_IMAP_STARTTLS"], doc="IMAP, STARTTLS.")

    def __enter__(self) -> "RealRelay":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def new_certificate(self, now: datetime, valid_days: int = 30) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
        """Replace authority and certificate, both for localhost only; they count from the next start."""
        return make_test_authority(self.folder / "tls", ["localhost"], now, valid_days)

    def add_user(self, address: str, password: str, quota: str = "", scheme: str = "PLAIN") -> None:
        """Add a site as an administrator does, with add-site.sh."""
        subprocess.run(
            [CONFIGURATION / "add-site.sh", self._sites, address, "-", *([quota] if quota else [])],
            input=password + "\n",
            text=True,
            check=True,
            capture_output=True,
            env={**os.environ, "SCHEME": scheme},
        )
        self._reload()
        self._wait_for_dovecot(address)

    def add_address_without_mailbox(self, address: str) -> None:
        """Let Postfix take mail for an address that Dovecot does not know: it bounces after the 250."""
        with (self._sites / "vmailbox").open("a") as table:
            table.write(f"{address} x\n")
        self._reload()

    def start(self) -> None:
        self._run("/usr/sbin/dovecot", "-c", self._dovecot / "dovecot.conf")
        self._run("/usr/sbin/postfix", "-c", self._postfix, "start")
        deadline = time.monotonic() + PORTS_OPEN_TIMEOUT_S
        while not all(_is_open(port) for port in self._ports.values()):
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Postfix or Dovecot does not listen:\n{self.log()[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop both, if they run, clients cut off; what is queued and stored stays for the next start."""
        masters = [pid for pid in self._pids() if pid]
        for pid in masters:
            os.kill(pid, signal.SIGTERM)  # as `postfix stop` and `doveadm stop` do
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(self._pids()):
            if time.monotonic() > deadline:
                raise RuntimeError("Postfix or Dovecot does not stop")
            time.sleep(0.02)
        # Dovecot lets logged-in IMAP clients finish; an outage does not.
        for pid in masters:
            while _group_lives(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                time.sleep(0.02)

    def log(self) -> str:
        return "\n".join(one.read_text(errors="replace") for one in sorted((self.folder / "log").glob("*.log")))

    def _run(self, *command: object) -> None:
        # Into a file: daemons keep a pipe open, and who reads it to its end waits for ever.
        with (self.folder / "log" / "commands.log").open("a") as said:
            done = subprocess.run(
                [str(one) for one in command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{self.log()[-4000:]}")

    def _pids(self) -> tuple[int, int]:
        return (
            _running_pid(self.folder / "run" / "master.pid"),
            _running_pid(self.folder / "queue" / "pid" / "master.pid"),
        )

    def _reload(self) -> None:
        # texthash tables are read when a Postfix process starts.
        if self._pids()[1]:
            self._run("/usr/sbin/postfix", "-c", self._postfix, "reload")

    def _wait_for_dovecot(self, address: str) -> None:
        """Wait until Dovecot sees a new user: it looks at the file's time once a second."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        lookup = ["/usr/bin/doveadm", "-c", str(self._dovecot / "dovecot.conf"), "user", address]
        while self._pids()[0] and subprocess.run(lookup, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Dovecot does not see {address}")
            time.sleep(0.1)

    def _make_folders(self) -> None:
        for name in ("sites", "postfix", "dovecot", "tls", "log", "mail", "queue", "data", "run", "state"):
            (self.folder / name).mkdir(mode=0o755, exist_ok=True)
            (self.folder / name).chmod(0o755)
        shutil.chown(self.folder / "data", "postfix", "postfix")
        os.chown(self.folder / "mail", VMAIL_ID, VMAIL_ID)
        for name in ("vmailbox", "vdomains", "sender_logins", "users"):
            (self._sites / name).touch(mode=0o644)
        (self._sites / "vdomains").write_text(f"{self.domain} x\n")
        shutil.chown(self._sites / "users", "root", "dovecot")
        (self._sites / "users").chmod(0o640)
        for user in ("postfix", "dovecot"):
            reach = subprocess.run(
                ["setpriv", "--reuid", user, "--clear-groups", "test", "-x", self._sites], check=False
            )
            if reach.returncode:
                raise RuntimeError(f"user {user} cannot reach {self.folder}: a folder above it is closed")

    def _render(self) -> None:
        values = {
            "RELAY_HOST": "localhost",
            "DOMAIN": self.domain,
            "CERTIFICATE": self._certificate,
            "SECRET_KEY": self._secret_key,
            "SIZE_MAX_BYTES": self.size_max_bytes,
            "DEFAULT_QUOTA": "4G",
            "LISTEN": "127.0.0.1",
            **self._ports,
            "SITES": self._sites,
            "MAIL": self.folder / "mail",
            "LOG": self.folder / "log",
            "POSTFIX_QUEUE": self.folder / "queue",
            "POSTFIX_DATA": self.folder / "data",
            "DOVECOT_RUN": self.folder / "run",
            "DOVECOT_STATE": self.folder / "state",
        }
        values_file = self.folder / "values"
        values_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        rendered = self.folder / "rendered"
        rendered.mkdir(exist_ok=True)
        subprocess.run([CONFIGURATION / "render.sh", values_file, rendered], check=True, capture_output=True)
        for name, target in (("main.cf", self._postfix), ("master.cf", self._postfix), ("dovecot.conf", self._dovecot)):
            shutil.copy(rendered / name, target / name)
            (target / name).chmod(0o644)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _group_lives(group: int) -> bool:
    for one in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = one.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                return True
    return False


def _running_pid(file: pathlib.Path) -> int:
    try:
        pid = int(file.read_text().strip() or 0)
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else pid  # in a container nobody may collect a dead daemon
